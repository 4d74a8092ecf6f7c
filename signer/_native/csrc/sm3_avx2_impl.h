/*
 * What sm3_lanes_impl.h asks of vectors, for AVX2: eight lanes. There is no
 * rotation, so one by eight bits (a byte shuffle) stands in for a longer one.
 */
#ifndef SM3_AVX2_IMPL_H
#define SM3_AVX2_IMPL_H

#include "sm3_impl.h"

#define SM3_V_LANES 8
typedef __m256i sm3_v;

#define sm3_v_add(x, y) _mm256_add_epi32(x, y)
#define sm3_v_xor(x, y) _mm256_xor_si256(x, y)
#define sm3_v_rol(x, n) _mm256_or_si256(_mm256_slli_epi32(x, n), _mm256_srli_epi32(x, 32 - (n)))
#define sm3_v_all(x) _mm256_set1_epi32((int)(x))

SM2_INLINE __m256i sm3_v_xor3(__m256i x, __m256i y, __m256i z)
{
    return _mm256_xor_si256(_mm256_xor_si256(x, y), z);
}

SM2_INLINE __m256i sm3_v_maj(__m256i x, __m256i y, __m256i z)
{
    return _mm256_or_si256(_mm256_and_si256(x, y), _mm256_and_si256(_mm256_or_si256(x, y), z));
}

SM2_INLINE __m256i sm3_v_sel(__m256i x, __m256i y, __m256i z)
{
    return _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(y, z), x), z);
}

/* x rotated left by eight. CT: yes. */
SM2_INLINE __m256i sm3_v_rol8(__m256i x)
{
    return _mm256_shuffle_epi8(
        x, _mm256_set_epi32(0x0E0D0C0F, 0x0A09080B, 0x06050407, 0x02010003, 0x0E0D0C0F,
                            0x0A09080B, 0x06050407, 0x02010003));
}

/* x ^ x<<<9 ^ x<<<17. CT: yes. */
SM2_INLINE __m256i sm3_v_p0(__m256i x)
{
    __m256i y = _mm256_xor_si256(x, sm3_v_rol8(x));

    return _mm256_xor_si256(x, sm3_v_rol(y, 9));
}

/* x ^ x<<<15 ^ x<<<23. CT: yes. */
SM2_INLINE __m256i sm3_v_p1(__m256i x)
{
    __m256i y = _mm256_xor_si256(x, sm3_v_rol8(x));

    return _mm256_xor_si256(x, sm3_v_rol(y, 15));
}

/* The bytes of each word in reverse. CT: yes. */
SM2_INLINE __m256i sm3_v_swap(__m256i x)
{
    return _mm256_shuffle_epi8(
        x, _mm256_set_epi32(0x0C0D0E0F, 0x08090A0B, 0x04050607, 0x00010203, 0x0C0D0E0F,
                            0x08090A0B, 0x04050607, 0x00010203));
}

/* r[i][j] and r[j][i] change places. CT: yes. */
SM2_INLINE void sm3_v_transpose(__m256i r[8])
{
    __m256i t[8];
    int i;

#pragma GCC unroll 4
    for (i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        t[i] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        r[i] = t[i];
    }
}

/* w := the sixteen words of the block at p[i] in lane i; p[i] steps over it. CT: yes. */
SM2_INLINE void sm3_v_load(__m256i w[16], const uint8_t **p)
{
    int i;

#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        w[i] = sm3_v_swap(_mm256_loadu_si256((const void *)p[i]));
        w[i + 8] = sm3_v_swap(_mm256_loadu_si256((const void *)(p[i] + 32)));
        p[i] += SM3_BLOCK_SIZE;
    }
    sm3_v_transpose(w);
    sm3_v_transpose(w + 8);
}

/* out[32*i] := the hash in lane i, of both groups. CT: yes. */
SM2_INLINE void sm3_v_digests(uint8_t *out, const __m256i s0[8], const __m256i s1[8])
{
    __m256i r[16];
    int i;

#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        r[i] = sm3_v_swap(s0[i]);
        r[i + 8] = sm3_v_swap(s1[i]);
    }
    sm3_v_transpose(r);
    sm3_v_transpose(r + 8);
#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        _mm256_storeu_si256((void *)(out + 32 * i), r[i]);
    }
}

/*
 * tail := the last `rest` bytes, at p, and the padding of a message of n bytes;
 * one block, or two where rest > 55. In: rest < 64. CT: yes (in the contents).
 */
SM2_INLINE void sm3_v_tail(uint8_t tail[2 * SM3_BLOCK_SIZE], const uint8_t *p, size_t rest,
                           uint64_t n)
{
    memset(tail, 0, 2 * SM3_BLOCK_SIZE);
    if (rest > 0) {
        memcpy(tail, p, rest);
    }
    tail[rest] = 0x80;
    sm2_store64_be(tail + (rest < SM3_BLOCK_SIZE - 8 ? 1 : 2) * SM3_BLOCK_SIZE - 8, n << 3);
}

#endif
