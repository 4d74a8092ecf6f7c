/*
 * What sm3_lanes_impl.h asks of vectors, for AVX-512F and AVX-512BW: sixteen
 * lanes, a rotation and any function of three operands in one instruction.
 */
#ifndef SM3_AVX512_IMPL_H
#define SM3_AVX512_IMPL_H

#include "sm3_impl.h"

#define SM3_V_LANES 16
typedef __m512i sm3_v;

#define sm3_v_add(x, y) _mm512_add_epi32(x, y)
#define sm3_v_xor(x, y) _mm512_xor_si512(x, y)
#define sm3_v_xor3(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0x96)
#define sm3_v_maj(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xE8)
#define sm3_v_sel(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xCA)
#define sm3_v_rol(x, n) _mm512_rol_epi32(x, n)
#define sm3_v_all(x) _mm512_set1_epi32((int)(x))
#define sm3_v_p0(x) sm3_v_xor3(x, sm3_v_rol(x, 9), sm3_v_rol(x, 17))
#define sm3_v_p1(x) sm3_v_xor3(x, sm3_v_rol(x, 15), sm3_v_rol(x, 23))

/* The bytes of each word in reverse. CT: yes. */
SM2_INLINE __m512i sm3_v_swap(__m512i x)
{
    return _mm512_shuffle_epi8(
        x, _mm512_set4_epi32(0x0C0D0E0F, 0x08090A0B, 0x04050607, 0x00010203));
}

/* r[i][j] and r[j][i] change places. CT: yes. */
SM2_INLINE void sm3_v_transpose(__m512i r[16])
{
    __m512i t[16];
    int i;

#pragma GCC unroll 8
    for (i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        int k = i % 4 + 8 * (i / 4);

        t[i] = _mm512_shuffle_i32x4(r[k], r[k + 4], 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(r[k], r[k + 4], 0xDD);
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xDD);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xDD);
    }
}

/* w := the sixteen words of the block at p[i] in lane i; p[i] steps over it. CT: yes. */
SM2_INLINE void sm3_v_load(__m512i w[16], const uint8_t **p)
{
    int i;

#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        w[i] = sm3_v_swap(_mm512_loadu_si512(p[i]));
        p[i] += SM3_BLOCK_SIZE;
    }
    sm3_v_transpose(w);
}

/* out[32*i] := the hash in lane i, of both groups. CT: yes. */
SM2_INLINE void sm3_v_digests(uint8_t *out, const __m512i s0[8], const __m512i s1[8])
{
    __m512i r[16];
    int i;

#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        r[i] = sm3_v_swap(s0[i]);
        r[i + 8] = sm3_v_swap(s1[i]);
    }
    sm3_v_transpose(r);
#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        _mm256_storeu_si256((void *)(out + 32 * i), _mm512_castsi512_si256(r[i]));
        _mm256_storeu_si256((void *)(out + 32 * (16 + i)), _mm512_extracti64x4_epi64(r[i], 1));
    }
}

/*
 * tail := the last `rest` bytes, at p, and the padding of a message of n bytes;
 * one block, or two where rest > 55. In: rest < 64. CT: yes (in the contents).
 */
SM2_INLINE void sm3_v_tail(uint8_t tail[2 * SM3_BLOCK_SIZE], const uint8_t *p, size_t rest,
                           uint64_t n)
{
    __mmask64 end = (__mmask64)1 << rest;
    __m512i length = _mm512_maskz_set1_epi64(0x80, (long long)__builtin_bswap64(n << 3));
    __m512i last = _mm512_maskz_loadu_epi8(end - 1, p);

    last = _mm512_or_si512(last, _mm512_maskz_set1_epi8(end, (char)0x80));
    if (rest < SM3_BLOCK_SIZE - 8) {
        last = _mm512_or_si512(last, length);
    }
    _mm512_storeu_si512(tail, last);
    _mm512_storeu_si512(tail + SM3_BLOCK_SIZE, length);
}

#endif
