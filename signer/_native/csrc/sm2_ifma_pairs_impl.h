/*
 * Sixteen random combinations of public keys, and of their private keys: the
 * check of freshly made pairs (sm2_pairs.c says what it shows).
 *
 * Key 16r + 2l + h is lane l of row 2r + h. All lanes of a row share their
 * coefficients: one for each of two groups, whose sums are kept apart, as
 * those of the eight lanes are. A coefficient is a sum of terms +-2^((m+1)k + p),
 * one for each window k of m positions p; so every row is added to one bucket
 * a window, and a bucket is then doubled as often as its position says
 * (Pippenger's method). The rows of a bucket are added in affine coordinates,
 * two and two in all buckets of a few windows, then what remains, until each
 * bucket holds one point; such a round has one inversion.
 */
#ifndef SM2_IFMA_PAIRS_IMPL_H
#define SM2_IFMA_PAIRS_IMPL_H

#include "sm2_ifma_key_impl.h"
#include "sm2_ifma_order_impl.h"

#define SM2_IFMA_SUMS 256    /* additions of a round at most */
#define SM2_IFMA_BUCKETS 256 /* buckets that are filled together at most */
#define SM2_IFMA_MINUS 0x8000U

/* One group of affine points; x, y < 2p. */
typedef struct {
    sm2_fv x, y;
} sm2_ifma_group;

/*
 * A bucket holds `count` items from item[start] on: the number of a point,
 * with SM2_IFMA_MINUS where its opposite is meant. Points from `rows` on are sums.
 */
typedef struct {
    sm2_ifma_group point[SM2_KEYS_MAX / 8 + SM2_IFMA_SUMS];
    sm2_fv product[SM2_IFMA_SUMS + 1];
    uint16_t item[2 * SM2_IFMA_SUMS], sum[SM2_IFMA_SUMS][3];
    uint16_t start[SM2_IFMA_BUCKETS], count[SM2_IFMA_BUCKETS];
    size_t rows, used;
} sm2_ifma_pool;

/* *position, returns minus: what the random word of row r and window k of a group stands for. */
SM2_INLINE unsigned sm2_ifma_term(unsigned *position, const uint16_t *w, const sm2_pairs_shape *shape,
                                  size_t r, unsigned group, unsigned k)
{
    unsigned word = w[shape->windows * (2 * r + group) + k];

    *position = (word >> 1) * shape->positions >> 15;
    return word & 1;
}

/* Sorts the rows into the buckets of windows k..k+n-1, of both groups, m positions each. CT: no, public. */
static void sm2_ifma_sort_vartime(sm2_ifma_pool *pool, const uint16_t *w, const sm2_pairs_shape *shape,
                                  unsigned k, unsigned n)
{
    const unsigned m = shape->positions;
    unsigned i, at, minus, bucket;
    size_t r, next = 0;

    memset(pool->count, 0, sizeof pool->count);
    for (i = 0; i < 2 * n; i++) {
        for (r = 0; r < pool->rows; r++) {
            (void)sm2_ifma_term(&at, w, shape, r, i % 2, k + i / 2);
            pool->count[m * i + at]++;
        }
        for (at = 0; at < m; at++) {
            pool->start[m * i + at] = (uint16_t)next;
            next += pool->count[m * i + at];
            pool->count[m * i + at] = 0;
        }
        for (r = 0; r < pool->rows; r++) {
            minus = sm2_ifma_term(&at, w, shape, r, i % 2, k + i / 2);
            bucket = m * i + at;
            pool->item[pool->start[bucket] + pool->count[bucket]++] =
                (uint16_t)(r | (minus ? SM2_IFMA_MINUS : 0));
        }
    }
    pool->used = pool->rows;
}

/* pool->sum := the two items and the point of every addition of a round; returns how many. CT: no, public. */
static size_t sm2_ifma_round_vartime(sm2_ifma_pool *pool, size_t buckets)
{
    size_t b, n = 0;
    unsigned i;

    for (b = 0; b < buckets; b++) {
        uint16_t *item = pool->item + pool->start[b];
        unsigned count = pool->count[b];

        for (i = 0; i + 1 < count; i += 2, n++) {
            uint16_t to = item[i] >= pool->rows && item[i] < SM2_IFMA_MINUS ? item[i] : item[i + 1];

            if (to < pool->rows || to >= SM2_IFMA_MINUS) { /* neither is a sum */
                to = (uint16_t)pool->used++;
            }
            pool->sum[n][0] = item[i];
            pool->sum[n][1] = item[i + 1];
            pool->sum[n][2] = to;
            item[i / 2] = to;
        }
        if (count % 2 == 1) {
            item[i / 2] = item[i];
        }
        pool->count[b] = (uint16_t)((count + 1) / 2);
    }
    return n;
}

/* The point of an item, its sign applied. */
SM2_INLINE void sm2_ifma_item(sm2_fv *x, sm2_fv *y, const sm2_ifma_pool *pool, unsigned item)
{
    const sm2_ifma_group *p = &pool->point[item & ~SM2_IFMA_MINUS];

    *x = p->x;
    *y = p->y;
    if (item & SM2_IFMA_MINUS) {
        sm2_fv_cneg(y, 0xFF);
    }
}

/* a, b := the points of additions t and t+1, d := x_b - x_a; the last one twice where n is odd. */
static void sm2_ifma_operands_vartime(sm2_av *a, sm2_av *b, sm2_fv *d, const sm2_ifma_pool *pool,
                                      size_t t, size_t n)
{
    int g;

    for (g = 0; g < SM2_PAIR; g++) {
        const uint16_t *sum = pool->sum[t + (size_t)g < n ? t + (size_t)g : t];

        sm2_ifma_item(&a->x[g], &a->y[g], pool, sum[0]);
        sm2_ifma_item(&b->x[g], &b->y[g], pool, sum[1]);
        sm2_fv_sub(&d[g], &b->x[g], &a->x[g]);
    }
}

/* a := a+b for a pair, given 1/(x_b - x_a). Out: x, y < 2p. CT: yes. 2M+1S */
SM2_INLINE void sm2_av_add(sm2_av *a, const sm2_av *b, const sm2_fv *inv)
{
    sm2_fv slope[SM2_PAIR], x[SM2_PAIR];
    sm2_v t[5];
    int g;

    for (g = 0; g < SM2_PAIR; g++) {
        sm2_fv_sub(&slope[g], &b->y[g], &a->y[g]);
    }
    sm2_fw_mul(slope, slope, inv, SM2_PAIR);
    sm2_fw_sqr(x, slope, SM2_PAIR);
    for (g = 0; g < SM2_PAIR; g++) {
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(x[g].l[j], sm2_v_kp(4, j)),
                                   sm2_v_add(a->x[g].l[j], b->x[g].l[j])));
        sm2_fv_weak(&x[g], t);
        sm2_fv_sub(&a->x[g], &a->x[g], &x[g]);
    }
    sm2_fw_mul(slope, slope, a->x, SM2_PAIR);
    for (g = 0; g < SM2_PAIR; g++) {
        SM2_FV_SUM(t, j, sm2_v_add(sm2_v_sub(slope[g].l[j], a->y[g].l[j]), sm2_v_kp(2, j)));
        sm2_fv_weak(&a->y[g], t);
        a->x[g] = x[g];
    }
}

/* The n additions of a round; 0 if one is of equal or opposite points. CT: no, public values only. */
static int sm2_ifma_add_round_vartime(sm2_ifma_pool *pool, size_t n)
{
    sm2_fv u[SM2_PAIR], d[SM2_PAIR], inv[SM2_PAIR];
    sm2_av a, b;
    size_t t;
    int g;

    sm2_fw_set1(u, sm2_ifma_one, SM2_PAIR);
    for (t = 0; t < n; t += SM2_PAIR) {
        sm2_ifma_operands_vartime(&a, &b, d, pool, t, n);
        memcpy(pool->product + t, u, sizeof u);
        sm2_fw_mul(u, u, d, SM2_PAIR);
    }
    if (sm2_fv_is_zero(&u[0]) | sm2_fv_is_zero(&u[1])) {
        return 0;
    }
    sm2_fw_inv(u, u, SM2_PAIR);
    while (t > 0) {
        t -= SM2_PAIR;
        sm2_ifma_operands_vartime(&a, &b, d, pool, t, n);
        sm2_fw_mul(inv, u, pool->product + t, SM2_PAIR);
        sm2_fw_mul(u, u, d, SM2_PAIR);
        sm2_av_add(&a, &b, inv);
        for (g = 0; g < SM2_PAIR; g++) {
            sm2_ifma_group *to = &pool->point[pool->sum[t + (size_t)g < n ? t + (size_t)g : t][2]];

            to->x = a.x[g];
            to->y = a.y[g];
        }
    }
    return 1;
}

/* sum := 2*sum + the point of bucket[g], where it has one, in group g; `used` says which sums there are. */
static void sm2_ifma_pour_vartime(sm2_jv *sum, int *used, const sm2_ifma_pool *pool,
                                  const size_t *bucket)
{
    const sm2_lanes minus[SM2_PAIR] = {0, 0};
    sm2_jv before;
    sm2_av b;
    int g, full[SM2_PAIR], adds = 0;

    if (used[0] | used[1]) {
        sm2_jv_double(sum, SM2_PAIR);
    }
    for (g = 0; g < SM2_PAIR; g++) {
        full[g] = pool->count[bucket[g]] > 0;
        sm2_ifma_item(&b.x[g], &b.y[g], pool, full[g] ? pool->item[pool->start[bucket[g]]] : 0);
        adds |= full[g] & used[g];
    }
    before = *sum;
    if (adds) {
        sm2_jv_add_affine(sum, &b, minus, SM2_PAIR);
    }
    for (g = 0; g < SM2_PAIR; g++) {
        if (!full[g]) {
            sum->X[g] = before.X[g], sum->Y[g] = before.Y[g], sum->Z[g] = before.Z[g];
        } else if (!used[g]) {
            sum->X[g] = b.x[g], sum->Y[g] = b.y[g];
            sm2_fv_set1(&sum->Z[g], sm2_ifma_one);
            used[g] = 1;
        }
    }
}

/* 1 if lane l of group g of a is want[8g + l], finite, in all lanes. CT: no, public. */
static int sm2_jv_are_vartime(const sm2_jv *a, const sm2_point *want)
{
    const sm2_point *lane[8 * SM2_PAIR];
    sm2_av b;
    sm2_fv zz[SM2_PAIR], d;
    int g, i, ok = 1;

    for (i = 0; i < 8 * SM2_PAIR; i++) {
        lane[i] = &want[i];
    }
    sm2_av_load(&b, lane, 8 * SM2_PAIR, SM2_PAIR);
    sm2_fw_sqr(zz, a->Z, SM2_PAIR);
    sm2_fw_mul(b.x, b.x, zz, SM2_PAIR);
    sm2_fw_mul(zz, zz, a->Z, SM2_PAIR);
    sm2_fw_mul(b.y, b.y, zz, SM2_PAIR);
    for (g = 0; g < SM2_PAIR; g++) {
        sm2_fv_sub(&d, &b.x[g], &a->X[g]);
        ok &= sm2_fv_is_zero(&d) == 0xFF;
        sm2_fv_sub(&d, &b.y[g], &a->Y[g]);
        ok &= sm2_fv_is_zero(&d) == 0xFF && sm2_fv_is_zero(&a->Z[g]) == 0;
    }
    return ok;
}

/* pool->point := the rows of n keys. In: n a multiple of 16. CT: no, public. */
static void sm2_ifma_rows_vartime(sm2_ifma_pool *pool, const sm2_point *const *q, size_t n)
{
    const sm2_point *lane[8 * SM2_PAIR];
    sm2_av p;
    size_t r, i;

    for (r = 0; r < n / 8; r += SM2_PAIR) {
        for (i = 0; i < 16; i++) {
            lane[8 * (i % 2) + i / 2] = q[8 * r + i];
        }
        sm2_av_load(&p, lane, 16, SM2_PAIR);
        for (i = 0; i < SM2_PAIR; i++) {
            pool->point[r + i].x = p.x[i];
            pool->point[r + i].y = p.y[i];
        }
    }
    pool->rows = n / 8;
}

/* 1 if the combinations are `want`. In, Out: see sm2_backend.h. CT: no, public values only. */
static int sm2_ifma_combinations_are_vartime(const sm2_point *want, const uint16_t *w,
                                             const sm2_point *const *q, size_t n)
{
    const sm2_pairs_shape *shape = sm2_pairs_shape_of(n);
    const unsigned m = shape->positions;
    unsigned k, most, take, window, at;
    int used[SM2_PAIR] = {0, 0};
    size_t bucket[SM2_PAIR], sums;
    sm2_ifma_pool pool;
    sm2_jv sum;

    VERIFY_CHECK(n > 0 && n % 16 == 0 && n <= SM2_KEYS_MAX);
    sm2_ifma_rows_vartime(&pool, q, n);
    sum.X[0] = sum.X[1] = sum.Y[0] = sum.Y[1] = pool.point[0].x; /* defined, but not used */
    sm2_fw_set1(sum.Z, sm2_ifma_one, SM2_PAIR);
    for (most = 1; (most + 1) * pool.rows <= SM2_IFMA_SUMS && (most + 1) * 2 * m <= SM2_IFMA_BUCKETS;) {
        most++;
    }
    for (k = shape->windows; k > 0; k -= take) {
        take = k < most ? k : most;
        sm2_ifma_sort_vartime(&pool, w, shape, k - take, take);
        while ((sums = sm2_ifma_round_vartime(&pool, 2 * m * (size_t)take)) > 0) {
            if (!sm2_ifma_add_round_vartime(&pool, sums)) {
                return 0;
            }
        }
        for (window = take; window-- > 0;) {
            if (used[0] | used[1]) { /* the position between windows */
                sm2_jv_double(&sum, SM2_PAIR);
            }
            for (at = m; at-- > 0;) {
                bucket[0] = 2 * m * (size_t)window + at;
                bucket[1] = bucket[0] + m;
                sm2_ifma_pour_vartime(&sum, used, &pool, bucket);
            }
        }
    }
    return sm2_jv_are_vartime(&sum, want);
}

/* *c := the coefficient of row r in a group, mod n. CT: no, public. */
static void sm2_ifma_coefficient_vartime(sm2_u256 *c, const uint16_t *w, const sm2_pairs_shape *shape,
                                         size_t r, unsigned group)
{
    sm2_u256 part[2] = {{{0, 0, 0, 0}}, {{0, 0, 0, 0}}}, bit;
    unsigned k, at, minus;

    for (k = 0; k < shape->windows; k++) { /* no two terms have the same position */
        minus = sm2_ifma_term(&at, w, shape, r, group, k);
        at += (shape->positions + 1U) * k;
        memset(&bit, 0, sizeof bit);
        bit.v[at / 64] = (uint64_t)1 << at % 64;
        (void)sm2_u256_add(&part[minus], &part[minus], &bit);
    }
    sm2_fn_sub(c, &part[0], &part[1]);
}

/* t[8g + l] := the same combinations of d. In, Out: see sm2_backend.h. CT: yes (in d). */
static void sm2_ifma_combine(sm2_u256 *t, const uint16_t *w, const sm2_u256 *d, size_t n)
{
    const sm2_pairs_shape *shape = sm2_pairs_shape_of(n);
    sm2_v sum[SM2_PAIR][10];
    sm2_fv row[SM2_PAIR], c, out[SM2_PAIR];
    sm2_u256 coefficient, spread[16];
    sm2_v words[4];
    size_t r;
    int g, i;

    VERIFY_CHECK(n > 0 && n % 16 == 0 && n <= SM2_KEYS_MAX);
    for (i = 0; i < 10; i++) {
        sum[0][i] = sum[1][i] = sm2_v_set1(0);
    }
    for (r = 0; r < n / 8; r++) {
        if (r % 2 == 0) {
            sm2_nw_load(row, d + 8 * r);
        }
        for (g = 0; g < SM2_PAIR; g++) {
            sm2_ifma_coefficient_vartime(&coefficient, w, shape, r, (unsigned)g);
            for (i = 0; i < 4; i++) {
                words[i] = sm2_v_set1(coefficient.v[i]);
            }
            sm2_fv_unpack(&c, words);
            sm2_nv_add_product(sum[g], &c, &row[r % 2]);
        }
    }
    sm2_fv_set1(&row[0], sm2_ifma_n_rr);
    row[1] = row[0];
    for (g = 0; g < SM2_PAIR; g++) {
        sm2_nv_redc(&out[g], sum[g]); /* < 9n */
    }
    sm2_nw_mul(out, out, row); /* < 2n */
    sm2_nw_store(spread, out);
    for (i = 0; i < 16; i++) {
        t[i] = spread[2 * (i % 8) + i / 8];
    }
    sm2_wipe(sum, sizeof sum);
    sm2_wipe(row, sizeof row);
    sm2_wipe(out, sizeof out);
    sm2_wipe(spread, sizeof spread);
}

#endif
