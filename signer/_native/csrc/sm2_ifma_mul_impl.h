/*
 * Multiples of points other than the base point: k*q in constant time, and
 * s*G + t*q for verification, sixteen lanes at a time.
 *
 * k*q: an odd k < 2^256 is a sum of 64 odd digits of 4 bits; the multiples
 * q, 3q, ..., 15q of a lane are made affine by one inversion for the whole
 * call. As in sm2_mul_impl.h only the last addition can meet equal points.
 *
 * s*G + t*q: the points of the comb for s are added to t*q one by one. Lanes
 * that meet a case the formulas do not cover, by chance or by intent, end with
 * Z = 0 (as infinity does) and are computed again one at a time by
 * sm2_mul_impl.h, which distinguishes every case.
 */
#ifndef SM2_IFMA_MUL_IMPL_H
#define SM2_IFMA_MUL_IMPL_H

#include "sm2_ifma_gen_impl.h"
#include "sm2_mul_impl.h"

#define SM2_IFMA_MUL_BITS 4
#define SM2_IFMA_MUL_WINDOWS 64
#define SM2_IFMA_MUL_ENTRIES 8
/* Below this many lanes, the lanes that stay empty cost more than vectors save. */
#define SM2_IFMA_MUL_MIN 2

typedef struct {
    sm2_av table[SM2_IFMA_ROWS][SM2_IFMA_MUL_ENTRIES];
    sm2_fv ratio[SM2_IFMA_ROWS][SM2_IFMA_MUL_ENTRIES * SM2_PAIR];
    sm2_ifma_sums s;
} sm2_ifma_mul_scratch;

/* m->table := q, 3q, ..., 15q, affine, of all n lanes. CT: yes. */
static void sm2_ifma_mul_tables(sm2_ifma_mul_scratch *m, const sm2_point *const *q, size_t n, int w)
{
    size_t i, take;
    sm2_av p;

    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_av_load(&p, q + 8 * (size_t)w * i, take, w);
        sm2_av_odd_multiples(m->table[i], m->ratio[i], m->s.z + SM2_PAIR * i, &p,
                             SM2_IFMA_MUL_ENTRIES, w);
    }
    sm2_fw_inv_many(m->s.inv, m->s.z, i, w);
    while (i-- > 0) {
        sm2_av_odd_multiples_finish(m->table[i], m->ratio[i], m->s.inv + SM2_PAIR * i,
                                    SM2_IFMA_MUL_ENTRIES, w);
    }
    sm2_wipe(&p, sizeof p);
}

/* returns entry at[i] of the eight vectors at row, `step` apart, in each lane i. CT: yes. */
SM2_INLINE sm2_v sm2_v_lookup8(const sm2_fv *row, size_t step, int limb, const sm2_lanes bit[3])
{
    sm2_v t[4];
    size_t i;

    SM2_UNROLL
    for (i = 0; i < 4; i++) {
        t[i] = sm2_v_select(row[2 * i * step].l[limb], row[(2 * i + 1) * step].l[limb], bit[0]);
    }
    return sm2_v_select(sm2_v_select(t[0], t[1], bit[1]), sm2_v_select(t[2], t[3], bit[1]), bit[2]);
}

/* b := the entry for digit i of each lane, minus := where the digit is < 0. CT: yes. */
static void sm2_ifma_window_point(sm2_av *b, sm2_lanes *minus, const sm2_av *table,
                                  const sm2_kv *kv, int i, int w)
{
    const size_t step = sizeof *table / sizeof(sm2_fv);
    sm2_lanes bit[3];
    sm2_v at;
    int g, j;

    for (g = 0; g < w; g++) {
        minus[g] = sm2_kv_digit(&at, kv->k[g], i, SM2_IFMA_MUL_BITS, SM2_IFMA_MUL_WINDOWS);
        for (j = 0; j < 3; j++) {
            bit[j] = sm2_v_test(at, sm2_v_set1(UINT64_C(1) << j));
        }
        for (j = 0; j < 5; j++) {
            b->x[g].l[j] = sm2_v_lookup8(&table->x[g], step, j, bit);
            b->y[g].l[j] = sm2_v_lookup8(&table->y[g], step, j, bit);
        }
    }
}

/* a := k*q for the odd scalars of kv, from the table of q. CT: yes. */
static void sm2_ifma_mul(sm2_jv *a, const sm2_kv *kv, const sm2_av *table, int w)
{
    sm2_av b;
    sm2_lanes minus[SM2_PAIR];
    int i, j;

    sm2_ifma_window_point(&b, minus, table, kv, SM2_IFMA_MUL_WINDOWS - 1, w); /* > 0 */
    memcpy(a->X, b.x, sizeof b.x);
    memcpy(a->Y, b.y, sizeof b.y);
    sm2_fw_set1(a->Z, sm2_ifma_one, w);
    for (i = SM2_IFMA_MUL_WINDOWS - 2; i >= 0; i--) {
        for (j = 0; j < SM2_IFMA_MUL_BITS; j++) {
            sm2_jv_double(a, w);
        }
        sm2_ifma_window_point(&b, minus, table, kv, i, w);
        if (i > 0) {
            sm2_jv_add_affine(a, &b, minus, w);
        } else {
            sm2_jv_add_affine_or_double(a, &b, minus, w);
        }
    }
    sm2_wipe(&b, sizeof b);
    sm2_wipe(minus, sizeof minus);
}

/* out[i] := k[i]*q[i] for i < n. In, Out: see sm2_backend.h. CT: yes. */
static void sm2_ifma_mul_many(sm2_point *out, const sm2_u256 *k, const sm2_point *const *q,
                              size_t n)
{
    const int w = n > 8 ? SM2_PAIR : 1;
    sm2_ifma_mul_scratch m;
    sm2_kv kv;
    size_t i, take;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n < SM2_IFMA_MUL_MIN) {
        sm2_mul_many_impl(out, k, q, n);
        return;
    }
    sm2_ifma_mul_tables(&m, q, n, w);
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_kv_load(&kv, k + 8 * (size_t)w * i, take, w);
        memcpy(m.s.negate[i], kv.negate, sizeof kv.negate);
        sm2_ifma_mul(&m.s.sum[i], &kv, m.table[i], w);
    }
    sm2_ifma_finish(out, &m.s, n, w);
    sm2_wipe(&kv, sizeof kv);
    sm2_wipe(&m, sizeof m);
}

/* What a lane's comb is read from: 37 windows of 64 points of eight words. */
typedef const uint64_t (*sm2_ifma_rows_at)[SM2_IFMA_ENTRIES][8];

/* b := |d_i| * 2^(7i) * q from the comb of each lane, minus := its sign. CT: no, public k only. */
static void sm2_ifma_comb_point_vartime(sm2_av *b, sm2_lanes *minus, const sm2_kv *kv,
                                        const sm2_ifma_rows_at *comb, int i, int w)
{
    uint64_t index[8];
    const uint64_t *p[8];
    sm2_v at;
    int g, j;

    for (g = 0; g < w; g++) {
        minus[g] = sm2_kv_digit(&at, kv->k[g], i, SM2_IFMA_BITS, SM2_IFMA_WINDOWS);
        minus[g] = (sm2_lanes)(minus[g] ^ kv->negate[g]);
        sm2_v_store(index, at);
        for (j = 0; j < 8; j++) {
            p[j] = comb[8 * g + j][i][index[j]];
        }
        sm2_fv_load_rows(&b->x[g], &b->y[g], p);
    }
}

/* a := a + k*q, windows `top` down to 0, from the comb of q in each lane. CT: no, public k only. */
static void sm2_ifma_add_comb_vartime(sm2_jv *a, const sm2_kv *kv, const sm2_ifma_rows_at *comb,
                                      int top, int w)
{
    sm2_lanes minus[SM2_PAIR];
    sm2_av b;
    int i;

    for (i = top; i >= 0; i--) {
        sm2_ifma_comb_point_vartime(&b, minus, kv, comb, i, w);
        sm2_jv_add_affine(a, &b, minus, w);
    }
}

/* x[i], finite[i] := the sums' x where Z is not 0, else finite[i] := 0, for i < n. CT: no, public. */
static void sm2_ifma_finish_x_vartime(sm2_u256 *x, uint8_t *finite, sm2_ifma_sums *s, size_t n, int w)
{
    const size_t per = 8 * (size_t)w;
    sm2_point out[8 * SM2_PAIR];
    sm2_fv one;
    sm2_av b;
    size_t i, j, take;
    int g;

    sm2_fv_set1(&one, sm2_ifma_one);
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        for (g = 0; g < w; g++) {
            s->negate[i][g] = sm2_fv_is_zero(&s->sum[i].Z[g]);
            s->z[SM2_PAIR * i + (size_t)g] = s->sum[i].Z[g];
            sm2_fv_cmov(&s->z[SM2_PAIR * i + (size_t)g], &one, s->negate[i][g]);
        }
    }
    sm2_fw_inv_many(s->inv, s->z, i, w);
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_fw_sqr(b.y, s->inv + SM2_PAIR * i, w);
        sm2_fw_mul(b.x, s->sum[i].X, b.y, w);
        sm2_av_store(out, &b, take, w);
        for (j = 0; j < take; j++) {
            x[per * i + j] = out[j].x;
            finite[per * i + j] = (uint8_t)(1 ^ (s->negate[i][j / 8] >> j % 8 & 1));
        }
    }
}

/* As sm2_ifma_mul2_many_vartime, with finite[i] = 0 for lanes to be looked at again as well. */
__attribute__((noinline)) static void sm2_ifma_mul2_try_vartime(sm2_u256 *x, uint8_t *finite,
                                                                const sm2_u256 *s,
                                                                const sm2_u256 *t,
                                                                const sm2_point *const *q, size_t n)
{
    const int w = n > 8 ? SM2_PAIR : 1;
    const size_t per = 8 * (size_t)w;
    sm2_ifma_rows_at comb[8 * SM2_PAIR];
    sm2_ifma_mul_scratch m;
    sm2_kv kv;
    size_t i, take;
    int g;

    for (i = 0; i < 8 * SM2_PAIR; i++) {
        comb[i] = (sm2_ifma_rows_at)sm2_ifma_rows;
    }
    sm2_ifma_mul_tables(&m, q, n, w);
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_kv_load(&kv, t + per * i, take, w);
        sm2_ifma_mul(&m.s.sum[i], &kv, m.table[i], w);
        for (g = 0; g < w; g++) {
            sm2_fv_cneg(&m.s.sum[i].Y[g], kv.negate[g]);
        }
        sm2_kv_load(&kv, s + per * i, take, w);
        sm2_ifma_add_comb_vartime(&m.s.sum[i], &kv, comb, SM2_IFMA_WINDOWS - 1, w);
    }
    sm2_ifma_finish_x_vartime(x, finite, &m.s, n, w);
}

/* x[i] := x of s[i]*G + t[i]*q[i] for i < n. In, Out: see sm2_backend.h. CT: no, public values only. */
static void sm2_ifma_mul2_many_vartime(sm2_u256 *x, uint8_t *finite, const sm2_u256 *s,
                                       const sm2_u256 *t, const sm2_point *const *q, size_t n)
{
    size_t i;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n < SM2_IFMA_MUL_MIN) {
        sm2_mul2_many_vartime_impl(x, finite, s, t, q, n);
        return;
    }
    sm2_ifma_mul2_try_vartime(x, finite, s, t, q, n);
    for (i = 0; i < n; i++) {
        if (!finite[i]) {
            sm2_mul2_many_vartime_impl(x + i, finite + i, s + i, t + i, q + i, 1);
        }
    }
}

#endif
