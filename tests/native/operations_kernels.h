/* The kernels of a backend against double-and-add. */
#ifndef OPERATIONS_KERNELS_H
#define OPERATIONS_KERNELS_H

#include "operations.h"

static void test_multiples(const sm2_backend *b)
{
    static sm2_u256 k[1000];
    static sm2_point want[1000], wantq[1000];
    sm2_point got[SM2_LANES_MAX], q;
    const sm2_point *lane[SM2_LANES_MAX];
    sm2_u256 dq = {{0x1234567, 89, 0xABCDEF, 0x13579}};
    size_t n = scalars(k), take;

    CHECK(slow_multiply(&q, &dq, &base));
    for (size_t i = 0; i < n; i++) {
        CHECK(slow_multiply(&want[i], &k[i], &base));
        CHECK(slow_multiply(&wantq[i], &k[i], &q));
    }
    for (size_t size = 1; size <= SM2_LANES_MAX; size = next_size(size)) {
        for (size_t i = 0; i < n; i += take) {
            take = n - i < size ? n - i : size;
            b->mulgen_many(got, k + i, take);
            for (size_t j = 0; j < take; j++) {
                CHECK(same_point(&got[j], &want[i + j]));
                lane[j] = &q;
            }
            if (size % 13 == 0 || size == 2 || size == SM2_LANES_MAX) {
                b->mul_many(got, k + i, lane, take);
                for (size_t j = 0; j < take; j++) {
                    CHECK(same_point(&got[j], &wantq[i + j]));
                }
            }
        }
    }
}

/* s*G + t*Q for Q = d*G: generic, doubling (s = t*d), infinity (s = -t*d). */
static void test_sums(const sm2_backend *b)
{
    static sm2_u256 s[SM2_LANES_MAX], t[SM2_LANES_MAX], x[SM2_LANES_MAX], k[1000];
    static sm2_point q[SM2_LANES_MAX];
    const sm2_point *lane[SM2_LANES_MAX];
    uint8_t finite[SM2_LANES_MAX];
    size_t n = scalars(k), take;

    for (size_t size = 1; size <= SM2_LANES_MAX; size = quick ? 16 * size - 4 : next_size(size)) {
        for (size_t i = 0; i < n; i += take) {
            take = n - i < size ? n - i : size;
            for (size_t j = 0; j < take; j++) {
                sm2_u256 d = k[(i + 31 * j + 7 * size) % n], td;

                CHECK(slow_multiply(&q[j], &d, &base));
                lane[j] = &q[j];
                t[j] = k[i + j];
                scalar_mul(&td, &t[j], &d);
                s[j] = td;
                if (j % 3 == 0) {
                    s[j] = k[(5 * i + j) % n];
                } else if (j % 3 == 1) {
                    (void)sm2_u256_sub(&s[j], &sm2_n, &td);
                }
            }
            b->mul2_many_vartime(x, finite, s, t, lane, take);
            for (size_t j = 0; j < take; j++) {
                sm2_u256 d = k[(i + 31 * j + 7 * size) % n], sum;
                sm2_point want;

                scalar_mul(&sum, &t[j], &d);
                sm2_fn_add(&sum, &sum, &s[j]);
                CHECK(finite[j] == slow_multiply(&want, &sum, &base));
                CHECK(finite[j] ? sm2_u256_equal(&x[j], &want.x) : sm2_u256_is_zero(&x[j]));
                CHECK(j % 3 != 1 || !finite[j]);
            }
        }
        if (size >= 12 && b != sm2_backends[0]) {
            break; /* the slower ones have shown both of their paths */
        }
    }
}

/* The same with keys that were prepared: generic, doubling and infinity in every lane in turn. */
static void test_prepared(const sm2_backend *b)
{
    static sm2_u256 s[SM2_LANES_MAX], t[SM2_LANES_MAX], x[SM2_LANES_MAX], k[1000];
    static sm2_u256 d[5];
    sm2_point q[5], want;
    void *made[5];
    const void *table[SM2_LANES_MAX];
    const sm2_point *lane[SM2_LANES_MAX];
    uint8_t finite[SM2_LANES_MAX];
    size_t n = scalars(k), turn = 0;

    if (b->key_table_size == 0) {
        CHECK(b->key_table_build == NULL && b->mul2_prepared_many_vartime == NULL);
        return;
    }
    CHECK(b->key_table_size % 64 == 0);
    for (size_t i = 0; i < 5; i++) { /* 1, n-1, 2^7 and two others */
        d[i] = k[i < 2 ? i : i == 2 ? 140 : n - i];
        CHECK(slow_multiply(&q[i], &d[i], &base));
        made[i] = aligned_alloc(64, b->key_table_size);
        b->key_table_build(made[i], &q[i]);
    }
    for (size_t size = 1; size <= SM2_LANES_MAX; size = next_size(size)) {
        for (size_t odd = 0; odd < size; odd += quick || size > 17 ? 5 : 1, turn++) {
            for (size_t j = 0; j < size; j++) {
                size_t which = (j + turn) % 5;

                lane[j] = &q[which];
                table[j] = made[which];
                t[j] = k[(7 * j + turn) % n];
                scalar_mul(&s[j], &t[j], &d[which]); /* the two halves are equal */
                if (j == odd) {
                    (void)sm2_u256_sub(&s[j], &sm2_n, &s[j]); /* or opposite */
                } else if (j % 3) {
                    s[j] = k[(5 * j + turn) % n];
                }
            }
            b->mul2_prepared_many_vartime(x, finite, s, t, lane, table, size);
            CHECK(finite[odd] == 0 && sm2_u256_is_zero(&x[odd]));
            for (size_t j = 0; j < size; j += quick ? 7 : 13) {
                sm2_u256 sum;

                scalar_mul(&sum, &t[j], &d[(j + turn) % 5]);
                sm2_fn_add(&sum, &sum, &s[j]);
                CHECK(finite[j] == slow_multiply(&want, &sum, &base));
                CHECK(!finite[j] || sm2_u256_equal(&x[j], &want.x));
            }
        }
    }
    for (size_t i = 0; i < 5; i++) {
        free(made[i]);
    }
}

#endif
