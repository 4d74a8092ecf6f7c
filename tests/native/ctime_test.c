/*
 * Constant time, checked by Memcheck: every secret is marked as undefined, so
 * each branch, index or divisor that depends on one is reported as an error.
 *
 * Usage: ctime_test BACKEND         the secret operations: no error may be seen
 *        ctime_test BACKEND WHICH   a leak on purpose, which must be seen:
 *                                   branch, index, divide or vartime
 *
 * Build with -DSM2_CTIME_TEST. Results are made public where the library says
 * so (sm2_declassify); this file does the same only to what it has been given.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <valgrind/memcheck.h>

#include "shamir.h"
#include "sm2_internal.h"

#define LANES 20

static uint64_t state = 42;

/* A source of random bytes, all of them secret. */
static int secret_source(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    for (size_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        out[i] = (uint8_t)(state >> 56);
    }
    VALGRIND_MAKE_MEM_UNDEFINED(out, n);
    return 0;
}

static void require(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s does not work\n", what);
        exit(2);
    }
}

static void secret_key(sm2_private *key, sm2_point *q, uint8_t first)
{
    uint8_t d[32];

    for (int i = 0; i < 32; i++) {
        d[i] = (uint8_t)(first + 7 * i);
    }
    VALGRIND_MAKE_MEM_UNDEFINED(d, sizeof d);
    require(sm2_private_import(key, d) == SM2_OK, "import");
    sm2_private_to_public(q, key);
}

static void check_keys(sm2_private *const *keys, sm2_point *q)
{
    uint8_t d[32], again[32];
    sm2_private key;
    sm2_point p;

    require(sm2_generate_many(keys, q, LANES) == SM2_OK, "generation");
    require(sm2_generate_many(keys, q, 1) == SM2_OK, "generation of one");
    secret_key(&key, &p, 1);
    sm2_private_export(d, &key);
    VALGRIND_MAKE_MEM_DEFINED(d, sizeof d);
    for (int i = 0; i < 32; i++) {
        again[i] = (uint8_t)(1 + 7 * i);
    }
    require(memcmp(d, again, 32) == 0, "export");
}

static void check_signatures(sm2_private *const *keys, const sm2_point *q)
{
    uint8_t digest[32 * LANES], signature[64 * LANES], valid[LANES];
    const sm2_private *const *key = (const sm2_private *const *)keys;
    const sm2_point *qs[LANES];

    for (size_t i = 0; i < LANES; i++) {
        qs[i] = &q[i];
        memset(digest + 32 * i, (int)i, 32);
    }
    require(sm2_sign_many(signature, key, 1, digest, LANES) == SM2_OK, "signing");
    sm2_verify_many(valid, qs, 1, digest, signature, LANES);
    for (size_t i = 0; i < LANES; i++) {
        require(valid[i] == 1, "a signature");
    }
    require(sm2_sign_many(signature, key, 0, digest, 1) == SM2_OK, "signing one");
    sm2_verify_many(valid, qs, 0, digest, signature, 1);
    require(valid[0] == 1, "one signature");
}

static void check_encryption(const sm2_private *key, const sm2_point *q)
{
    uint8_t message[77], out[77], cipher[77 + SM2_CIPHERTEXT_OVERHEAD];

    memset(message, 'm', sizeof message);
    VALGRIND_MAKE_MEM_UNDEFINED(message, sizeof message);
    require(sm2_encrypt(cipher, q, message, sizeof message) == SM2_OK, "encryption");
    require(sm2_decrypt(out, key, cipher, sizeof cipher) == SM2_OK, "decryption");
    cipher[sizeof cipher - 1] ^= 1;
    require(sm2_decrypt(message, key, cipher, sizeof cipher) == SM2_ERR_DECRYPT, "refusal");
    VALGRIND_MAKE_MEM_DEFINED(out, sizeof out);
    require(out[0] == 'm' && out[76] == 'm', "the plaintext");
}

/* Secret, random rows and shares are all secret; the numbers of the shares are not. */
static void check_shamir(void)
{
    static const uint8_t x[3] = {5, 1, 255};
    uint8_t secret[16], rows[2 * 16], y[3 * 16], out[16];

    memset(secret, 's', sizeof secret);
    memset(rows, 'r', sizeof rows);
    VALGRIND_MAKE_MEM_UNDEFINED(secret, sizeof secret);
    VALGRIND_MAKE_MEM_UNDEFINED(rows, sizeof rows);
    for (size_t i = 0; i < 3; i++) {
        shamir_share(y + 16 * i, x[i], secret, rows, 16, 3);
    }
    shamir_combine(out, x, y, 16, 3);
    VALGRIND_MAKE_MEM_DEFINED(out, sizeof out);
    require(out[0] == 's' && out[15] == 's', "the shared secret");
}

static void check_agreement(void)
{
    uint8_t za[32] = {1}, zb[32] = {2}, key_a[48], key_b[48], s[4][32];
    sm2_private k[4];
    sm2_point q[4];

    for (uint8_t i = 0; i < 4; i++) {
        secret_key(&k[i], &q[i], (uint8_t)(3 + i));
    }
    sm2_agreement a = {&k[0], &k[1], &q[0], &q[1], &q[2], &q[3], za, zb, 1};
    sm2_agreement b = {&k[2], &k[3], &q[2], &q[3], &q[0], &q[1], zb, za, 0};

    require(sm2_agree(key_a, sizeof key_a, s[0], s[1], &a) == SM2_OK, "agreement");
    require(sm2_agree(key_b, sizeof key_b, s[2], s[3], &b) == SM2_OK, "agreement");
    VALGRIND_MAKE_MEM_DEFINED(key_a, sizeof key_a);
    VALGRIND_MAKE_MEM_DEFINED(key_b, sizeof key_b);
    VALGRIND_MAKE_MEM_DEFINED(s, sizeof s);
    require(memcmp(key_a, key_b, sizeof key_a) == 0, "the shared key");
    require(memcmp(s[0], s[2], 32) == 0 && memcmp(s[1], s[3], 32) == 0, "confirmation");
}

static void check_hash(const sm2_backend *backend)
{
    uint8_t message[300], many_blocks[20 * 64], out[32 * 45];
    uint32_t chain[8] = {0};
    const uint8_t *messages[45];
    size_t length[45];

    memset(message, 7, sizeof message);
    VALGRIND_MAKE_MEM_UNDEFINED(message, sizeof message);
    sm3_hash(out, message, sizeof message);
    memset(many_blocks, 7, sizeof many_blocks);
    VALGRIND_MAKE_MEM_UNDEFINED(many_blocks, sizeof many_blocks);
    backend->sm3_blocks(chain, many_blocks, 20);
    for (size_t i = 0; i < 45; i++) { /* all as long as each other, then each as long as it likes */
        messages[i] = message + i;
        length[i] = 64;
    }
    backend->sm3_many(out, messages, length, 45);
    for (size_t i = 0; i < 45; i++) {
        length[i] = 77 * i % 256;
    }
    backend->sm3_many(out, messages, length, 45);
}

/* What the check must find: each of these gives part of the key away through time. */
static int leak(const char *which, const sm2_private *key, const sm2_point *q)
{
    static const volatile uint8_t table[256] = {1, 2, 3};
    uint64_t low = key->d.v[0];
    uint8_t finite;
    sm2_u256 x;

    if (strcmp(which, "branch") == 0) {
        volatile int seen = 0;

        if (low & 1) {
            seen = 1;
        }
        return seen;
    }
    if (strcmp(which, "index") == 0) {
        return table[low & 255];
    }
    if (strcmp(which, "divide") == 0) { /* as software does it: by a loop that ends early */
        int n = 0;

        for (uint64_t rest = low; rest >= 1000; rest -= rest / 2) {
            n++;
        }
        return n;
    }
    require(strcmp(which, "vartime") == 0, "the name of a leak");
    sm2_active_backend->mul2_many_vartime(&x, &finite, &key->d, &key->d, &q, 1);
    return finite;
}

int main(int argc, char **argv)
{
    static sm2_private storage[LANES];
    static sm2_point q[LANES];
    sm2_private *keys[LANES];
    const sm2_backend *backend = NULL;

    for (size_t i = 0; argc > 1 && sm2_backends[i] != NULL; i++) { /* Memcheck denies what it can run */
        if (strcmp(sm2_backends[i]->name, argv[1]) == 0) {
            backend = sm2_backends[i];
        }
    }
    require(backend != NULL, "a backend of that name");
    if (backend->prepare != NULL) {
        backend->prepare();
    }
    require(RUNNING_ON_VALGRIND, "a run outside valgrind");
    sm2_use_backend(backend);
    sm2_set_entropy(secret_source, NULL);
    for (size_t i = 0; i < LANES; i++) {
        keys[i] = &storage[i];
        secret_key(keys[i], &q[i], (uint8_t)(11 + i));
    }
    if (argc > 2) {
        return leak(argv[2], keys[0], &q[0]) > 1000;
    }
    check_signatures(keys, q);
    check_keys(keys, q);
    check_signatures(keys, q);
    check_encryption(keys[0], &q[0]);
    check_agreement();
    check_shamir();
    check_hash(backend);
    puts("done");
    return 0;
}
