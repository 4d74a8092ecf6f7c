/*
 * Inversion and square root modulo p, by fixed chains of squarings.
 *
 * p-2     = FFFFFFFE FFFFFFFF FFFFFFFF FFFFFFFF FFFFFFFF 00000000 FFFFFFFF FFFFFFFD
 * (p+1)/4 = 3FFFFFFF BFFFFFFF FFFFFFFF FFFFFFFF FFFFFFFF C0000000 40000000 00000000
 *
 * Both are long runs of ones, so the chains are built from x_j = x^(2^j-1).
 */
#ifndef SM2_FE_POW_IMPL_H
#define SM2_FE_POW_IMPL_H

#include "sm2_fp_impl.h"

/* z := x^(2^n) in the field. In: x < p, n >= 1. Out: z < p. CT: yes (n is public). z may alias x. */
static void sm2_fe_sqr_n(sm2_fe *z, const sm2_fe *x, int n)
{
    sm2_fe t = *x;

    do {
        sm2_fe_sqr(&t, &t);
    } while (--n > 0);
    *z = t;
}

/* z := x^(2^n)*y in the field. In: x,y < p, n >= 1. Out: z < p. CT: yes. z may alias x, y. */
static void sm2_fe_sqr_n_mul(sm2_fe *z, const sm2_fe *x, int n, const sm2_fe *y)
{
    sm2_fe t;

    sm2_fe_sqr_n(&t, x, n);
    sm2_fe_mul(z, &t, y);
}

/* The powers x^(2^30-1), x^(2^31-1) and x^(2^32-1). In: x < p. CT: yes. Nothing may alias. */
static void sm2_fe_runs(sm2_fe *x30, sm2_fe *x31, sm2_fe *x32, const sm2_fe *x)
{
    sm2_fe x2, x3, x6, x12, x15;

    sm2_fe_sqr_n_mul(&x2, x, 1, x);
    sm2_fe_sqr_n_mul(&x3, &x2, 1, x);
    sm2_fe_sqr_n_mul(&x6, &x3, 3, &x3);
    sm2_fe_sqr_n_mul(&x12, &x6, 6, &x6);
    sm2_fe_sqr_n_mul(&x15, &x12, 3, &x3);
    sm2_fe_sqr_n_mul(x30, &x15, 15, &x15);
    sm2_fe_sqr_n_mul(x31, x30, 1, x);
    sm2_fe_sqr_n_mul(x32, x31, 1, x);
}

/* z := x^(p-2) = 1/x in Montgomery form; 0 for x = 0. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_UNUSED static void sm2_fe_inv(sm2_fe *z, const sm2_fe *x)
{
    sm2_fe x30, x31, x32, t;

    sm2_fe_runs(&x30, &x31, &x32, x);
    sm2_fe_sqr_n_mul(&t, &x31, 33, &x32); /* FFFFFFFE FFFFFFFF, shifted into place below */
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 64, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 30, &x30);
    sm2_fe_sqr_n_mul(z, &t, 2, x);
}

/*
 * z := a square root of x, where there is one; returns 1 if there is, else 0
 * (z is then meaningless). In: x < p. Out: z < p. CT: yes. z must not alias x.
 */
SM2_UNUSED static uint64_t sm2_fe_sqrt(sm2_fe *z, const sm2_fe *x)
{
    sm2_fe x30, x31, x32, t;

    sm2_fe_runs(&x30, &x31, &x32, x);
    /* (p+1)/4 = 2^254 - 2^222 - 2^94 + 2^62 = (2^31-1)*2^223 + (2^128-1)*2^94 + 2^62 */
    sm2_fe_sqr_n_mul(&t, &x31, 33, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, &x32);
    sm2_fe_sqr_n_mul(&t, &t, 32, x);
    sm2_fe_sqr_n(z, &t, 62);
    sm2_fe_sqr(&t, z);
    return sm2_u256_equal(&t, x);
}

/* z := the integer whose Montgomery form is x. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_from_mont(sm2_u256 *z, const sm2_fe *x)
{
    uint64_t w[8] = {x->v[0], x->v[1], x->v[2], x->v[3], 0, 0, 0, 0};

    sm2_fe_redc(z, w);
}

/* z := the Montgomery form of x. In: x < p. Out: z < p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fe_to_mont(sm2_fe *z, const sm2_u256 *x)
{
    sm2_fe_mul(z, x, &sm2_fe_rr);
}

#endif
