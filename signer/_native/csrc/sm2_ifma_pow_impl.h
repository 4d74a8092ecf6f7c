/*
 * Inversion of eight (or sixteen) elements at once, conversions, and the tests
 * that need the one reduced form of an element.
 */
#ifndef SM2_IFMA_POW_IMPL_H
#define SM2_IFMA_POW_IMPL_H

#include "sm2_fe_pow_impl.h"
#include "sm2_ifma_fe_impl.h"

/* Every lane of w elements := the element at p. CT: yes. */
SM2_INLINE void sm2_fw_set1(sm2_fv *z, const uint64_t p[5], int w)
{
    int g;

    for (g = 0; g < w; g++) {
        sm2_fv_set1(&z[g], p);
    }
}

/* z := x, reduced once. In: x < 2m, limbs of the modulus m < 2^256 at `modulus`. Out: z < m. CT: yes. */
SM2_INLINE void sm2_fv_reduce(sm2_fv *z, const sm2_fv *x, const uint64_t modulus[5])
{
    sm2_v carry = sm2_v_set1(0), d[5];
    sm2_lanes below;
    int j;

    for (j = 0; j < 5; j++) {
        d[j] = sm2_v_add(sm2_v_sub(x->l[j], sm2_v_set1(modulus[j])), carry);
        carry = sm2_v_carry(d[j]);
        d[j] = sm2_v_and(d[j], sm2_v_set1(SM2_MASK52));
    }
    below = sm2_v_test(carry, carry); /* x - m < 0 */
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
    sm2_fv_reduce(z, z, sm2_ifma_p);
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

static const uint64_t sm2_ifma_rotate[3][8] SM2_ALIGNED = {
    {4, 5, 6, 7, 0, 1, 2, 3}, {2, 3, 4, 5, 6, 7, 0, 1}, {1, 2, 3, 4, 5, 6, 7, 0}};

/* Lane l of z := lane l+4, l+2 or l+1 (step 0, 1, 2) of x, round and round. CT: yes. */
SM2_INLINE void sm2_fv_turn(sm2_fv *z, const sm2_fv *x, int step)
{
    int j;

    for (j = 0; j < 5; j++) {
        z->l[j] = sm2_v_permute2(x->l[j], sm2_v_load(sm2_ifma_rotate[step]), x->l[j]);
    }
}

/* Every lane of z := 1/(lane 0 of x), by the scalar code. In: x < 16p. Out: z < 2p. CT: yes. */
static void sm2_fv_inv_lane(sm2_fv *z, const sm2_fv *x)
{
    uint64_t lanes[8];
    sm2_v w[4];
    sm2_fe e;
    int j;

    sm2_fv_from_mont(z, x);
    sm2_fv_pack(w, z);
    for (j = 0; j < 4; j++) {
        sm2_v_store(lanes, w[j]);
        e.v[j] = lanes[0];
    }
    sm2_fe_to_mont(&e, &e);
    sm2_fe_inv(&e, &e);
    sm2_fe_from_mont(&e, &e);
    for (j = 0; j < 4; j++) {
        w[j] = sm2_v_set1(e.v[j]);
    }
    sm2_fv_to_mont(z, w);
    sm2_wipe(lanes, sizeof lanes);
    sm2_wipe(&e, sizeof e);
}

/*
 * z := 1/x for w groups: one inversion of the product of all lanes, and a few
 * multiplications, for a chain of squarings of vectors has nothing beside it
 * that would hide its latency. In: x < 4p, no lane 0. Out: z < 2p. CT: yes. z may alias x.
 */
static void sm2_fw_inv(sm2_fv *z, const sm2_fv *x, int w)
{
    sm2_fv product = x[0], turned[3], u;
    int i;

    if (w > 1) {
        sm2_fw_mul(&product, &x[0], &x[1], 1);
    }
    for (i = 0; i < 3; i++) {
        sm2_fv_turn(&turned[i], &product, i);
        sm2_fw_mul(&product, &product, &turned[i], 1);
    }
    sm2_fv_inv_lane(&u, &product);
    while (i-- > 0) {
        sm2_fw_mul(&u, &u, &turned[i], 1);
    }
    product = x[0];
    if (w > 1) {
        sm2_fw_mul(&z[0], &u, &x[1], 1);
        sm2_fw_mul(&z[1], &u, &product, 1);
    } else {
        z[0] = u;
    }
    sm2_wipe(&product, sizeof product);
    sm2_wipe(turned, sizeof turned);
    sm2_wipe(&u, sizeof u);
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

#endif
