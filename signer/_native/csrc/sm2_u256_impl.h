/*
 * 256-bit integers: the arithmetic that knows no modulus.
 *
 * Everything is constant-time and inlines into the unit that includes it.
 */
#ifndef SM2_U256_IMPL_H
#define SM2_U256_IMPL_H

#include "sm2_common.h"

/*
 * returns lo(a+b+c) and sets c to its carry. In: c <= 1. CT: yes.
 * (clang makes a carry chain of the first form; gcc needs its builtins on x86-64.)
 */
SM2_INLINE uint64_t sm2_adc(uint64_t a, uint64_t b, uint64_t *c)
{
#if defined(__clang__)
    uint64_t t, r, k = (uint64_t)__builtin_add_overflow(a, b, &t);

    *c = k | (uint64_t)__builtin_add_overflow(t, *c, &r);
    return r;
#elif defined(__x86_64__) && defined(__GNUC__)
    unsigned long long r;

    *c = __builtin_ia32_addcarryx_u64((unsigned char)*c, a, b, &r);
    return r;
#else
    sm2_u128 t = (sm2_u128)a + b + *c;

    *c = (uint64_t)(t >> 64);
    return (uint64_t)t;
#endif
}

/* returns lo(a-b-c) and sets c to its borrow. In: c <= 1. CT: yes. */
SM2_INLINE uint64_t sm2_sbb(uint64_t a, uint64_t b, uint64_t *c)
{
#if defined(__clang__)
    uint64_t t, r, k = (uint64_t)__builtin_sub_overflow(a, b, &t);

    *c = k | (uint64_t)__builtin_sub_overflow(t, *c, &r);
    return r;
#elif defined(__x86_64__) && defined(__GNUC__)
    unsigned long long r;

    *c = __builtin_ia32_sbb_u64((unsigned char)*c, a, b, &r);
    return r;
#else
    sm2_u128 t = (sm2_u128)a - b - *c;

    *c = (uint64_t)(t >> 64) & 1;
    return (uint64_t)t;
#endif
}

/* returns lo(a*b+c+d) and sets *hi to the upper half; it cannot overflow. CT: yes. */
SM2_INLINE uint64_t sm2_mac(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t *hi)
{
    sm2_u128 t = (sm2_u128)a * b + c + d;

    *hi = (uint64_t)(t >> 64);
    return (uint64_t)t;
}

/* z := x+y mod 2^256; returns the carry. CT: yes. z may alias x, y. */
SM2_INLINE uint64_t sm2_u256_add(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    uint64_t c = 0;

    z->v[0] = sm2_adc(x->v[0], y->v[0], &c);
    z->v[1] = sm2_adc(x->v[1], y->v[1], &c);
    z->v[2] = sm2_adc(x->v[2], y->v[2], &c);
    z->v[3] = sm2_adc(x->v[3], y->v[3], &c);
    return c;
}

/* z := x-y mod 2^256; returns the borrow. CT: yes. z may alias x, y. */
SM2_INLINE uint64_t sm2_u256_sub(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    uint64_t c = 0;

    z->v[0] = sm2_sbb(x->v[0], y->v[0], &c);
    z->v[1] = sm2_sbb(x->v[1], y->v[1], &c);
    z->v[2] = sm2_sbb(x->v[2], y->v[2], &c);
    z->v[3] = sm2_sbb(x->v[3], y->v[3], &c);
    return c;
}

/* 1 if x < y, else 0. CT: yes. */
SM2_INLINE uint64_t sm2_u256_less(const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 t;

    return sm2_u256_sub(&t, x, y);
}

/* 1 if x = 0, else 0. CT: yes. */
SM2_INLINE uint64_t sm2_u256_is_zero(const sm2_u256 *x)
{
    return sm2_is_zero64(x->v[0] | x->v[1] | x->v[2] | x->v[3]);
}

/* 1 if x = y, else 0. CT: yes. */
SM2_INLINE uint64_t sm2_u256_equal(const sm2_u256 *x, const sm2_u256 *y)
{
    return sm2_is_zero64((x->v[0] ^ y->v[0]) | (x->v[1] ^ y->v[1]) |
                         (x->v[2] ^ y->v[2]) | (x->v[3] ^ y->v[3]));
}

/* z := x if b = 1; z unchanged if b = 0. CT: yes. */
SM2_INLINE void sm2_u256_cmov(sm2_u256 *z, const sm2_u256 *x, uint64_t b)
{
    uint64_t m = sm2_mask(b);
    int i;

    for (i = 0; i < 4; i++) {
        z->v[i] ^= m & (z->v[i] ^ x->v[i]);
    }
}

/* z := the 32 bytes at p, most significant first. CT: yes. */
SM2_INLINE void sm2_u256_load(sm2_u256 *z, const uint8_t p[32])
{
    z->v[3] = sm2_load64_be(p);
    z->v[2] = sm2_load64_be(p + 8);
    z->v[1] = sm2_load64_be(p + 16);
    z->v[0] = sm2_load64_be(p + 24);
}

/* The 32 bytes at p := x, most significant first. CT: yes. */
SM2_INLINE void sm2_u256_store(uint8_t p[32], const sm2_u256 *x)
{
    sm2_store64_be(p, x->v[3]);
    sm2_store64_be(p + 8, x->v[2]);
    sm2_store64_be(p + 16, x->v[1]);
    sm2_store64_be(p + 24, x->v[0]);
}

/* z := x mod m for a modulus with 2^255 < m. In: x < 2m. Out: z < m. CT: yes. z may alias x. */
SM2_INLINE void sm2_u256_reduce_once(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *m)
{
    sm2_u256 t;
    uint64_t keep = sm2_u256_sub(&t, x, m);

    *z = *x;
    sm2_u256_cmov(z, &t, 1 ^ keep);
}

/* z := x*y, all eight limbs. CT: yes. z must not alias x or y. */
SM2_INLINE void sm2_u256_mul_wide(uint64_t z[8], const sm2_u256 *x, const sm2_u256 *y)
{
    uint64_t h;
    int i;

    z[0] = sm2_mac(x->v[0], y->v[0], 0, 0, &h);
    z[1] = sm2_mac(x->v[1], y->v[0], h, 0, &h);
    z[2] = sm2_mac(x->v[2], y->v[0], h, 0, &h);
    z[3] = sm2_mac(x->v[3], y->v[0], h, 0, &z[4]);
    for (i = 1; i < 4; i++) {
        z[i] = sm2_mac(x->v[0], y->v[i], z[i], 0, &h);
        z[i + 1] = sm2_mac(x->v[1], y->v[i], z[i + 1], h, &h);
        z[i + 2] = sm2_mac(x->v[2], y->v[i], z[i + 2], h, &h);
        z[i + 3] = sm2_mac(x->v[3], y->v[i], z[i + 3], h, &z[i + 4]);
    }
}

/* z := x*x, all eight limbs. CT: yes. z must not alias x. */
SM2_INLINE void sm2_u256_sqr_wide(uint64_t z[8], const sm2_u256 *x)
{
    uint64_t a = x->v[0], b = x->v[1], c = x->v[2], d = x->v[3];
    uint64_t h, k = 0, lo, hi;
    sm2_u128 t;

    /* the six cross products */
    z[1] = sm2_mac(a, b, 0, 0, &h);
    z[2] = sm2_mac(a, c, h, 0, &h);
    z[3] = sm2_mac(a, d, h, 0, &z[4]);
    z[3] = sm2_mac(b, c, z[3], 0, &h);
    z[4] = sm2_mac(b, d, z[4], h, &z[5]);
    z[5] = sm2_mac(c, d, z[5], 0, &z[6]);
    /* doubled */
    z[7] = z[6] >> 63;
    z[6] = (z[6] << 1) | (z[5] >> 63);
    z[5] = (z[5] << 1) | (z[4] >> 63);
    z[4] = (z[4] << 1) | (z[3] >> 63);
    z[3] = (z[3] << 1) | (z[2] >> 63);
    z[2] = (z[2] << 1) | (z[1] >> 63);
    z[1] = z[1] << 1;
    /* the four squares */
    z[0] = sm2_mac(a, a, 0, 0, &hi);
    z[1] = sm2_adc(z[1], hi, &k);
    t = (sm2_u128)b * b;
    lo = (uint64_t)t, hi = (uint64_t)(t >> 64);
    z[2] = sm2_adc(z[2], lo, &k);
    z[3] = sm2_adc(z[3], hi, &k);
    t = (sm2_u128)c * c;
    lo = (uint64_t)t, hi = (uint64_t)(t >> 64);
    z[4] = sm2_adc(z[4], lo, &k);
    z[5] = sm2_adc(z[5], hi, &k);
    t = (sm2_u128)d * d;
    lo = (uint64_t)t, hi = (uint64_t)(t >> 64);
    z[6] = sm2_adc(z[6], lo, &k);
    z[7] = sm2_adc(z[7], hi, &k);
    VERIFY_CHECK(k == 0);
}

#endif
