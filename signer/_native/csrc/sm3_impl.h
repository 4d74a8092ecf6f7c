/*
 * The SM3 compression function, to be compiled once per backend.
 */
#ifndef SM3_IMPL_H
#define SM3_IMPL_H

#include "sm2_common.h"
#include "sm3.h"

/* rol(T_j, j) of GB/T 32905 section 4.2, for j = 0..63. */
static const uint32_t sm3_t[64] = {
    0x79CC4519, 0xF3988A32, 0xE7311465, 0xCE6228CB, 0x9CC45197, 0x3988A32F, 0x7311465E, 0xE6228CBC,
    0xCC451979, 0x988A32F3, 0x311465E7, 0x6228CBCE, 0xC451979C, 0x88A32F39, 0x11465E73, 0x228CBCE6,
    0x9D8A7A87, 0x3B14F50F, 0x7629EA1E, 0xEC53D43C, 0xD8A7A879, 0xB14F50F3, 0x629EA1E7, 0xC53D43CE,
    0x8A7A879D, 0x14F50F3B, 0x29EA1E76, 0x53D43CEC, 0xA7A879D8, 0x4F50F3B1, 0x9EA1E762, 0x3D43CEC5,
    0x7A879D8A, 0xF50F3B14, 0xEA1E7629, 0xD43CEC53, 0xA879D8A7, 0x50F3B14F, 0xA1E7629E, 0x43CEC53D,
    0x879D8A7A, 0x0F3B14F5, 0x1E7629EA, 0x3CEC53D4, 0x79D8A7A8, 0xF3B14F50, 0xE7629EA1, 0xCEC53D43,
    0x9D8A7A87, 0x3B14F50F, 0x7629EA1E, 0xEC53D43C, 0xD8A7A879, 0xB14F50F3, 0x629EA1E7, 0xC53D43CE,
    0x8A7A879D, 0x14F50F3B, 0x29EA1E76, 0x53D43CEC, 0xA7A879D8, 0x4F50F3B1, 0x9EA1E762, 0x3D43CEC5,
};

SM2_INLINE uint32_t sm3_rol(uint32_t x, int n)
{
    return (x << n) | (x >> (32 - n));
}

SM2_INLINE uint32_t sm3_load32_be(const uint8_t *p)
{
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}

SM2_INLINE uint32_t sm3_p0(uint32_t x)
{
    return x ^ sm3_rol(x, 9) ^ sm3_rol(x, 17);
}

SM2_INLINE uint32_t sm3_p1(uint32_t x)
{
    return x ^ sm3_rol(x, 15) ^ sm3_rol(x, 23);
}

/* W_(j+16), from the sixteen words before it kept in a ring. CT: yes. */
SM2_INLINE uint32_t sm3_expand(uint32_t w[16], int j)
{
    uint32_t x = w[j & 15] ^ w[(j + 7) & 15] ^ sm3_rol(w[(j + 13) & 15], 15);

    x = sm3_p1(x) ^ sm3_rol(w[(j + 3) & 15], 7) ^ w[(j + 10) & 15];
    w[j & 15] = x;
    return x;
}

/* One round (section 5.3.3), its eight words renamed by the caller instead of moved. CT: yes. */
#define SM3_ROUND(a, b, c, d, e, f, g, h, j, ff, gg, wj, wj4)                    \
    do {                                                                         \
        uint32_t a12_ = sm3_rol(a, 12);                                          \
        uint32_t ss1_ = sm3_rol(a12_ + (e) + sm3_t[j], 7);                       \
        uint32_t tt1_ = (ff) + (d) + (ss1_ ^ a12_) + ((wj) ^ (wj4));             \
        uint32_t tt2_ = (gg) + (h) + ss1_ + (wj);                                \
        (b) = sm3_rol(b, 9);                                                     \
        (d) = tt1_;                                                              \
        (f) = sm3_rol(f, 19);                                                    \
        (h) = sm3_p0(tt2_);                                                      \
    } while (0)

#define SM3_XOR3(x, y, z) ((x) ^ (y) ^ (z))
#define SM3_MAJ(x, y, z) (((x) & (y)) | (((x) | (y)) & (z)))
#define SM3_SEL(x, y, z) ((((y) ^ (z)) & (x)) ^ (z))

/* Word j and word j+4 of the schedule are both needed in round j. */
#define SM3_STEP(a, b, c, d, e, f, g, h, j, FF, GG)                              \
    do {                                                                         \
        uint32_t wj_ = w[(j) & 15];                                              \
        uint32_t w4_ = (j) < 12 ? w[((j) + 4) & 15] : sm3_expand(w, (j) - 12);   \
        SM3_ROUND(a, b, c, d, e, f, g, h, j, FF(a, b, c), GG(e, f, g), wj_, w4_); \
    } while (0)

#define SM3_FOUR_STEPS(j, FF, GG)                                                \
    do {                                                                         \
        SM3_STEP(a, b, c, d, e, f, g, h, (j), FF, GG);                           \
        SM3_STEP(d, a, b, c, h, e, f, g, (j) + 1, FF, GG);                       \
        SM3_STEP(c, d, a, b, g, h, e, f, (j) + 2, FF, GG);                       \
        SM3_STEP(b, c, d, a, f, g, h, e, (j) + 3, FF, GG);                       \
    } while (0)

/* state := compress of `blocks` blocks at p. CT: yes. */
SM2_INLINE void sm3_compress_impl(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    uint32_t w[16], a, b, c, d, e, f, g, h;
    int i;

    while (blocks-- > 0) {
        for (i = 0; i < 16; i++) {
            w[i] = sm3_load32_be(p + 4 * i);
        }
        a = state[0], b = state[1], c = state[2], d = state[3];
        e = state[4], f = state[5], g = state[6], h = state[7];
        SM3_FOUR_STEPS(0, SM3_XOR3, SM3_XOR3);
        SM3_FOUR_STEPS(4, SM3_XOR3, SM3_XOR3);
        SM3_FOUR_STEPS(8, SM3_XOR3, SM3_XOR3);
        SM3_FOUR_STEPS(12, SM3_XOR3, SM3_XOR3);
        for (i = 16; i < 64; i += 16) {
            SM3_FOUR_STEPS(i, SM3_MAJ, SM3_SEL);
            SM3_FOUR_STEPS(i + 4, SM3_MAJ, SM3_SEL);
            SM3_FOUR_STEPS(i + 8, SM3_MAJ, SM3_SEL);
            SM3_FOUR_STEPS(i + 12, SM3_MAJ, SM3_SEL);
        }
        state[0] ^= a, state[1] ^= b, state[2] ^= c, state[3] ^= d;
        state[4] ^= e, state[5] ^= f, state[6] ^= g, state[7] ^= h;
        p += SM3_BLOCK_SIZE;
    }
    sm2_wipe(w, sizeof w);
}

#define SM3_IV                                                                   \
    {                                                                            \
        0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600,                          \
        0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E                           \
    }

/* out := the hash that `state` is. CT: yes. */
SM2_INLINE void sm3_store_state(uint8_t out[SM3_DIGEST_SIZE], const uint32_t state[8])
{
    int i;

    for (i = 0; i < 8; i++) {
        out[4 * i] = (uint8_t)(state[i] >> 24);
        out[4 * i + 1] = (uint8_t)(state[i] >> 16);
        out[4 * i + 2] = (uint8_t)(state[i] >> 8);
        out[4 * i + 3] = (uint8_t)state[i];
    }
}

/* out := SM3 of n bytes, without a context. CT: yes (in the contents). */
static void sm3_hash_impl(uint8_t out[SM3_DIGEST_SIZE], const uint8_t *data, size_t n)
{
    uint32_t state[8] = SM3_IV;
    uint8_t tail[2 * SM3_BLOCK_SIZE];
    size_t whole = n / SM3_BLOCK_SIZE, rest = n % SM3_BLOCK_SIZE;
    size_t padded = rest < SM3_BLOCK_SIZE - 8 ? SM3_BLOCK_SIZE : 2 * SM3_BLOCK_SIZE;

    sm3_compress_impl(state, data, whole);
    memset(tail, 0, sizeof tail);
    if (rest > 0) {
        memcpy(tail, data + whole * SM3_BLOCK_SIZE, rest);
    }
    tail[rest] = 0x80;
    sm2_store64_be(tail + padded - 8, (uint64_t)n << 3);
    sm3_compress_impl(state, tail, padded / SM3_BLOCK_SIZE);
    sm3_store_state(out, state);
    sm2_wipe(state, sizeof state);
    sm2_wipe(tail, sizeof tail);
}

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. CT: yes (in the contents). */
SM2_UNUSED static void sm3_many_impl(uint8_t *out, const uint8_t *const *msg, const size_t *len,
                                     size_t lanes)
{
    size_t i;

    for (i = 0; i < lanes; i++) {
        sm3_hash_impl(out + SM3_DIGEST_SIZE * i, msg[i], len[i]);
    }
}

#endif
