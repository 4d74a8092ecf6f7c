/* The test of fresh pairs: its kernels, and that no wrong pair passes. */
#ifndef OPERATIONS_PAIRS_H
#define OPERATIONS_PAIRS_H

#include "operations.h"

/* *c := the coefficient of the keys of row r in combination group g, as sm2_backend.h has it. */
static void coefficient(sm2_u256 *c, const uint16_t *w, const sm2_pairs_shape *shape, size_t r, size_t g)
{
    memset(c, 0, sizeof *c);
    for (size_t k = 0; k < shape->windows; k++) {
        uint16_t word = w[shape->windows * (2 * r + g) + k];
        size_t at = (shape->positions + 1U) * k + ((size_t)(word >> 1) * shape->positions >> 15);
        sm2_u256 term = {{0, 0, 0, 0}};

        CHECK(at < 255);
        term.v[at / 64] = (uint64_t)1 << at % 64;
        if (word & 1) {
            sm2_fn_sub(c, c, &term);
        } else {
            sm2_fn_add(c, c, &term);
        }
    }
}

enum { MOST_PAIRS = SM2_KEYS_MAX };

/* Fresh keys, and what the kernels of the test of pairs are given. */
typedef struct {
    sm2_private storage[MOST_PAIRS];
    sm2_private *keys[MOST_PAIRS];
    sm2_point q[MOST_PAIRS];
    const sm2_point *lane[MOST_PAIRS];
    sm2_u256 d[MOST_PAIRS], x[MOST_PAIRS];
    uint16_t w[SM2_PAIRS_WORDS_MAX];
} pairs;

static void make_pairs(pairs *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p->keys[i] = &p->storage[i];
        p->lane[i] = &p->q[i];
    }
    CHECK(sm2_generate_many(p->keys, p->q, n) == SM2_OK);
    for (size_t i = 0; i < n; i++) {
        p->d[i] = p->storage[i].d;
    }
    check_random_bytes((uint8_t *)p->w, sizeof p->w);
}

/* The combinations, term by term; every single wrong key, and pairs of errors that cancel in a plain sum. */
static void test_combinations(const sm2_backend *b)
{
    static const size_t sizes[] = {16, 48, 112, 128, 448, 1024};
    static pairs p;
    sm2_u256 want[16], t[16], c, term;
    sm2_point to[16], right;

    if (b->combine == NULL) {
        CHECK(b->combinations_are_vartime == NULL);
        return;
    }
    for (size_t s = 0; s < (quick ? 4 : 6); s++) {
        size_t n = sizes[s];

        make_pairs(&p, n);
        CHECK(sm2_pairs_words(n) <= SM2_PAIRS_WORDS_MAX);
        memset(want, 0, sizeof want);
        for (size_t i = 0; i < n; i++) {
            for (size_t g = 0; g < 2; g++) {
                coefficient(&c, p.w, sm2_pairs_shape_of(n), 2 * (i / 16) + i % 2, g);
                scalar_mul(&term, &c, &p.d[i]);
                sm2_fn_add(&want[8 * g + i % 16 / 2], &want[8 * g + i % 16 / 2], &term);
            }
        }
        b->combine(t, p.w, p.d, n);
        CHECK(memcmp(t, want, sizeof t) == 0);
        for (size_t i = 0; i < 16; i++) {
            CHECK(slow_multiply(&to[i], &want[i], &base));
        }
        CHECK(b->combinations_are_vartime(to, p.w, p.lane, n) == 1);
        for (size_t bad = 0; bad < n; bad += 1 + n / 20) {
            right = p.q[bad];
            (void)sm2_u256_sub(&p.q[bad].y, &sm2_p, &right.y);
            CHECK(b->combinations_are_vartime(to, p.w, p.lane, n) == 0);
            p.q[bad] = p.q[(bad + 16) % n]; /* in the same lane, if there are so many */
            p.q[(bad + 16) % n] = right;
            CHECK(b->combinations_are_vartime(to, p.w, p.lane, n) == (n == 16));
            p.q[(bad + 16) % n] = p.q[bad];
            p.q[bad] = right;
        }
        for (size_t i = 0; i < 16; i++) {
            to[i].x.v[0] ^= 1;
            CHECK(b->combinations_are_vartime(to, p.w, p.lane, n) == 0);
            to[i].x.v[0] ^= 1;
        }
        for (size_t i = 0; i < n; i++) { /* sums of equal points: it cannot be said, or it is right */
            p.lane[i] = &p.q[i % 16];
        }
        (void)b->combinations_are_vartime(to, p.w, p.lane, n);
        CHECK(b->combinations_are_vartime(to, p.w, p.lane, n) == (n == 16));
    }
}

/* 2^256/x mod n beside the scalar code, and each wrong one found. */
static void test_order(const sm2_backend *b)
{
    static sm2_u256 k[1000], x[MOST_PAIRS], inv[MOST_PAIRS], want;
    size_t n = scalars(k);

    if (b->order_invert_many == NULL) {
        CHECK(b->order_inverses_are == NULL);
        return;
    }
    for (size_t lanes = 16; lanes <= MOST_PAIRS; lanes = lanes == 32 ? MOST_PAIRS : lanes + 16) {
        for (size_t i = 0; i < lanes; i++) {
            x[i] = inv[i] = k[i % n];
        }
        b->order_invert_many(inv, lanes);
        for (size_t i = 0; i < lanes; i++) {
            want = x[i];
            sm2_fn_invert_many(&want, 1);
            CHECK(sm2_u256_equal(&want, &inv[i]));
        }
        CHECK(b->order_inverses_are(inv, x, lanes) == 1);
        for (size_t i = 0; i < lanes; i += quick ? 5 : 1) {
            inv[i].v[i % 4] ^= (uint64_t)1 << i % 61;
            CHECK(b->order_inverses_are(inv, x, lanes) == 0);
            inv[i].v[i % 4] ^= (uint64_t)1 << i % 61;
        }
    }
}

/* A wrong pair in any position is found, however many keys there are; equal keys are no error. */
static void test_pairs(void)
{
    static const size_t sizes[] = {1, 3, 16, 17, 39, 128, 300};
    static pairs p;
    int status;

    for (size_t s = 0; s < (quick ? 5 : 7); s++) {
        size_t n = sizes[s];

        make_pairs(&p, n);
        for (size_t bad = 0; bad < n; bad += 1 + n / 10) {
            sm2_point right = p.q[bad];
            sm2_private key = p.storage[bad];

            (void)sm2_u256_sub(&p.q[bad].y, &sm2_p, &right.y);
            CHECK(!sm2_pairs_are_consistent(p.keys, p.q, n, &status) && status == SM2_OK);
            p.q[bad] = right;
            p.storage[bad].inv_mont.v[1] ^= 2;
            CHECK(!sm2_pairs_are_consistent(p.keys, p.q, n, &status) && status == SM2_OK);
            p.storage[bad] = key;
            p.storage[bad].d.v[2] ^= 4;
            CHECK(!sm2_pairs_are_consistent(p.keys, p.q, n, &status) && status == SM2_OK);
            p.storage[bad] = key;
        }
        CHECK(sm2_pairs_are_consistent(p.keys, p.q, n, &status) && status == SM2_OK);
        for (size_t i = 1; i < n; i++) {
            p.storage[i] = p.storage[0];
            p.q[i] = p.q[0];
        }
        CHECK(sm2_pairs_are_consistent(p.keys, p.q, n, &status) && status == SM2_OK);
    }
}

#endif
