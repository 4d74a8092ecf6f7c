/* Keys, DER, encryption, and the memory of keys. */
#ifndef OPERATIONS_FRONT_H
#define OPERATIONS_FRONT_H

#include "operations.h"
#include "sm2_secmem.h"

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

#endif
