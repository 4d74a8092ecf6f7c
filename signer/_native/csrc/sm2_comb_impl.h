/*
 * Multiples of the base point, by a comb of 43 windows of 6 bits.
 *
 * Recoding. An odd k < 2^256 is a sum of d_i * 2^(6i), i < 43, where every d_i
 * is odd, |d_i| <= 63, and 0 < d_42 <= 15. An even k is replaced by n-k, which
 * is odd, and the result is negated.
 *
 * Why the additions need no case distinction. Partial sums over disjoint sets
 * of windows have different 2-adic valuations (6 times the lowest window), so
 * they are never equal or opposite as integers. Every such sum is < 2^256 < 2n
 * in absolute value, so modulo n they could only coincide when their sum or
 * difference is n, which is odd: one of the two sets must then hold window 0.
 * A sum without window 42 is < 2^252, too small; hence only the addition that
 * joins window 0 and window 42, which below is always the last one, can meet
 * a = b, and it is done by a function that allows it. It cannot meet a = -b:
 * the total is k, and 0 < k < n.
 */
#ifndef SM2_COMB_IMPL_H
#define SM2_COMB_IMPL_H

#include "sm2_fn_impl.h"
#include "sm2_point_impl.h"
#include "sm2_backend.h"
#include "sm2_table.h"

/* Partial sums kept per scalar in a batch, and the windows each one covers. */
#define SM2_COMB_GROUPS 4
#define SM2_COMB_PER_GROUP 11
#define SM2_COMB_SLOTS (SM2_COMB_GROUPS * SM2_LANES_MAX)
/* Below this many scalars, sharing inversions costs more than it saves. */
#define SM2_COMB_BATCH_MIN 12

/* The widest vector that the compiler can map to one register; wider ones gcc takes apart word by word. */
#if defined(__AVX2__)
#define SM2_VEC_BYTES 32
#else
#define SM2_VEC_BYTES 16
#endif
#define SM2_VEC_COUNT (64 / SM2_VEC_BYTES)
typedef uint32_t sm2_vec __attribute__((vector_size(SM2_VEC_BYTES)));

/* r := table[index] of the `entries` points at table. In: index < entries. CT: yes. */
SM2_INLINE void sm2_affine_select(sm2_affine *r, const uint64_t (*table)[8], uint32_t entries,
                                  uint32_t index)
{
    sm2_vec want, at = {0}, sum[SM2_VEC_COUNT] = {{0}}, hit, part;
    uint32_t j;
    int i;

    want = at + (uint32_t)sm2_value_barrier(index);
    for (j = 0; j < entries; j++) {
        hit = (sm2_vec)(at == want);
        for (i = 0; i < SM2_VEC_COUNT; i++) {
            memcpy(&part, (const uint8_t *)table[j] + i * SM2_VEC_BYTES, sizeof part);
            sum[i] |= part & hit;
        }
        at += 1;
    }
    memcpy(&r->x, sum, sizeof r->x);
    memcpy(&r->y, &sum[SM2_VEC_COUNT / 2], sizeof r->y);
}

/*
 * The odd digit of window i of k: *index := (|d|-1)/2, *negative := d < 0, for
 * windows of `bits` bits, `windows` in all. In: k odd. CT: yes.
 */
SM2_INLINE void sm2_odd_digit(uint32_t *index, uint64_t *negative, const sm2_u256 *k, int i,
                              int bits, int windows)
{
    int at = i * bits, limb = at / 64, shift = at % 64;
    uint64_t mask = ((uint64_t)1 << bits) - 1, v = k->v[limb] >> shift;

    if (shift > 63 - bits && limb < 3) {
        v |= k->v[limb + 1] << (64 - shift);
    }
    v |= 1;
    if (i == windows - 1) {
        v |= mask + 1; /* nothing is borrowed from above the top */
    }
    *negative = 1 ^ ((v >> bits) & 1);
    *index = (uint32_t)(((v ^ sm2_mask(*negative)) & mask) >> 1);
}

/* r := d_i * 2^(6i) * G. In: k odd, i < 43. CT: yes. */
SM2_INLINE void sm2_comb_point(sm2_affine *r, const sm2_u256 *k, int i)
{
    uint32_t index;
    uint64_t negative;

    sm2_odd_digit(&index, &negative, k, i, SM2_COMB_BITS, SM2_COMB_WINDOWS);
    sm2_affine_select(r, sm2_comb_table[i], SM2_COMB_ENTRIES, index);
    sm2_fe_cneg(&r->y, negative);
}

/* r := d_i * 2^(6i) * G. In: k odd, i < 43. CT: no, public k only. */
SM2_INLINE void sm2_comb_point_vartime(sm2_affine *r, const sm2_u256 *k, int i)
{
    uint32_t index;
    uint64_t negative;

    sm2_odd_digit(&index, &negative, k, i, SM2_COMB_BITS, SM2_COMB_WINDOWS);
    memcpy(r, sm2_comb_table[i][index], sizeof *r);
    if (negative) {
        sm2_fe_neg(&r->y, &r->y);
    }
}

/* z := k or n-k, whichever is odd; returns 1 if it is n-k. In: 0 < k < n. CT: yes. */
SM2_INLINE uint64_t sm2_make_odd(sm2_u256 *z, const sm2_u256 *k)
{
    uint64_t even = 1 ^ (k->v[0] & 1);

    (void)sm2_u256_sub(z, &sm2_n, k);
    sm2_u256_cmov(z, k, 1 ^ even);
    return even;
}

/* Scratch of a batch: partial sums, the points to be added, inverses under way. */
typedef struct {
    sm2_affine sum[SM2_COMB_SLOTS];
    sm2_affine next[SM2_COMB_SLOTS];
    sm2_fe den[SM2_COMB_SLOTS];
    sm2_fe inv[SM2_COMB_SLOTS];
    sm2_u256 k[SM2_LANES_MAX];
    uint64_t negate[SM2_LANES_MAX];
} sm2_comb_scratch;

/* a := (x, y) of a+b, where lambda is the slope through both. CT: yes. 1M+1S */
SM2_INLINE void sm2_affine_chord(sm2_affine *a, const sm2_fe *bx, const sm2_fe *lambda)
{
    sm2_fe x, t;

    sm2_fe_sqr(&x, lambda);
    sm2_fe_sub(&x, &x, &a->x);
    sm2_fe_sub(&x, &x, bx);
    sm2_fe_sub(&t, &a->x, &x);
    sm2_fe_mul(&t, &t, lambda);
    sm2_fe_sub(&a->y, &t, &a->y);
    a->x = x;
}

/* sum[i] += next[i] for i < n. In: sum[i] != +-next[i], all finite. CT: yes. 5M+1S each */
static void sm2_comb_add_round(sm2_comb_scratch *w, size_t n)
{
    sm2_fe u, t;
    size_t i;

    sm2_fe_sub(&w->den[0], &w->next[0].x, &w->sum[0].x);
    w->inv[0] = w->den[0];
    for (i = 1; i < n; i++) {
        sm2_fe_sub(&w->den[i], &w->next[i].x, &w->sum[i].x);
        sm2_fe_mul(&w->inv[i], &w->inv[i - 1], &w->den[i]);
    }
    VERIFY_CHECK(!sm2_u256_is_zero(&w->inv[n - 1]));
    sm2_fe_inv(&u, &w->inv[n - 1]);
    for (i = n; i-- > 0;) {
        if (i > 0) {
            sm2_fe_mul(&t, &u, &w->inv[i - 1]);
            sm2_fe_mul(&u, &u, &w->den[i]);
        } else {
            t = u;
        }
        sm2_fe_sub(&w->next[i].y, &w->next[i].y, &w->sum[i].y);
        sm2_fe_mul(&t, &t, &w->next[i].y);
        sm2_affine_chord(&w->sum[i], &w->next[i].x, &t);
    }
    sm2_wipe(&u, sizeof u);
    sm2_wipe(&t, sizeof t);
}

/* sum[i] += next[i] for i < n, where equal points are allowed. In: sum[i] != -next[i]. CT: yes. */
static void sm2_comb_last_round(sm2_comb_scratch *w, size_t n)
{
    sm2_fe num, t;
    uint64_t same;
    size_t i;

    for (i = 0; i < n; i++) {
        sm2_affine *a = &w->sum[i], *b = &w->next[i];

        sm2_fe_sub(&w->den[i], &b->x, &a->x);
        sm2_fe_sub(&b->y, &b->y, &a->y);
        same = sm2_u256_is_zero(&w->den[i]);
        sm2_fe_double(&t, &a->y);
        sm2_u256_cmov(&w->den[i], &t, same);
        sm2_fe_sub(&num, &a->x, &sm2_fe_one); /* 3x^2-3 = 3(x-1)(x+1) */
        sm2_fe_add(&t, &a->x, &sm2_fe_one);
        sm2_fe_mul(&num, &num, &t);
        sm2_fe_triple(&t, &num);
        sm2_u256_cmov(&b->y, &t, same);
    }
    sm2_fe_inv_many(w->inv, w->den, n);
    for (i = 0; i < n; i++) {
        sm2_fe_mul(&t, &w->next[i].y, &w->inv[i]);
        sm2_affine_chord(&w->sum[i], &w->next[i].x, &t);
    }
    sm2_wipe(&num, sizeof num);
    sm2_wipe(&t, sizeof t);
}

/*
 * sum[i] := k[i]*G (k[i] having been made odd) for i < n, by additions in
 * affine coordinates that share their inversions. CT: yes if not vartime.
 */
SM2_INLINE void sm2_comb_batch(sm2_comb_scratch *w, size_t n, int vartime)
{
    size_t g, i, used;
    int j, window;

    for (j = 0; j < SM2_COMB_PER_GROUP; j++) {
        used = 0;
        for (g = 0; g < SM2_COMB_GROUPS; g++) {
            window = (int)g * SM2_COMB_PER_GROUP + j;
            if (window >= SM2_COMB_WINDOWS) {
                break;
            }
            for (i = 0; i < n; i++, used++) {
                sm2_affine *r = j == 0 ? &w->sum[used] : &w->next[used];

                if (vartime) {
                    sm2_comb_point_vartime(r, &w->k[i], window);
                } else {
                    sm2_comb_point(r, &w->k[i], window);
                }
            }
        }
        if (j > 0) {
            sm2_comb_add_round(w, used);
        }
    }
    for (used = SM2_COMB_GROUPS / 2 * n; used > n; used /= 2) {
        memcpy(w->next, w->sum + used, used * sizeof w->sum[0]);
        sm2_comb_add_round(w, used);
    }
    memcpy(w->next, w->sum + n, n * sizeof w->sum[0]);
    sm2_comb_last_round(w, n);
}

/* sum[i] := k[i]*G (k[i] having been made odd) for i < n, one scalar at a time. CT: yes. */
static void sm2_comb_each(sm2_comb_scratch *w, size_t n)
{
    sm2_jacobian a;
    sm2_affine q;
    sm2_fe t;
    size_t i;
    int j;

    for (i = 0; i < n; i++) {
        sm2_comb_point(&q, &w->k[i], SM2_COMB_WINDOWS - 1);
        a.X = q.x;
        a.Y = q.y;
        a.Z = sm2_fe_one;
        for (j = SM2_COMB_WINDOWS - 2; j > 0; j--) {
            sm2_comb_point(&q, &w->k[i], j);
            sm2_jacobian_add_affine(&a, &a, &q);
        }
        sm2_comb_point(&q, &w->k[i], 0);
        sm2_jacobian_add_affine_or_double(&a, &a, &q);
        w->sum[i].x = a.X;
        w->sum[i].y = a.Y;
        w->den[i] = a.Z;
    }
    sm2_fe_inv_many(w->inv, w->den, n);
    for (i = 0; i < n; i++) {
        sm2_fe_sqr(&t, &w->inv[i]);
        sm2_fe_mul(&w->sum[i].x, &w->sum[i].x, &t);
        sm2_fe_mul(&t, &t, &w->inv[i]);
        sm2_fe_mul(&w->sum[i].y, &w->sum[i].y, &t);
    }
    sm2_wipe(&a, sizeof a);
    sm2_wipe(&q, sizeof q);
    sm2_wipe(&t, sizeof t);
}

/* Clears what n lanes have used of w. CT: yes. */
static void sm2_comb_wipe(sm2_comb_scratch *w, size_t n)
{
    size_t slots = n < SM2_COMB_BATCH_MIN ? n : n * SM2_COMB_GROUPS;

    sm2_wipe(w->sum, slots * sizeof w->sum[0]);
    sm2_wipe(w->next, slots * sizeof w->next[0]);
    sm2_wipe(w->den, slots * sizeof w->den[0]);
    sm2_wipe(w->inv, slots * sizeof w->inv[0]);
    sm2_wipe(w->k, n * sizeof w->k[0]);
    sm2_wipe(w->negate, n * sizeof w->negate[0]);
}

/*
 * out[i] := k[i]*G for i < n, coordinates as integers < p.
 * In: 0 < k[i] < n (the order), n <= SM2_LANES_MAX. CT: yes.
 */
SM2_UNUSED static void sm2_mulgen_many_impl(sm2_point *out, const sm2_u256 *k, size_t n)
{
    sm2_comb_scratch w;
    size_t i;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n == 0) {
        return;
    }
    for (i = 0; i < n; i++) {
        VERIFY_CHECK(sm2_fn_is_valid(&k[i]));
        w.negate[i] = sm2_make_odd(&w.k[i], &k[i]);
    }
    if (n < SM2_COMB_BATCH_MIN) {
        sm2_comb_each(&w, n);
    } else {
        sm2_comb_batch(&w, n, 0);
    }
    for (i = 0; i < n; i++) {
        sm2_fe_cneg(&w.sum[i].y, w.negate[i]);
        sm2_fe_from_mont(&out[i].x, &w.sum[i].x);
        sm2_fe_from_mont(&out[i].y, &w.sum[i].y);
    }
    sm2_comb_wipe(&w, n);
}

#endif
