/*
 * Arithmetic modulo p = 2^256 - 2^224 - 2^96 + 2^64 - 1 (GB/T 32918.5).
 *
 * A field element is held as x*2^256 mod p, always fully reduced: every
 * function takes elements < p and gives elements < p, so equality of values is
 * equality of limbs. p = -1 mod 2^64, hence the Montgomery quotient of each
 * step is the lowest limb itself, with no multiplication to find it.
 */
#ifndef SM2_FP_IMPL_H
#define SM2_FP_IMPL_H

#include "sm2_u256_impl.h"

typedef sm2_u256 sm2_fe;

#define SM2_P0 UINT64_C(0xFFFFFFFFFFFFFFFF)
#define SM2_P1 UINT64_C(0xFFFFFFFF00000000)
#define SM2_P2 UINT64_C(0xFFFFFFFFFFFFFFFF)
#define SM2_P3 UINT64_C(0xFFFFFFFEFFFFFFFF)

SM2_UNUSED static const sm2_u256 sm2_p = {{SM2_P0, SM2_P1, SM2_P2, SM2_P3}};

/* 2^256 mod p: one, in Montgomery form. */
SM2_UNUSED static const sm2_fe sm2_fe_one = {
    {UINT64_C(1), UINT64_C(0xFFFFFFFF), UINT64_C(0), UINT64_C(0x100000000)}};

/* 2^512 mod p: takes an integer into Montgomery form. */
SM2_UNUSED static const sm2_fe sm2_fe_rr = {
    {UINT64_C(0x0000000200000003), UINT64_C(0x00000002FFFFFFFF),
     UINT64_C(0x0000000100000001), UINT64_C(0x0000000400000002)}};

/* The curve's b, in Montgomery form. */
SM2_UNUSED static const sm2_fe sm2_fe_b = {
    {UINT64_C(0x90D230632BC0DD42), UINT64_C(0x71CF379AE9B537AB),
     UINT64_C(0x527981505EA51C3C), UINT64_C(0x240FE188BA20E2C8)}};

#if defined(SM2_FE_X86_64)
#include "sm2_fe_x86_64_impl.h"
#else
/* z := x+y mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fe_add(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t t0, t1, t2, t3, u0, u1, u2, u3, c = 0, b = 0, m;

    t0 = sm2_adc(x->v[0], y->v[0], &c);
    t1 = sm2_adc(x->v[1], y->v[1], &c);
    t2 = sm2_adc(x->v[2], y->v[2], &c);
    t3 = sm2_adc(x->v[3], y->v[3], &c);
    u0 = sm2_sbb(t0, SM2_P0, &b);
    u1 = sm2_sbb(t1, SM2_P1, &b);
    u2 = sm2_sbb(t2, SM2_P2, &b);
    u3 = sm2_sbb(t3, SM2_P3, &b);
    m = sm2_mask(b & (1 ^ c)); /* keep t where t < p */
    z->v[0] = u0 ^ (m & (t0 ^ u0));
    z->v[1] = u1 ^ (m & (t1 ^ u1));
    z->v[2] = u2 ^ (m & (t2 ^ u2));
    z->v[3] = u3 ^ (m & (t3 ^ u3));
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

/* z := x-y mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fe_sub(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t t0, t1, t2, t3, b = 0, c = 0, m;

    t0 = sm2_sbb(x->v[0], y->v[0], &b);
    t1 = sm2_sbb(x->v[1], y->v[1], &b);
    t2 = sm2_sbb(x->v[2], y->v[2], &b);
    t3 = sm2_sbb(x->v[3], y->v[3], &b);
    m = sm2_mask(b);
    z->v[0] = sm2_adc(t0, m, &c);
    z->v[1] = sm2_adc(t1, m & SM2_P1, &c);
    z->v[2] = sm2_adc(t2, m, &c);
    z->v[3] = sm2_adc(t3, m & SM2_P3, &c);
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

#endif

/* z := -x mod p. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_neg(sm2_fe *z, const sm2_fe *x)
{
    static const sm2_fe zero = {{0, 0, 0, 0}};

    sm2_fe_sub(z, &zero, x);
}

/* z := 2x mod p. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_double(sm2_fe *z, const sm2_fe *x)
{
    sm2_fe_add(z, x, x);
}

/* z := x/2 mod p. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_half(sm2_fe *z, const sm2_fe *x)
{
    uint64_t m = sm2_mask(x->v[0] & 1), c = 0, t0, t1, t2, t3;

    t0 = sm2_adc(x->v[0], m, &c);
    t1 = sm2_adc(x->v[1], m & SM2_P1, &c);
    t2 = sm2_adc(x->v[2], m, &c);
    t3 = sm2_adc(x->v[3], m & SM2_P3, &c);
    z->v[0] = (t0 >> 1) | (t1 << 63);
    z->v[1] = (t1 >> 1) | (t2 << 63);
    z->v[2] = (t2 >> 1) | (t3 << 63);
    z->v[3] = (t3 >> 1) | (c << 63);
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

/*
 * (t3,t2,t1,t0) := (t + m*p)/2^64, m = t0 being the quotient: limb 0 of p is
 * 2^64-1, so the lowest limb becomes 0 and carries m exactly.
 * In: t < 2^256. Out: t < 2^256. CT: yes.
 */
#define SM2_FE_REDUCE_STEP(t0, t1, t2, t3)                                       \
    do {                                                                         \
        uint64_t m_ = (t0), h_;                                                  \
        (t0) = sm2_mac(m_, SM2_P1, t1, m_, &h_);                                 \
        (t1) = sm2_mac(m_, SM2_P2, t2, h_, &h_);                                 \
        (t2) = sm2_mac(m_, SM2_P3, t3, h_, &h_);                                 \
        (t3) = h_;                                                               \
    } while (0)

/* z := w/2^256 mod p. In: w < p*2^256. Out: z < p. CT: yes. */
SM2_INLINE void sm2_fe_redc(sm2_fe *z, const uint64_t w[8])
{
    uint64_t t0 = w[0], t1 = w[1], t2 = w[2], t3 = w[3];
    uint64_t u0, u1, u2, u3, b = 0, c = 0, m;

    SM2_FE_REDUCE_STEP(t0, t1, t2, t3);
    SM2_FE_REDUCE_STEP(t0, t1, t2, t3);
    SM2_FE_REDUCE_STEP(t0, t1, t2, t3);
    SM2_FE_REDUCE_STEP(t0, t1, t2, t3);
    /* t <= p here: it is (lower half + multiple of p)/2^256 */
    t0 = sm2_adc(t0, w[4], &c);
    t1 = sm2_adc(t1, w[5], &c);
    t2 = sm2_adc(t2, w[6], &c);
    t3 = sm2_adc(t3, w[7], &c);
    u0 = sm2_sbb(t0, SM2_P0, &b);
    u1 = sm2_sbb(t1, SM2_P1, &b);
    u2 = sm2_sbb(t2, SM2_P2, &b);
    u3 = sm2_sbb(t3, SM2_P3, &b);
    m = sm2_mask(b & (1 ^ c));
    z->v[0] = u0 ^ (m & (t0 ^ u0));
    z->v[1] = u1 ^ (m & (t1 ^ u1));
    z->v[2] = u2 ^ (m & (t2 ^ u2));
    z->v[3] = u3 ^ (m & (t3 ^ u3));
    VERIFY_CHECK(sm2_u256_less(z, &sm2_p));
}

#if !defined(SM2_FE_X86_64)
/* z := x*y/2^256 mod p. In: x,y < p. Out: z < p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fe_mul(sm2_fe *z, const sm2_fe *x, const sm2_fe *y)
{
    uint64_t w[8];

    sm2_u256_mul_wide(w, x, y);
    sm2_fe_redc(z, w);
}

/* z := x*x/2^256 mod p. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_sqr(sm2_fe *z, const sm2_fe *x)
{
    uint64_t w[8];

    sm2_u256_sqr_wide(w, x);
    sm2_fe_redc(z, w);
}
#endif
#endif
