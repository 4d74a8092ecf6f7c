/*
 * Every backend this machine can run, against double-and-add, and the rules of
 * the front end: retries, failing random sources, lanes that are wrong, DER.
 *
 * Usage: test_operations [quick]   fewer batch sizes, for builds that run slowly
 */
#include "check.h"
#include "sm2_internal.h"
#include "sm2_cpu.h"
#include "sm2_secmem.h"
#include "sm3_many.h"

static int quick;

static const sm2_point base = {
    {{UINT64_C(0x715A4589334C74C7), UINT64_C(0x8FE30BBFF2660BE1), UINT64_C(0x5F9904466A39C994),
      UINT64_C(0x32C4AE2C1F198119)}},
    {{UINT64_C(0x02DF32E52139F0A0), UINT64_C(0xD0A9877CC62A4740), UINT64_C(0x59BDCEE36B692153),
      UINT64_C(0xBC3736A2F4F6779C)}},
};

static const sm2_u256 halves_meet = {
    {UINT64_C(0xAC440BF6C62ABEDD), UINT64_C(0x7203DF6B21C6052C), UINT64_C(0x000000000000001F),
     UINT64_C(0xFFFFFFFEFFFFFF80)}};

/* *r := k*q by double-and-add with every case distinguished; 0 if infinity. */
static int slow_multiply(sm2_point *r, const sm2_u256 *k, const sm2_point *q)
{
    sm2_jacobian a;
    sm2_affine p;
    sm2_fe z, t;

    memset(&a, 0, sizeof a);
    sm2_fe_to_mont(&p.x, &q->x);
    sm2_fe_to_mont(&p.y, &q->y);
    for (int i = 255; i >= 0; i--) {
        sm2_jacobian_double(&a, &a);
        if (k->v[i / 64] >> (i % 64) & 1) {
            sm2_jacobian_add_affine_vartime(&a, &a, &p);
        }
    }
    if (sm2_u256_is_zero(&a.Z)) {
        return 0;
    }
    sm2_fe_inv(&z, &a.Z);
    sm2_fe_sqr(&t, &z);
    sm2_fe_mul(&a.X, &a.X, &t);
    sm2_fe_mul(&t, &t, &z);
    sm2_fe_mul(&a.Y, &a.Y, &t);
    sm2_fe_from_mont(&r->x, &a.X);
    sm2_fe_from_mont(&r->y, &a.Y);
    return 1;
}

static int same_point(const sm2_point *a, const sm2_point *b)
{
    return (int)(sm2_u256_equal(&a->x, &b->x) & sm2_u256_equal(&a->y, &b->y));
}

/* z := x*y mod n. */
static void scalar_mul(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 t;

    sm2_fn_to_mont(&t, x);
    sm2_fn_mont_mul(z, &t, y);
}

/* The batch sizes to try, one after the other: all small ones, and those around full ones. */
static size_t next_size(size_t size)
{
    if (quick) {
        return size < 5 ? size + 3 : size < 17 ? size + 4 : size < 40 ? 40 : size < 128 ? 128 : 129;
    }
    return size < 40 ? size + 1 : size < 127 ? 127 : size + 1;
}

/* Scalars worth trying: both ends, single bits, and those where the last addition doubles. */
static size_t scalars(sm2_u256 *k)
{
    size_t n = 0;

    for (uint64_t i = 1; i <= 70; i++) {
        sm2_u256 small = {{i, 0, 0, 0}};

        k[n++] = small;
        (void)sm2_u256_sub(&k[n++], &sm2_n, &small);
    }
    for (int i = 7; i < 256; i++) {
        memset(&k[n], 0, sizeof k[n]);
        k[n++].v[i / 64] = (uint64_t)1 << (i % 64);
    }
    /*
     * n with the signs of the digits of windows 0..10 and 22..32 turned: the two
     * halves that the comb adds last differ by n, so they are the same point
     */
    k[n++] = halves_meet;
    (void)sm2_u256_sub(&k[n++], &sm2_n, &halves_meet);
    for (int low = -63; low <= 63; low += 2) {
        /* k = acc + low where acc - low = n, so that the last digit meets its equal */
        sm2_u256 d = {{(uint64_t)(low < 0 ? -2 * low : 2 * low), 0, 0, 0}};

        if (low < 0) {
            (void)sm2_u256_sub(&d, &sm2_n, &d);
        }
        k[n++] = d;
    }
    for (int i = 0; i < 40; i++) {
        sm2_u256 x = {{check_random(), check_random(), check_random(), check_random()}};

        sm2_fn_reduce(&k[n], &x);
        n += sm2_fn_is_valid(&k[n]);
    }
    return n;
}

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

static int all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++) {
        any |= p[i];
    }
    return any == 0;
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
        CHECK(sm2_generate_many(keys, q + 1, 199) == SM2_ERR_ENTROPY);
        CHECK(all_zero((uint8_t *)storage, 199 * sizeof storage[0]));
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

/* The combination of fresh pairs finds a wrong pair in every position. */
static void test_combination(const sm2_backend *b)
{
    static sm2_private storage[SM2_LANES_MAX];
    static sm2_private *keys[SM2_LANES_MAX];
    static sm2_point q[SM2_LANES_MAX];
    uint16_t w[SM2_LANES_MAX];
    size_t sizes[] = {16, 17, 24, 39, 128};
    int status;

    for (size_t i = 0; i < SM2_LANES_MAX; i++) {
        keys[i] = &storage[i];
    }
    for (size_t s = 0; s < (quick ? 4 : 5); s++) {
        size_t n = sizes[s];
        sm2_u256 sum = {{0, 0, 0, 0}};
        sm2_point want, other;

        CHECK(sm2_generate_many(keys, q, n) == SM2_OK);
        check_random_bytes((uint8_t *)w, sizeof w);
        for (size_t i = 0; i < n; i++) { /* the combination, term by term */
            sm2_u256 c = {{(uint64_t)labs(65535 - 2 * (long)w[i]), 0, 0, 0}}, t;

            scalar_mul(&t, &c, &keys[i]->d);
            if (2 * (long)w[i] > 65535) {
                (void)sm2_u256_sub(&t, &sm2_n, &t);
            }
            sm2_fn_add(&sum, &sum, &t);
        }
        CHECK(slow_multiply(&want, &sum, &base) && slow_multiply(&other, &keys[0]->d, &base));
        CHECK(b->combination_is_vartime == NULL || b->combination_is_vartime(&want, w, q, n) == 1);
        CHECK(b->combination_is_vartime == NULL || b->combination_is_vartime(&other, w, q, n) == 0);
        for (size_t bad = 0; bad < n; bad += 1 + n / 20) {
            sm2_point right = q[bad];
            sm2_private key = *keys[bad];

            (void)sm2_u256_sub(&q[bad].y, &sm2_p, &q[bad].y);
            CHECK(!sm2_pairs_are_consistent(keys, q, n, &status) && status == SM2_OK);
            q[bad] = right;
            keys[bad]->inv_mont.v[1] ^= 2;
            CHECK(!sm2_pairs_are_consistent(keys, q, n, &status) && status == SM2_OK);
            *keys[bad] = key;
        }
        CHECK(sm2_pairs_are_consistent(keys, q, n, &status) && status == SM2_OK);
        CHECK(sm2_pairs_are_consistent(keys, q, 3, &status) && status == SM2_OK);
    }
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

static void test_keys(void)
{
    uint8_t d[32] = {0}, out[65];
    sm2_private key;
    sm2_point q, minus = base;

    CHECK(sm2_private_import(&key, d) == SM2_ERR_KEY);
    sm2_u256_store(d, &sm2_n_minus_1);
    CHECK(sm2_private_import(&key, d) == SM2_ERR_KEY && all_zero((uint8_t *)&key, sizeof key));
    sm2_u256_store(d, &sm2_n);
    CHECK(sm2_private_import(&key, d) == SM2_ERR_KEY);
    sm2_u256_store(d, &sm2_n_minus_1);
    d[31]--;
    CHECK(sm2_private_import(&key, d) == SM2_OK); /* n-2 */
    sm2_private_export(out, &key);
    CHECK(memcmp(out, d, 32) == 0);
    sm2_public_export(out, &base);
    CHECK(sm2_public_import(&q, out, 65) == SM2_OK && same_point(&q, &base));
    out[0] = (uint8_t)(2 | (base.y.v[0] & 1));
    CHECK(sm2_public_import(&q, out, 33) == SM2_OK && same_point(&q, &base));
    out[0] ^= 1;
    CHECK(sm2_public_import(&q, out, 33) == SM2_ERR_KEY); /* -G */
    (void)sm2_u256_sub(&minus.y, &sm2_p, &base.y);
    sm2_public_export(out, &minus);
    CHECK(sm2_public_import(&q, out, 65) == SM2_ERR_KEY);
    for (size_t n = 0; n <= 65; n++) {
        CHECK(n == 33 || sm2_public_import(&q, out, n) == SM2_ERR_KEY);
    }
    memset(out + 1, 0, 64);
    CHECK(sm2_public_import(&q, out, 65) == SM2_ERR_KEY);
    for (int i = 0; i < 20; i++) { /* x + p is another name of x, and refused */
        sm2_u256 x = {{(uint64_t)i, 0, 0, 0}}, up;

        (void)sm2_u256_add(&up, &x, &sm2_p);
        out[0] = 2;
        sm2_u256_store(out + 1, &up);
        CHECK(sm2_public_import(&q, out, 33) == SM2_ERR_KEY);
    }
}

/* Nothing but the one encoding is read; buffers are exact, so that a checker sees overruns. */
static void test_der(void)
{
    for (int i = 0; i < 20000; i++) {
        uint8_t rs[64], back[64], der[SM2_SIGNATURE_DER_MAX];
        int n, m;

        check_random_bytes(rs, 64);
        if (i % 3 == 0) {
            memset(rs, 0, check_random() % 32);
            memset(rs + 32, 0, check_random() % 32);
        }
        n = sm2_signature_to_der(der, rs);
        if (n < 0) {
            continue;
        }
        CHECK(sm2_signature_from_der(back, der, (size_t)n) == SM2_OK && !memcmp(rs, back, 64));
        m = (int)(check_random() % (uint64_t)(n + 1));
        uint8_t *cut = malloc((size_t)m + 1);
        memcpy(cut, der, (size_t)m);
        CHECK(m == n || sm2_signature_from_der(back, cut, (size_t)m) == SM2_ERR_ENCODING);
        memcpy(cut, der, (size_t)m);
        if (m > 0) {
            cut[check_random() % (uint64_t)m] ^= (uint8_t)(1 << check_random() % 8);
            if (sm2_signature_from_der(back, cut, (size_t)m) == SM2_OK) {
                uint8_t again[SM2_SIGNATURE_DER_MAX];

                CHECK(sm2_signature_to_der(again, back) == m && !memcmp(again, cut, (size_t)m));
            }
        }
        free(cut);
    }
}

static void test_encryption(void)
{
    static const size_t sizes[] = {1, 31, 32, 33, 64, 127, 128, 255, 256, 1000, 70000};
    uint8_t d[32] = {5};
    sm2_private key;
    sm2_point q;

    CHECK(sm2_private_import(&key, d) == SM2_OK);
    sm2_private_to_public(&q, &key);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s], raw = n + SM2_CIPHERTEXT_OVERHEAD;
        uint8_t *m = malloc(n), *c = malloc(raw), *out = malloc(n), *der = malloc(n + 120);
        uint8_t *back = malloc(n + 120 + SM2_CIPHERTEXT_OVERHEAD);
        long used;

        check_random_bytes(m, n);
        CHECK(sm2_encrypt(c, &q, m, n) == SM2_OK);
        CHECK(sm2_decrypt(out, &key, c, raw) == SM2_OK && memcmp(out, m, n) == 0);
        used = sm2_ciphertext_to_der(der, c, raw);
        CHECK(used > 0 && used <= (long)(n + 120));
        CHECK(sm2_ciphertext_from_der(back, der, (size_t)used) == (long)raw);
        CHECK(memcmp(back, c, raw) == 0);
        CHECK(sm2_ciphertext_from_der(back, der, (size_t)used - 1) == SM2_ERR_ENCODING);
        memset(out, 0x77, n);
        c[check_random() % raw] ^= 0x10;
        CHECK(sm2_decrypt(out, &key, c, raw) != SM2_OK);
        for (size_t i = 0; i < n; i++) {
            CHECK(out[i] == 0x77); /* nothing was released */
        }
        free(m), free(c), free(out), free(der), free(back);
    }
    CHECK(sm2_encrypt(d, &q, d, 0) == SM2_ERR_LENGTH);
    CHECK(sm2_decrypt(d, &key, d, 97) == SM2_ERR_ENCODING);
}

static void test_hash(const sm2_backend *b)
{
    uint8_t data[400], whole[32], parts[32], many[3 * 32];
    sm3_ctx c;

    check_random_bytes(data, sizeof data);
    for (size_t n = 0; n <= sizeof data; n++) {
        const uint8_t *message[3] = {data, data, data + sizeof data - n};
        size_t length[3] = {n, n / 2, n}, cut = n > 0 ? check_random() % n : 0;

        sm3_hash(whole, data, n);
        sm3_init(&c);
        sm3_update(&c, data, cut);
        sm3_update(&c, data + cut, 0);
        sm3_update(&c, data + cut, n - cut);
        sm3_final(&c, parts);
        CHECK(memcmp(whole, parts, 32) == 0);
        b->sm3_many(many, message, length, 3);
        CHECK(memcmp(whole, many, 32) == 0);
        sm3_hash(whole, data, n / 2);
        CHECK(memcmp(whole, many + 32, 32) == 0);
        sm3_hash(whole, data + sizeof data - n, n);
        CHECK(memcmp(whole, many + 64, 32) == 0);
    }
}

typedef void hash_many(uint8_t *, const uint8_t *const *, const size_t *, size_t);

/* The length of a message in a batch of the given kind. */
static size_t some_length(int kind, size_t usual, size_t i)
{
    switch (kind) {
    case 0:
        return usual;
    case 1:
        return (size_t)(check_random() % 301);
    case 2:
        return usual + (size_t)(check_random() % 3);
    case 3: /* a long one now and then */
        return (size_t)(check_random() % (check_random() % 20 ? 70 : 5000));
    case 4:
        return 64 * (size_t)(check_random() % 4);
    case 5:
        return i == 5 ? 3000 : usual;
    default:
        return 55 + (i & 1);
    }
}

/* Batches of every size, every length from 0 to 300, equal and mixed; buffers are exact. */
static void test_hash_lanes(hash_many *many)
{
    static uint8_t *message[100];
    static size_t length[100];
    static uint8_t out[32 * 101];
    uint8_t want[32];

    for (int round = 0; round < (quick ? 602 : 3010); round++) {
        size_t n = (size_t)(check_random() % (round % 5 == 0 ? 5 : 101));

        for (size_t i = 0; i < n; i++) {
            length[i] = some_length(round % 7, (size_t)round % 301, i);
            message[i] = length[i] > 0 ? malloc(length[i]) : NULL;
            check_random_bytes(message[i], length[i]);
        }
        memset(out, 0x5A, sizeof out);
        many(out, (const uint8_t *const *)message, length, n);
        for (size_t i = 0; i < n; i++) {
            sm3_hash(want, message[i], length[i]);
            CHECK(memcmp(want, out + 32 * i, 32) == 0);
            free(message[i]);
        }
        CHECK(out[32 * n] == 0x5A && out[32 * n + 31] == 0x5A);
    }
}

/* Digests of messages behind their Z, in scratch space of every kind of size. */
static void test_digests(void)
{
    enum { N = 150, MOST = 400 };
    static uint8_t data[MOST], e[32 * N], z[32 * N], id[100], scratch[N * (MOST + 32)];
    static const uint8_t *message[N];
    static size_t length[N];
    static sm2_point q[N];
    static const sm2_point *qs[N];
    static const size_t rooms[] = {0, 31, 32, 100, 431, 432, 5000, sizeof scratch};
    sm2_u256 k = {{1, 0, 0, 0}};
    uint8_t want[32];
    sm3_ctx c;

    check_random_bytes(data, sizeof data);
    check_random_bytes(id, sizeof id);
    for (size_t i = 0; i < N; i++) {
        k.v[0]++;
        CHECK(slow_multiply(&q[i], &k, &base));
        qs[i] = &q[i];
        length[i] = (size_t)(check_random() % (MOST + 1));
        message[i] = data + MOST - length[i];
    }
    for (size_t n = 0; n <= sizeof id; n += 4) {
        CHECK(sm2_z_many(z, id, n, qs, N) == SM2_OK);
        for (size_t i = 0; i < N; i++) {
            CHECK(sm2_z(want, id, n, qs[i]) == SM2_OK && memcmp(want, z + 32 * i, 32) == 0);
        }
    }
    CHECK(sm2_z_many(z, id, SM2_ID_MAX + 1, qs, N) == SM2_ERR_LENGTH);
    for (size_t s = 0; s < 2 * sizeof rooms / sizeof rooms[0]; s++) {
        size_t room = rooms[s / 2], step = s % 2;
        uint8_t *exact = malloc(room + 1);

        memset(e, 0, sizeof e);
        sm2_digest_many(e, z, step, message, length, N, exact, room);
        for (size_t i = 0; i < N; i++) {
            sm3_init(&c);
            sm3_update(&c, z + 32 * i * step, 32);
            sm3_update(&c, message[i], length[i]);
            sm3_final(&c, want);
            CHECK(memcmp(want, e + 32 * i, 32) == 0);
        }
        free(exact);
    }
}

static void test_locked_slots(void)
{
    static void *slot[3000];
    sm2_secmem_state state;

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3000; i++) {
            slot[i] = sm2_secmem_get();
            CHECK(slot[i] != NULL && all_zero(slot[i], sizeof(sm2_private)));
            memset(slot[i], 0xAB, sizeof(sm2_private));
        }
        for (int i = 0; i < 3000; i++) {
            sm2_secmem_put(slot[i]);
        }
    }
    sm2_secmem_query(&state);
    CHECK(state.mapped >= 3000 * sizeof(sm2_private) && state.locked <= state.mapped);
}

/* Every kind of vector that this machine has, whichever of them the backends use. */
static void test_vectors(void)
{
#if defined(__x86_64__)
    sm2_cpu cpu;

    sm2_cpu_detect(&cpu);
    if (cpu.avx2 && cpu.bmi2) {
        test_hash_lanes(sm3_many_avx2);
        puts("AVX2");
    }
    if (cpu.avx512f && cpu.avx512bw && cpu.bmi2) {
        test_hash_lanes(sm3_many_avx512);
        puts("AVX-512");
    }
#endif
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    for (size_t i = 0; sm2_backends[i] != NULL; i++) {
        const sm2_backend *b = sm2_backends[i], *chosen = NULL;

        if (!b->is_supported()) {
            CHECK(sm2_backend_choose(&chosen, b->name) == SM2_BACKEND_UNSUPPORTED);
            continue;
        }
        CHECK(sm2_backend_choose(&chosen, b->name) == SM2_BACKEND_OK && chosen == b);
        CHECK(sm2_selftest(b) == SM2_OK);
        test_multiples(b);
        test_sums(b);
        test_prepared(b);
        test_combination(b);
        test_hash(b);
        test_hash_lanes(b->sm3_many);
        test_digests();
        test_generator();
        test_retries_in_a_batch();
        test_retries();
        test_entropy_failures();
        test_bad_lanes();
        test_lane_positions();
        test_universal_forgery();
        test_encryption();
        printf("%s: %d failures\n", b->name, check_failures);
    }
    CHECK(sm2_backend_choose(&(const sm2_backend *){NULL}, "nonesuch") == SM2_BACKEND_UNKNOWN);
    test_vectors();
    test_keys();
    test_der();
    test_locked_slots();
    return check_failures != 0;
}
