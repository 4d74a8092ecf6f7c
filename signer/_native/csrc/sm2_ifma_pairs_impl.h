/*
 * Whether a random linear combination of public keys is a given point: the
 * check of freshly made key pairs (sm2_pairs.c says what it shows).
 *
 * The coefficient of q[i] is the sum over j < 16 of +-2^j, the sign being
 * minus where bit j of w[i] is set. Each of sixteen columns of lanes sums its
 * rows and doubles, bit by bit; the columns are then added together.
 */
#ifndef SM2_IFMA_PAIRS_IMPL_H
#define SM2_IFMA_PAIRS_IMPL_H

#include "sm2_ifma_key_impl.h"

/* a := a+b for one group. As sm2_jv_add_affine, on the curve on which b is affine. CT: yes. 11M+4S */
static void sm2_jv_add_one(sm2_jv *a, const sm2_jv *b)
{
    const sm2_lanes minus[SM2_PAIR] = {0, 0};
    sm2_av to;
    sm2_fv zz;

    sm2_fw_sqr(&zz, b->Z, 1);
    sm2_fw_mul(a->X, a->X, &zz, 1);
    sm2_fw_mul(&zz, &zz, b->Z, 1);
    sm2_fw_mul(a->Y, a->Y, &zz, 1);
    to.x[0] = b->X[0];
    to.y[0] = b->Y[0];
    sm2_jv_add_affine(a, &to, minus, 1);
    sm2_fw_mul(a->Z, a->Z, b->Z, 1);
}

/* Every lane i of z := lane i+n of x, round and round. */
SM2_INLINE void sm2_fv_turn(sm2_fv *z, const sm2_fv *x, int n)
{
    uint64_t at[8] SM2_ALIGNED;
    int i;

    for (i = 0; i < 8; i++) {
        at[i] = (uint64_t)(i + n) % 8;
    }
    for (i = 0; i < 5; i++) {
        z->l[i] = sm2_v_permute2(x->l[i], sm2_v_load(at), x->l[i]);
    }
}

/* The sum of all sixteen lanes of a, in every lane of group 0 of a. CT: yes. */
static void sm2_jv_fold(sm2_jv *a)
{
    sm2_jv b;
    int n;

    b.X[0] = a->X[1];
    b.Y[0] = a->Y[1];
    b.Z[0] = a->Z[1];
    sm2_jv_add_one(a, &b);
    for (n = 4; n > 0; n /= 2) {
        sm2_fv_turn(&b.X[0], &a->X[0], n);
        sm2_fv_turn(&b.Y[0], &a->Y[0], n);
        sm2_fv_turn(&b.Z[0], &a->Z[0], n);
        sm2_jv_add_one(a, &b);
    }
}

/* 1 if a (group 0, lane 0) is the point q, which is finite; 0 if not, and for Z = 0. CT: no, public. */
static int sm2_jv_is_vartime(const sm2_jv *a, const sm2_point *q)
{
    sm2_av b;
    sm2_fv zz, d;

    sm2_av_load(&b, &q, 1, 1);
    sm2_fw_sqr(&zz, a->Z, 1);
    sm2_fw_mul(b.x, b.x, &zz, 1);
    sm2_fw_mul(&zz, &zz, a->Z, 1);
    sm2_fw_mul(b.y, b.y, &zz, 1);
    sm2_fv_sub(&d, &b.x[0], &a->X[0]);
    sm2_fv_sub(&zz, &b.y[0], &a->Y[0]);
    return (sm2_fv_is_zero(&d) & sm2_fv_is_zero(&zz) & ~sm2_fv_is_zero(&a->Z[0]) & 1) != 0;
}

/* minus[i][g] := the lanes of row i in which bit j of w is set. */
static void sm2_ifma_signs(sm2_lanes (*minus)[SM2_PAIR], const uint16_t *w, size_t n, int j)
{
    size_t i;

    memset(minus, 0, SM2_IFMA_ROWS * sizeof *minus);
    for (i = 0; i < n; i++) {
        minus[i / 16][i / 8 % 2] =
            (sm2_lanes)(minus[i / 16][i / 8 % 2] | (w[i] >> j & 1) << (i % 8));
    }
}

/* a += +-p in the lanes that the n points of the row fill. CT: no, public. */
static void sm2_ifma_add_row_vartime(sm2_jv *a, const sm2_av *p, const sm2_lanes *minus, size_t n)
{
    sm2_jv before = *a;
    size_t g;

    sm2_jv_add_affine(a, p, minus, SM2_PAIR);
    for (g = 0; g < SM2_PAIR && n < 8 * SM2_PAIR; g++) {
        unsigned used = n <= 8 * g ? 0 : n - 8 * g >= 8 ? 0xFF : (1U << (n - 8 * g)) - 1;

        sm2_fv_cmov(&a->X[g], &before.X[g], (sm2_lanes)~used);
        sm2_fv_cmov(&a->Y[g], &before.Y[g], (sm2_lanes)~used);
        sm2_fv_cmov(&a->Z[g], &before.Z[g], (sm2_lanes)~used);
    }
}

/* 1 if the combination is `want`. In, Out: see sm2_backend.h. CT: no, public values only. */
static int sm2_ifma_combination_is_vartime(const sm2_point *want, const uint16_t *w,
                                           const sm2_point *q, size_t n)
{
    const sm2_point *lane[SM2_LANES_MAX];
    sm2_lanes minus[SM2_IFMA_ROWS][SM2_PAIR];
    sm2_av p[SM2_IFMA_ROWS];
    sm2_jv a;
    size_t i, take;
    int j;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n < 8 * SM2_PAIR) {
        return 0;
    }
    for (i = 0; i < n; i++) {
        lane[i] = &q[i];
    }
    for (i = 0; (take = sm2_ifma_row(n, i, SM2_PAIR)) > 0; i++) {
        sm2_av_load(&p[i], lane + 16 * i, take, SM2_PAIR);
    }
    memcpy(a.X, p[0].x, sizeof a.X);
    memcpy(a.Y, p[0].y, sizeof a.Y);
    sm2_fw_set1(a.Z, sm2_ifma_one, SM2_PAIR);
    for (j = 15; j >= 0; j--) {
        sm2_ifma_signs(minus, w, n, j);
        if (j == 15) {
            sm2_fv_cneg(&a.Y[0], minus[0][0]);
            sm2_fv_cneg(&a.Y[1], minus[0][1]);
        } else {
            sm2_jv_double(&a, SM2_PAIR);
            sm2_jv_add_affine(&a, &p[0], minus[0], SM2_PAIR);
        }
        for (i = 1; (take = sm2_ifma_row(n, i, SM2_PAIR)) > 0; i++) {
            sm2_ifma_add_row_vartime(&a, &p[i], minus[i], take);
        }
    }
    sm2_jv_fold(&a);
    return sm2_jv_is_vartime(&a, want);
}

#endif
