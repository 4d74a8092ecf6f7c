/* Batches of signatures: a wrong lane spoils nothing but itself. */
#ifndef OPERATIONS_LANES_H
#define OPERATIONS_LANES_H

#include "operations.h"

/* A wrong lane, of every kind, spoils nothing but itself. */
static void test_bad_lanes(void)
{
    static sm2_private storage[150];
    static sm2_private *keys[150];
    static sm2_point q[150];
    static const sm2_point *qs[150];
    static uint8_t digest[32 * 150], good[64 * 150], s[64 * 150], valid[150], want[150];

    for (size_t i = 0; i < 150; i++) {
        keys[i] = &storage[i];
        qs[i] = &q[i];
    }
    CHECK(sm2_generate_many(keys, q, 150) == SM2_OK);
    check_random_bytes(digest, sizeof digest);
    memset(digest, 0xFF, 32); /* e >= n */
    CHECK(sm2_sign_many(good, (const sm2_private *const *)keys, 1, digest, 150) == SM2_OK);
    for (int round = 0; round < 12; round++) {
        memcpy(s, good, sizeof s);
        for (size_t i = 0; i < 150; i++) {
            uint8_t *r = s + 64 * i;
            sm2_u256 a, b;

            want[i] = 0;
            switch (round == 0 ? 99 : round == 1 ? i % 6 : check_random() % 12) {
            case 0:
                memset(r, 0, 32);
                break;
            case 1:
                memset(r + 32, 0, 32);
                break;
            case 2:
                sm2_u256_store(r, &sm2_n);
                break;
            case 3: /* t = r + s = 0 */
                sm2_u256_load(&a, r);
                (void)sm2_u256_sub(&b, &sm2_n, &a);
                sm2_u256_store(r + 32, &b);
                break;
            case 4: /* s + n, where it fits */
                sm2_u256_load(&a, r + 32);
                if (sm2_u256_add(&b, &a, &sm2_n)) {
                    memset(&b, 0xFF, sizeof b);
                }
                sm2_u256_store(r + 32, &b);
                break;
            case 5:
                r[check_random() % 64] ^= (uint8_t)(1 << check_random() % 8);
                break;
            default:
                want[i] = 1;
            }
        }
        sm2_verify_many(valid, qs, 1, digest, s, 150);
        CHECK(memcmp(valid, want, 150) == 0);
    }
    memset(s, 0, sizeof s);
    sm2_verify_many(valid, qs, 1, digest, s, 150);
    CHECK(all_zero(valid, 150));
    sm2_verify_many(valid, qs, 1, digest, s, 0);
    CHECK(sm2_sign_many(s, (const sm2_private *const *)keys, 1, digest, 0) == SM2_OK);
}

/* One wrong lane, in every position, among lanes with and without tables; and big batches. */
static void test_lane_positions(void)
{
    enum { N = 1000 };
    static sm2_private storage[N];
    static sm2_private *keys[N];
    static sm2_point q[N];
    static const sm2_point *qs[N];
    static const void *tables[N];
    static uint8_t digest[32 * N], good[64 * N], valid[N];
    static const size_t sizes[] = {8, 17, 128, 129, N};
    size_t table_size = sm2_key_table_size();
    size_t most = quick || sm2_active_backend != sm2_backends[0] ? 40 : N; /* the others are slow */
    void *table = table_size ? aligned_alloc(64, table_size) : NULL;

    for (size_t i = 0; i < N; i++) {
        keys[i] = &storage[i];
    }
    CHECK(sm2_generate_many(keys, q, most) == SM2_OK);
    check_random_bytes(digest, sizeof digest);
    for (size_t i = 0; i < N; i++) { /* every other lane is under key 0, which has a table */
        qs[i] = i % 2 ? &q[i] : &q[0];
        keys[i] = i % 2 ? keys[i] : keys[0];
        tables[i] = i % 2 ? NULL : table;
    }
    if (table != NULL) {
        sm2_key_table_build(table, &q[0]);
    }
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s] < most ? sizes[s] : most, step = n < N ? 1 + n / 40 : 200;

        CHECK(sm2_sign_many(good, (const sm2_private *const *)keys, 1, digest, n) == SM2_OK);
        for (size_t bad = 0; bad < n; bad += step) {
            good[64 * bad + 63] ^= 1;
            sm2_verify_prepared_many(valid, qs, tables, 1, digest, good, n);
            for (size_t i = 0; i < n; i++) {
                CHECK(valid[i] == (i != bad));
            }
            sm2_verify_many(valid, qs, 1, digest, good, n);
            for (size_t i = 0; i < n; i++) {
                CHECK(valid[i] == (i != bad));
            }
            good[64 * bad + 63] ^= 1;
        }
    }
    CHECK(sm2_sign_many(good, (const sm2_private *const *)keys, 0, digest, most) == SM2_OK);
    sm2_verify_prepared_many(valid, qs, tables, 0, digest, good, most);
    for (size_t i = 0; i < most; i++) {
        CHECK(valid[i] == 1);
    }
    free(table);
}

/* r + s = n would verify under every key, were it let through: then sG + tP is sG. */
static void test_universal_forgery(void)
{
    sm2_u256 s = {{5, 0, 0, 0}}, r, x, e;
    uint8_t digest[32], signature[64], valid = 7;
    const sm2_point *q = &base;
    sm2_point sg;

    CHECK(slow_multiply(&sg, &s, &base));
    (void)sm2_u256_sub(&r, &sm2_n, &s);
    sm2_fn_reduce(&x, &sg.x);
    sm2_fn_sub(&e, &r, &x);
    sm2_u256_store(digest, &e);
    sm2_u256_store(signature, &r);
    sm2_u256_store(signature + 32, &s);
    sm2_verify_many(&valid, &q, 0, digest, signature, 1);
    CHECK(valid == 0);
}

#endif
