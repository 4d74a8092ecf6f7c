/*
 * Multiples of points other than the base point: k*q in constant time, and
 * s*G + t*q for verification.
 *
 * Both start from the odd multiples q, 3q, 5q, ..., which are found by adding
 * 2q again and again to a running sum that shares its Z with 2q; each step is
 * then 6M+2S and leaves behind the factor by which Z grew, so one inversion
 * makes the whole table affine.
 */
#ifndef SM2_MUL_IMPL_H
#define SM2_MUL_IMPL_H

#include "sm2_comb_impl.h"

#define SM2_WINDOW 5
#define SM2_WINDOW_COUNT 52    /* 52*5 = 260 bits */
#define SM2_WINDOW_ENTRIES 16
#define SM2_WNAF_WINDOW 5
#define SM2_WNAF_ENTRIES 8     /* q, 3q, ..., 15q */
#define SM2_WNAF_DIGITS 257

/*
 * table[i] := (2i+1)q as (X,Y) with its own Z; ratio[i] := Z_i/Z_(i-1), the
 * first being Z_0 = 2y; *last := Z of the last entry. In: q on the curve,
 * n >= 2. CT: yes.
 */
static void sm2_odd_multiples(sm2_affine *table, sm2_fe *ratio, sm2_fe *last, const sm2_affine *q,
                              int n)
{
    sm2_affine twice, sum;
    sm2_fe b, e, l, s, m, c, d, w1, w2, a1, z;
    int i;

    /* 2q, and q itself, both over Z = 2y */
    sm2_fe_sqr(&b, &q->x);
    sm2_fe_sqr(&e, &q->y);
    sm2_fe_sqr(&l, &e);
    sm2_fe_mul(&s, &q->x, &e);
    sm2_fe_double(&s, &s);
    sm2_fe_double(&s, &s); /* S = 4xy^2 */
    sm2_fe_sub(&b, &b, &sm2_fe_one);
    sm2_fe_triple(&m, &b); /* M = 3x^2-3 */
    sm2_fe_sqr(&twice.x, &m);
    sm2_fe_sub(&twice.x, &twice.x, &s);
    sm2_fe_sub(&twice.x, &twice.x, &s);
    sm2_fe_double(&l, &l);
    sm2_fe_double(&l, &l);
    sm2_fe_double(&l, &l); /* 8y^4 */
    sm2_fe_sub(&twice.y, &s, &twice.x);
    sm2_fe_mul(&twice.y, &twice.y, &m);
    sm2_fe_sub(&twice.y, &twice.y, &l);
    sum.x = s;
    sum.y = l;
    sm2_fe_double(&z, &q->y);
    table[0] = sum;
    ratio[0] = z;
    for (i = 1; i < n; i++) {
        /* sum += twice, and twice moves to the new Z as well */
        sm2_fe_sub(&ratio[i], &twice.x, &sum.x);
        sm2_fe_sqr(&c, &ratio[i]);
        sm2_fe_mul(&w1, &twice.x, &c);
        sm2_fe_mul(&w2, &sum.x, &c);
        sm2_fe_sub(&e, &twice.y, &sum.y);
        sm2_fe_sqr(&d, &e);
        sm2_fe_sub(&a1, &w1, &w2);
        sm2_fe_mul(&a1, &a1, &twice.y);
        sm2_fe_sub(&sum.x, &d, &w1);
        sm2_fe_sub(&sum.x, &sum.x, &w2);
        sm2_fe_sub(&sum.y, &w1, &sum.x);
        sm2_fe_mul(&sum.y, &sum.y, &e);
        sm2_fe_sub(&sum.y, &sum.y, &a1);
        twice.x = w1;
        twice.y = a1;
        sm2_fe_mul(&z, &z, &ratio[i]);
        table[i] = sum;
    }
    *last = z;
}

/* Makes the table affine, given inv = 1/Z of its last entry. CT: yes. */
static void sm2_odd_multiples_finish(sm2_affine *table, const sm2_fe *ratio, const sm2_fe *inv,
                                     int n)
{
    sm2_fe zi = *inv, t;
    int i;

    for (i = n - 1; i >= 0; i--) {
        sm2_fe_sqr(&t, &zi);
        sm2_fe_mul(&table[i].x, &table[i].x, &t);
        sm2_fe_mul(&t, &t, &zi);
        sm2_fe_mul(&table[i].y, &table[i].y, &t);
        sm2_fe_mul(&zi, &zi, &ratio[i]);
    }
}

/* r := digit i of k times q, from the table of odd multiples of q. In: k odd. CT: yes. */
SM2_INLINE void sm2_window_point(sm2_affine *r, const uint64_t (*table)[8], const sm2_u256 *k,
                                 int i)
{
    uint32_t index;
    uint64_t negative;

    sm2_odd_digit(&index, &negative, k, i, SM2_WINDOW, SM2_WINDOW_COUNT);
    sm2_affine_select(r, table, SM2_WINDOW_ENTRIES, index);
    sm2_fe_cneg(&r->y, negative);
}

/*
 * *out := k*q, coordinates as integers < p. The running sum before the last
 * addition is 2^5 times something, so even, and by the argument of
 * sm2_comb_impl.h only that last addition can meet equal points.
 * In: 0 < k < n; q on the curve. CT: yes.
 */
SM2_UNUSED static void sm2_mul_one(sm2_point *out, const sm2_u256 *k, const sm2_point *q)
{
    sm2_affine points[SM2_WINDOW_ENTRIES], p;
    uint64_t table[SM2_WINDOW_ENTRIES][8], negate;
    sm2_fe ratio[SM2_WINDOW_ENTRIES], z;
    sm2_jacobian a;
    sm2_u256 odd;
    int i, j;

    VERIFY_CHECK(sm2_fn_is_valid(k));
    sm2_fe_to_mont(&p.x, &q->x);
    sm2_fe_to_mont(&p.y, &q->y);
    sm2_odd_multiples(points, ratio, &z, &p, SM2_WINDOW_ENTRIES);
    sm2_fe_inv(&z, &z);
    sm2_odd_multiples_finish(points, ratio, &z, SM2_WINDOW_ENTRIES);
    memcpy(table, points, sizeof table);

    negate = sm2_make_odd(&odd, k);
    sm2_window_point(&p, (const uint64_t(*)[8])table, &odd, SM2_WINDOW_COUNT - 1);
    a.X = p.x;
    a.Y = p.y;
    a.Z = sm2_fe_one;
    for (i = SM2_WINDOW_COUNT - 2; i >= 0; i--) {
        for (j = 0; j < SM2_WINDOW; j++) {
            sm2_jacobian_double(&a, &a);
        }
        sm2_window_point(&p, (const uint64_t(*)[8])table, &odd, i);
        if (i > 0) {
            sm2_jacobian_add_affine(&a, &a, &p);
        } else {
            sm2_jacobian_add_affine_or_double(&a, &a, &p);
        }
    }
    sm2_fe_inv(&z, &a.Z);
    sm2_fe_sqr(&p.x, &z);
    sm2_fe_mul(&p.y, &p.x, &z);
    sm2_fe_mul(&a.X, &a.X, &p.x);
    sm2_fe_mul(&a.Y, &a.Y, &p.y);
    sm2_fe_cneg(&a.Y, negate);
    sm2_fe_from_mont(&out->x, &a.X);
    sm2_fe_from_mont(&out->y, &a.Y);
    sm2_wipe(points, sizeof points);
    sm2_wipe(table, sizeof table);
    sm2_wipe(ratio, sizeof ratio);
    sm2_wipe(&p, sizeof p);
    sm2_wipe(&z, sizeof z);
    sm2_wipe(&a, sizeof a);
    sm2_wipe(&odd, sizeof odd);
}

/* out[i] := k[i]*q[i] for i < n. In: see sm2_backend.h. CT: yes. */
SM2_UNUSED static void sm2_mul_many_impl(sm2_point *out, const sm2_u256 *k, const sm2_point *const *q,
                              size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        sm2_mul_one(&out[i], &k[i], q[i]);
    }
}

/*
 * digit[i], i < 257: the width-5 non-adjacent form of k; returns how many
 * digits are in use. Every digit is 0 or odd and between -15 and 15.
 * In: 0 < k < n. CT: no, public k only.
 */
static int sm2_wnaf_vartime(int8_t digit[SM2_WNAF_DIGITS], const sm2_u256 *k)
{
    const int bits = SM2_WNAF_WINDOW;
    uint64_t v[5] = {k->v[0], k->v[1], k->v[2], k->v[3], 0};
    int i = 0, carry = 0, used = 0, word;

    memset(digit, 0, SM2_WNAF_DIGITS);
    while (i < SM2_WNAF_DIGITS) {
        if ((int)((v[i / 64] >> (i % 64)) & 1) == carry) {
            i++;
            continue;
        }
        word = (int)(v[i / 64] >> (i % 64));
        if (i % 64 > 64 - bits && i / 64 < 4) {
            word |= (int)(v[i / 64 + 1] << (64 - i % 64));
        }
        word = (word & ((1 << bits) - 1)) + carry;
        carry = (word >> (bits - 1)) & 1;
        word -= carry << bits;
        digit[i] = (int8_t)word;
        used = i + 1;
        i += bits;
    }
    VERIFY_CHECK(carry == 0);
    return used;
}

/* *r := t*q from the odd multiples of q. In: 0 < t < n. CT: no, public values only. */
static void sm2_mul_wnaf_vartime(sm2_jacobian *r, const sm2_u256 *t, const sm2_affine *table)
{
    int8_t digit[SM2_WNAF_DIGITS];
    sm2_affine p;
    int i = sm2_wnaf_vartime(digit, t) - 1;

    /* The running sum is m*q with |m| < 2^257; it meets +-digit*q only by chance, but it may. */
    p = table[digit[i] >> 1];
    r->X = p.x;
    r->Y = p.y;
    r->Z = sm2_fe_one;
    VERIFY_CHECK(digit[i] > 0);
    for (i--; i >= 0; i--) {
        sm2_jacobian_double(r, r);
        if (digit[i] != 0) {
            p = table[(digit[i] < 0 ? -digit[i] : digit[i]) >> 1];
            if (digit[i] < 0) {
                sm2_fe_neg(&p.y, &p.y);
            }
            sm2_jacobian_add_affine_vartime(r, r, &p);
        }
    }
}

/* sum[i] := s[i]*G for i < n. In: 0 < s[i] < n. CT: no, public values only. */
static void sm2_mulgen_affine_vartime(sm2_comb_scratch *w, const sm2_u256 *s, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        w->negate[i] = sm2_make_odd(&w->k[i], &s[i]);
    }
    if (n < SM2_COMB_BATCH_MIN) {
        sm2_comb_each(w, n);
    } else {
        sm2_comb_batch(w, n, 1);
    }
    for (i = 0; i < n; i++) {
        sm2_fe_cneg(&w->sum[i].y, w->negate[i]);
    }
}

typedef struct {
    sm2_comb_scratch g;
    sm2_affine table[SM2_LANES_MAX][SM2_WNAF_ENTRIES];
    sm2_fe ratio[SM2_LANES_MAX][SM2_WNAF_ENTRIES];
    sm2_fe z[SM2_LANES_MAX];
    sm2_fe inv[SM2_LANES_MAX];
    sm2_jacobian r[SM2_LANES_MAX];
} sm2_mul2_scratch;

/* x[i] := x of s[i]*G + t[i]*q[i]. In, Out: see sm2_backend.h. CT: no, public values only. */
static void sm2_mul2_many_vartime_impl(sm2_u256 *x, uint8_t *finite, const sm2_u256 *s,
                                       const sm2_u256 *t, const sm2_point *const *q, size_t n)
{
    sm2_mul2_scratch w;
    sm2_affine p;
    sm2_fe u;
    size_t i;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n == 0) {
        return;
    }
    sm2_mulgen_affine_vartime(&w.g, s, n);
    for (i = 0; i < n; i++) {
        sm2_fe_to_mont(&p.x, &q[i]->x);
        sm2_fe_to_mont(&p.y, &q[i]->y);
        sm2_odd_multiples(w.table[i], w.ratio[i], &w.z[i], &p, SM2_WNAF_ENTRIES);
    }
    sm2_fe_inv_many(w.inv, w.z, n);
    for (i = 0; i < n; i++) {
        sm2_odd_multiples_finish(w.table[i], w.ratio[i], &w.inv[i], SM2_WNAF_ENTRIES);
        sm2_mul_wnaf_vartime(&w.r[i], &t[i], w.table[i]);
        sm2_jacobian_add_affine_vartime(&w.r[i], &w.r[i], &w.g.sum[i]);
        finite[i] = (uint8_t)(1 ^ sm2_u256_is_zero(&w.r[i].Z));
        w.z[i] = finite[i] ? w.r[i].Z : sm2_fe_one;
    }
    sm2_fe_inv_many(w.inv, w.z, n);
    for (i = 0; i < n; i++) {
        sm2_fe_sqr(&u, &w.inv[i]);
        sm2_fe_mul(&u, &u, &w.r[i].X);
        sm2_fe_from_mont(&x[i], &u);
    }
}

#endif
