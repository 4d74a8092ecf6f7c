/* Random bits: retries, sources that fail, the generator of a batch. */
#ifndef OPERATIONS_NONCES_H
#define OPERATIONS_NONCES_H

#include "operations.h"

/* A source of randomness that plays what it is given, then repeatable noise, then fails. */
typedef struct {
    uint8_t script[8][32];
    size_t scripted, calls, fail_at;
} player;

static int play(void *ctx, uint8_t *out, size_t n)
{
    player *p = ctx;

    if (++p->calls == p->fail_at) {
        memset(out, 0xA5, n);
        return -1;
    }
    check_random_bytes(out, n);
    for (size_t i = 0; i + 32 <= n && p->scripted > 0; i += 32) {
        memcpy(out + i, p->script[0], 32);
        memmove(p->script[0], p->script[1], 32 * --p->scripted);
    }
    return 0;
}

static int stuck(void *ctx, uint8_t *out, size_t n)
{
    memset(out, *(int *)ctx, n);
    return 0;
}

/* e that makes the nonce k fail: 0: r = 0; 1: r + k = n; 2: s = 0. */
static void failing_digest(uint8_t e[32], int which, const sm2_private *key, const sm2_u256 *k)
{
    sm2_u256 r = {{0, 0, 0, 0}}, t, x;
    sm2_point kg;

    CHECK(slow_multiply(&kg, k, &base));
    if (which == 1) {
        (void)sm2_u256_sub(&r, &sm2_n, k);
    } else if (which == 2) { /* k = r*d */
        sm2_fn_to_mont(&t, &key->d);
        sm2_fn_inv_mont(&t, &t);
        sm2_fn_mont_mul(&r, &t, k);
    }
    sm2_fn_reduce(&x, &kg.x);
    sm2_fn_sub(&t, &r, &x);
    sm2_u256_store(e, &t);
}

static void test_retries(void)
{
    static const size_t sizes[] = {1, 5, 20, 128, 130};
    uint8_t d[32] = {7}, digest[32 * 130], signature[64 * 130], want[64], valid[130];
    uint8_t nonce[32] = {3, 1, 4}, second[32] = {2, 7, 1};
    sm2_private key;
    const sm2_private *keys = &key;
    sm2_point q;
    const sm2_point *qs = &q;
    sm2_u256 k;

    CHECK(sm2_private_import(&key, d) == SM2_OK);
    sm2_private_to_public(&q, &key);
    sm2_u256_load(&k, nonce);
    for (int which = 0; which < 3; which++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            size_t n = sizes[s], bad = n / 2 < 128 ? n / 2 : 127;
            player p = {.scripted = 0};

            check_random_bytes(digest, 32 * n);
            failing_digest(digest + 32 * bad, which, &key, &k);
            CHECK(sm2_sign_with_nonce(want, &key, digest + 32 * bad, nonce) == SM2_ERR_NONCE);
            if (n == 1) { /* the nonce, 0, n and 2^256-1 must all be passed over */
                p.scripted = 5;
                memcpy(p.script[0], nonce, 32);
                memset(p.script[1], 0, 32);
                sm2_u256_store(p.script[2], &sm2_n);
                memset(p.script[3], 0xFF, 32);
                memcpy(p.script[4], second, 32);
            }
            sm2_set_entropy(play, &p);
            CHECK(sm2_sign_many(signature, &keys, 0, digest, n) == SM2_OK);
            sm2_verify_many(valid, &qs, 0, digest, signature, n);
            for (size_t i = 0; i < n; i++) {
                CHECK(valid[i] == 1);
            }
            if (n == 1) {
                CHECK(p.calls == 5);
                CHECK(sm2_sign_with_nonce(want, &key, digest, second) == SM2_OK);
                CHECK(memcmp(want, signature, 64) == 0);
            }
        }
    }
    sm2_set_entropy(NULL, NULL);
}

static void test_entropy_failures(void)
{
    static sm2_private storage[200];
    static sm2_private *keys[200];
    static sm2_point q[200];
    uint8_t d[32] = {9}, digest[32 * 200] = {0}, signature[64 * 200], cipher[200];
    sm2_private key;
    const sm2_private *one_key = &key;
    static const int bytes[] = {0x00, 0xFF};
    int status;

    CHECK(sm2_private_import(&key, d) == SM2_OK);
    sm2_private_to_public(&q[0], &key);
    for (size_t i = 0; i < 200; i++) {
        keys[i] = &storage[i];
    }
    for (size_t fail_at = 1; fail_at <= 3; fail_at++) {
        player p = {.fail_at = fail_at};

        sm2_set_entropy(play, &p);
        memset(signature, 0xEE, sizeof signature);
        if (fail_at == 1) { /* 200 lanes are two chunks, and one seed */
            CHECK(sm2_sign_many(signature, &one_key, 0, digest, 200) == SM2_ERR_ENTROPY);
            CHECK(all_zero(signature, sizeof signature));
        }
        p.calls = 0;
        memset(storage, 0xEE, sizeof storage);
        status = sm2_generate_many(keys, q + 1, 199);
        CHECK(status == (p.calls < fail_at ? SM2_OK : SM2_ERR_ENTROPY));
        CHECK(status != SM2_OK || fail_at > 2); /* a seed for the keys, and one for their test */
        CHECK(status == SM2_OK || all_zero((uint8_t *)storage, 199 * sizeof storage[0]));
        p.calls = 0;
        p.fail_at = 1;
        CHECK(sm2_encrypt(cipher, &q[0], digest, 32) == SM2_ERR_ENTROPY);
    }
    for (size_t i = 0; i < 2; i++) { /* a source that is stuck must not hang or be used */
        int byte = bytes[i];

        sm2_set_entropy(stuck, &byte);
        for (size_t n = 2; n <= 200; n += 33) { /* each lane from the source, and seeds */
            CHECK(sm2_sign_many(signature, &one_key, 0, digest, n) == SM2_ERR_ENTROPY);
            CHECK(all_zero(signature, n * 64));
            CHECK(sm2_generate_many(keys, q + 1, n - 1) == SM2_ERR_ENTROPY);
        }
    }
    sm2_set_entropy(NULL, NULL);
    CHECK(sm2_generate_many(keys, q, 200) == SM2_OK);
}

/* Gives the bytes 0, 1, 2, ... to whoever asks for a seed, and counts what is asked for. */
typedef struct {
    size_t seeds, scalars;
} counter;

static int count(void *ctx, uint8_t *out, size_t n)
{
    counter *c = ctx;

    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(i + c->seeds);
    }
    *(n == SM2_SEED_SIZE ? &c->seeds : &c->scalars) += n == SM2_SEED_SIZE ? 1 : n / 32;
    return 0;
}

/* A batch is one generator, seeded anew after so many lanes; a few lanes are drawn from the source. */
static void test_generator(void)
{
    static const size_t sizes[] = {1, 15, 16, 128, 1024, 1025, 1040, 2048, 2100};
    static uint8_t digest[32 * 2100], signature[64 * 2100];
    uint8_t d[32] = {11}, seed[SM2_SEED_SIZE], out[64], again[64];
    sm2_private key;
    const sm2_private *keys = &key;
    sm2_drbg g;

    CHECK(sm2_private_import(&key, d) == SM2_OK);
    check_random_bytes(digest, sizeof digest);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s], few = n % SM2_DRBG_BLOCKS;
        counter c = {0, 0};

        few = few < 16 ? few : 0;
        sm2_set_entropy(count, &c);
        CHECK(sm2_sign_many(signature, &keys, 0, digest, n) == SM2_OK);
        CHECK(c.scalars == few);
        CHECK(c.seeds == (n - few + SM2_DRBG_BLOCKS - 1) / SM2_DRBG_BLOCKS);
        for (size_t i = 0; i < n; i++) { /* r = e + x1: equal nonces would show */
            sm2_u256 r, e;

            sm2_u256_load(&r, signature + 64 * i);
            sm2_u256_load(&e, digest + 32 * i);
            sm2_fn_reduce(&e, &e);
            sm2_fn_sub(&r, &r, &e);
            sm2_u256_store(signature + 32 * i, &r);
        }
        for (size_t i = 0; i + 1 < n; i++) {
            CHECK(memcmp(signature + 32 * i, signature + 32 * (i + 1), 32) != 0);
        }
    }
    sm2_set_entropy(NULL, NULL);
    check_random_bytes(seed, sizeof seed);
    sm2_drbg_init(&g, seed);
    CHECK(sm2_drbg_blocks(&g, out, 2) && memcmp(out, out + 32, 32) != 0);
    sm2_drbg_init(&g, seed);
    CHECK(sm2_drbg_blocks(&g, again, 2) && memcmp(out, again, 64) == 0);
    sm2_drbg_init(&g, seed);
    memcpy(g.last, out, 32);
    CHECK(!sm2_drbg_blocks(&g, again, 2)); /* as if it had stood still */
    seed[SM2_SEED_SIZE - 1] ^= 1;
    sm2_drbg_init(&g, seed);
    CHECK(sm2_drbg_blocks(&g, again, 2) && memcmp(out, again, 32) != 0);
    memset(&g, 0xFF, sizeof g); /* V goes from its last value to its first */
    g.v[0] = ~(uint64_t)255;
    CHECK(sm2_drbg_blocks(&g, out, 1) && g.v[0] == 0 && g.v[3] == 0 && g.v[6] == 0);
    memset(out, 7, sizeof out);
    out[40] = 8; /* blocks of 16: the first two are equal, the third is not */
    CHECK(sm2_blocks_differ(out, 16, 0) && sm2_blocks_differ(out, 16, 1));
    CHECK(!sm2_blocks_differ(out, 16, 2) && !sm2_blocks_differ(out, 16, 4));
    CHECK(sm2_blocks_differ(out + 16, 16, 3));
}

/* The nonces of a seed are known, so that a lane of a batch can be made to need another one. */
static void test_retries_in_a_batch(void)
{
    enum { LANES = 40 };
    uint8_t d[32] = {7}, digest[32 * LANES], signature[64 * LANES], want[64], nonce[32];
    uint8_t valid[LANES];
    sm2_u256 k[LANES];
    sm2_private key;
    const sm2_private *keys = &key;
    sm2_point q;
    const sm2_point *qs = &q;
    counter c = {0, 0};

    CHECK(sm2_private_import(&key, d) == SM2_OK);
    sm2_private_to_public(&q, &key);
    sm2_set_entropy(count, &c);
    CHECK(sm2_random_scalars(k, LANES) == SM2_OK && c.seeds == 1);
    check_random_bytes(digest, sizeof digest);
    for (size_t i = 0; i < 9; i++) {
        failing_digest(digest + 32 * (4 * i), (int)(i % 3), &key, &k[4 * i]);
    }
    c.seeds = 0;
    CHECK(sm2_sign_many(signature, &keys, 0, digest, LANES) == SM2_OK);
    CHECK(c.seeds == 1 && c.scalars == 9);
    sm2_set_entropy(NULL, NULL);
    sm2_verify_many(valid, &qs, 0, digest, signature, LANES);
    for (size_t i = 0; i < LANES; i++) {
        CHECK(valid[i] == 1);
        sm2_u256_store(nonce, &k[i]);
        if (i % 4 == 0 && i < 36) {
            CHECK(sm2_sign_with_nonce(want, &key, digest + 32 * i, nonce) == SM2_ERR_NONCE);
        } else { /* the other lanes keep theirs */
            CHECK(sm2_sign_with_nonce(want, &key, digest + 32 * i, nonce) == SM2_OK);
            CHECK(memcmp(want, signature + 64 * i, 64) == 0);
        }
    }
}

#endif
