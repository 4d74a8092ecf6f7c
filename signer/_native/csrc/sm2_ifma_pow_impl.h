/*
 * Inversion of eight (or sixteen) elements at once, conversions, and the tests
 * that need the one reduced form of an element.
 */
#ifndef SM2_IFMA_POW_IMPL_H
#define SM2_IFMA_POW_IMPL_H

#include "sm2_ifma_fe_impl.h"

/* Every lane of w elements := the element at p. CT: yes. */
SM2_INLINE void sm2_fw_set1(sm2_fv *z, const uint64_t p[5], int w)
{
    int g;

    for (g = 0; g < w; g++) {
        sm2_fv_set1(&z[g], p);
    }
}

/* z := x^(2^n)*y. In: x, y < 2p, n >= 1. Out: z < 2p. CT: yes. z may alias x, y. */
static void sm2_fw_sqr_n_mul(sm2_fv *z, const sm2_fv *x, int n, const sm2_fv *y, int w)
{
    sm2_fv t[SM2_PAIR];

    sm2_fw_sqr(t, x, w);
    while (--n > 0) {
        sm2_fw_sqr(t, t, w);
    }
    sm2_fw_mul(z, t, y, w);
    sm2_wipe(t, sizeof t);
}

/* z := 1/x; 0 for x = 0. In: x < 2p. Out: z < 2p. CT: yes. The chain is that of sm2_fe_pow_impl.h. */
static void sm2_fw_inv(sm2_fv *z, const sm2_fv *x, int w)
{
    sm2_fv x2[SM2_PAIR], x3[SM2_PAIR], x6[SM2_PAIR], x30[SM2_PAIR], x31[SM2_PAIR], x32[SM2_PAIR];
    sm2_fv t[SM2_PAIR];
    int i;

    sm2_fw_sqr_n_mul(x2, x, 1, x, w);
    sm2_fw_sqr_n_mul(x3, x2, 1, x, w);
    sm2_fw_sqr_n_mul(x6, x3, 3, x3, w);
    sm2_fw_sqr_n_mul(t, x6, 6, x6, w);     /* x12 */
    sm2_fw_sqr_n_mul(t, t, 3, x3, w);      /* x15 */
    sm2_fw_sqr_n_mul(x30, t, 15, t, w);
    sm2_fw_sqr_n_mul(x31, x30, 1, x, w);
    sm2_fw_sqr_n_mul(x32, x31, 1, x, w);
    sm2_fw_sqr_n_mul(t, x31, 33, x32, w);
    for (i = 0; i < 3; i++) {
        sm2_fw_sqr_n_mul(t, t, 32, x32, w);
    }
    sm2_fw_sqr_n_mul(t, t, 64, x32, w);
    sm2_fw_sqr_n_mul(t, t, 30, x30, w);
    sm2_fw_sqr_n_mul(z, t, 2, x, w);
    sm2_wipe(x2, sizeof x2);
    sm2_wipe(x3, sizeof x3);
    sm2_wipe(x6, sizeof x6);
    sm2_wipe(x30, sizeof x30);
    sm2_wipe(x31, sizeof x31);
    sm2_wipe(x32, sizeof x32);
    sm2_wipe(t, sizeof t);
}

/*
 * Row i of inv := 1/(row i of z) for n rows of w elements, SM2_PAIR apart, at
 * the price of one inversion and 3(n-1) multiplications (Montgomery's trick).
 * In: z < 4p and not 0, n >= 1. Out: inv < 2p. CT: yes. inv must not alias z.
 */
static void sm2_fw_inv_many(sm2_fv *inv, const sm2_fv *z, size_t n, int w)
{
    sm2_fv u[SM2_PAIR];
    size_t i;

    sm2_fw_set1(u, sm2_ifma_one, w);
    sm2_fw_mul(inv, z, u, w);
    for (i = 1; i < n; i++) {
        sm2_fw_mul(inv + SM2_PAIR * i, inv + SM2_PAIR * (i - 1), z + SM2_PAIR * i, w);
    }
    sm2_fw_inv(u, inv + SM2_PAIR * (n - 1), w);
    for (i = n - 1; i > 0; i--) {
        sm2_fw_mul(inv + SM2_PAIR * i, u, inv + SM2_PAIR * (i - 1), w);
        sm2_fw_mul(u, u, z + SM2_PAIR * i, w);
    }
    memcpy(inv, u, (size_t)w * sizeof *u);
    sm2_wipe(u, sizeof u);
}

/* z := x, fully reduced. In: x < 2p. Out: z < p. CT: yes. */
SM2_INLINE void sm2_fv_reduce(sm2_fv *z, const sm2_fv *x)
{
    sm2_v carry = sm2_v_set1(0), d[5];
    sm2_lanes below;
    int j;

    for (j = 0; j < 5; j++) {
        d[j] = sm2_v_add(sm2_v_sub(x->l[j], sm2_v_kp(1, j)), carry);
        carry = sm2_v_carry(d[j]);
        d[j] = sm2_v_and(d[j], sm2_v_set1(SM2_MASK52));
    }
    below = sm2_v_test(carry, carry); /* x - p < 0 */
    for (j = 0; j < 5; j++) {
        z->l[j] = sm2_v_select(d[j], x->l[j], below);
    }
}

/* z := the integer that x stands for. In: x < 16p. Out: z < p. CT: yes. */
SM2_INLINE void sm2_fv_from_mont(sm2_fv *z, const sm2_fv *x)
{
    sm2_v w[10];
    int j;

    for (j = 0; j < 5; j++) {
        w[j] = x->l[j];
        w[j + 5] = sm2_v_set1(0);
    }
    sm2_fv_redc(z, w); /* <= p */
    sm2_fv_reduce(z, z);
}

/* The lanes in which x is 0 mod p. In: x < 16p. CT: yes. */
SM2_INLINE sm2_lanes sm2_fv_is_zero(const sm2_fv *x)
{
    sm2_fv t;
    sm2_v any;

    sm2_fv_from_mont(&t, x);
    any = sm2_v_or(sm2_v_or(sm2_v_or(t.l[0], t.l[1]), sm2_v_or(t.l[2], t.l[3])), t.l[4]);
    return (sm2_lanes)~sm2_v_test(any, any);
}

/* z := x in the lanes of m, unchanged in the others. CT: yes. */
SM2_INLINE void sm2_fv_cmov(sm2_fv *z, const sm2_fv *x, sm2_lanes m)
{
    int j;

    for (j = 0; j < 5; j++) {
        z->l[j] = sm2_v_select(z->l[j], x->l[j], m);
    }
}

/* z := 2p-z in the lanes of m, unchanged in the others. In: z < 2p. Out: z <= 2p. CT: yes. */
SM2_INLINE void sm2_fv_cneg(sm2_fv *z, sm2_lanes m)
{
    sm2_v t[5];
    int j;

    for (j = 0; j < 5; j++) {
        t[j] = sm2_v_sub(sm2_v_kp(2, j), z->l[j]);
        t[j] = sm2_v_select(z->l[j], t[j], m);
    }
    sm2_fv_carry(z, t);
}

/* z := the five limbs of the 256-bit integers whose four words are w[0..3]. CT: yes. */
SM2_INLINE void sm2_fv_unpack(sm2_fv *z, const sm2_v w[4])
{
    const sm2_v mask = sm2_v_set1(SM2_MASK52);
    int j;

    z->l[0] = sm2_v_and(w[0], mask);
    for (j = 1; j < 4; j++) {
        z->l[j] = sm2_v_or(sm2_v_shr(w[j - 1], (unsigned)(64 - 12 * j)),
                           sm2_v_shl(w[j], (unsigned)(12 * j)));
        z->l[j] = sm2_v_and(z->l[j], mask);
    }
    z->l[4] = sm2_v_shr(w[3], 16);
}

/* w[0..3] := the words of x, an integer < 2^256. CT: yes. */
SM2_INLINE void sm2_fv_pack(sm2_v w[4], const sm2_fv *x)
{
    int j;

    for (j = 0; j < 4; j++) {
        w[j] = sm2_v_or(sm2_v_shr(x->l[j], (unsigned)(12 * j)),
                        sm2_v_shl(x->l[j + 1], (unsigned)(52 - 12 * j)));
    }
}

/* z := the Montgomery form of eight integers < p given by their words. Out: z < 2p. CT: yes. */
SM2_INLINE void sm2_fv_to_mont(sm2_fv *z, const sm2_v w[4])
{
    sm2_fv rr;

    sm2_fv_unpack(z, w);
    sm2_fv_set1(&rr, sm2_ifma_rr);
    sm2_fv_mul_one(z, z, &rr);
}

#endif
