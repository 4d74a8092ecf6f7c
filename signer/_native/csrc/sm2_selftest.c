/*
 * Known answers, met before a backend is used: GB/T 32905 Annex A (SM3) and
 * GB/T 32918.5-2017 Annexes A and C (signature and encryption on this curve).
 */
#include "sm2_internal.h"

static const uint8_t kat_d[32] = {
    0x39, 0x45, 0x20, 0x8F, 0x7B, 0x21, 0x44, 0xB1, 0x3F, 0x36, 0xE3, 0x8A,
    0xC6, 0xD3, 0x9F, 0x95, 0x88, 0x93, 0x93, 0x69, 0x28, 0x60, 0xB5, 0x1A,
    0x42, 0xFB, 0x81, 0xEF, 0x4D, 0xF7, 0xC5, 0xB8};

static const uint8_t kat_public[65] = {
    0x04, 0x09, 0xF9, 0xDF, 0x31, 0x1E, 0x54, 0x21, 0xA1, 0x50, 0xDD, 0x7D,
    0x16, 0x1E, 0x4B, 0xC5, 0xC6, 0x72, 0x17, 0x9F, 0xAD, 0x18, 0x33, 0xFC,
    0x07, 0x6B, 0xB0, 0x8F, 0xF3, 0x56, 0xF3, 0x50, 0x20, 0xCC, 0xEA, 0x49,
    0x0C, 0xE2, 0x67, 0x75, 0xA5, 0x2D, 0xC6, 0xEA, 0x71, 0x8C, 0xC1, 0xAA,
    0x60, 0x0A, 0xED, 0x05, 0xFB, 0xF3, 0x5E, 0x08, 0x4A, 0x66, 0x32, 0xF6,
    0x07, 0x2D, 0xA9, 0xAD, 0x13};

static const uint8_t kat_digest[32] = {
    0xF0, 0xB4, 0x3E, 0x94, 0xBA, 0x45, 0xAC, 0xCA, 0xAC, 0xE6, 0x92, 0xED,
    0x53, 0x43, 0x82, 0xEB, 0x17, 0xE6, 0xAB, 0x5A, 0x19, 0xCE, 0x7B, 0x31,
    0xF4, 0x48, 0x6F, 0xDF, 0xC0, 0xD2, 0x86, 0x40};

static const uint8_t kat_nonce[32] = {
    0x59, 0x27, 0x6E, 0x27, 0xD5, 0x06, 0x86, 0x1A, 0x16, 0x68, 0x0F, 0x3A,
    0xD9, 0xC0, 0x2D, 0xCC, 0xEF, 0x3C, 0xC1, 0xFA, 0x3C, 0xDB, 0xE4, 0xCE,
    0x6D, 0x54, 0xB8, 0x0D, 0xEA, 0xC1, 0xBC, 0x21};

static const uint8_t kat_signature[64] = {
    0xF5, 0xA0, 0x3B, 0x06, 0x48, 0xD2, 0xC4, 0x63, 0x0E, 0xEA, 0xC5, 0x13,
    0xE1, 0xBB, 0x81, 0xA1, 0x59, 0x44, 0xDA, 0x38, 0x27, 0xD5, 0xB7, 0x41,
    0x43, 0xAC, 0x7E, 0xAC, 0xEE, 0xE7, 0x20, 0xB3, 0xB1, 0xB6, 0xAA, 0x29,
    0xDF, 0x21, 0x2F, 0xD8, 0x76, 0x31, 0x82, 0xBC, 0x0D, 0x42, 0x1C, 0xA1,
    0xBB, 0x90, 0x38, 0xFD, 0x1F, 0x7F, 0x42, 0xD4, 0x84, 0x0B, 0x69, 0xC4,
    0x85, 0xBB, 0xC1, 0xAA};

static const uint8_t kat_ciphertext[116] = {
    0x04, 0x04, 0xEB, 0xFC, 0x71, 0x8E, 0x8D, 0x17, 0x98, 0x62, 0x04, 0x32,
    0x26, 0x8E, 0x77, 0xFE, 0xB6, 0x41, 0x5E, 0x2E, 0xDE, 0x0E, 0x07, 0x3C,
    0x0F, 0x4F, 0x64, 0x0E, 0xCD, 0x2E, 0x14, 0x9A, 0x73, 0xE8, 0x58, 0xF9,
    0xD8, 0x1E, 0x54, 0x30, 0xA5, 0x7B, 0x36, 0xDA, 0xAB, 0x8F, 0x95, 0x0A,
    0x3C, 0x64, 0xE6, 0xEE, 0x6A, 0x63, 0x09, 0x4D, 0x99, 0x28, 0x3A, 0xFF,
    0x76, 0x7E, 0x12, 0x4D, 0xF0, 0x59, 0x98, 0x3C, 0x18, 0xF8, 0x09, 0xE2,
    0x62, 0x92, 0x3C, 0x53, 0xAE, 0xC2, 0x95, 0xD3, 0x03, 0x83, 0xB5, 0x4E,
    0x39, 0xD6, 0x09, 0xD1, 0x60, 0xAF, 0xCB, 0x19, 0x08, 0xD0, 0xBD, 0x87,
    0x66, 0x21, 0x88, 0x6C, 0xA9, 0x89, 0xCA, 0x9C, 0x7D, 0x58, 0x08, 0x73,
    0x07, 0xCA, 0x93, 0x09, 0x2D, 0x65, 0x1E, 0xFA};

static const uint8_t kat_sm3_abc[32] = {
    0x66, 0xC7, 0xF0, 0xF4, 0x62, 0xEE, 0xED, 0xD9, 0xD1, 0xF2, 0xD4, 0x6B,
    0xDC, 0x10, 0xE4, 0xE2, 0x41, 0x67, 0xC4, 0x87, 0x5C, 0xF2, 0xF7, 0xA2,
    0x29, 0x7D, 0xA0, 0x2B, 0x8F, 0x4B, 0xA8, 0xE0};

/* SM3 of "abcd", sixteen times. */
static const uint8_t kat_sm3_abcd[32] = {
    0xDE, 0xBE, 0x9F, 0xF9, 0x22, 0x75, 0xB8, 0xA1, 0x38, 0x60, 0x48, 0x89,
    0xC1, 0x8E, 0x5A, 0x4D, 0x6F, 0xDB, 0x70, 0xE5, 0x38, 0x7E, 0x57, 0x65,
    0x29, 0x3D, 0xCB, 0xA3, 0x9C, 0x0C, 0x57, 0x32};

/* SM3 of the hashes of KAT_UNEVEN messages: number i is (37i mod 300) bytes of a pattern, from i on. */
static const uint8_t kat_sm3_uneven[32] = {
    0x62, 0x08, 0xED, 0x2E, 0xAE, 0x02, 0x8E, 0xD4, 0x64, 0xD1, 0xAA, 0x20,
    0x71, 0x29, 0xA7, 0x7E, 0x8B, 0xC4, 0x25, 0x06, 0xB6, 0xC6, 0x16, 0xFC,
    0xC1, 0x1A, 0xFB, 0x6E, 0x46, 0xEB, 0x7C, 0xFE};

/* SM3 of KAT_UNEVEN blocks of the generator seeded with 0, 1, 2, ... */
static const uint8_t kat_drbg[32] = {
    0xA7, 0xD4, 0xB8, 0x42, 0x94, 0xD3, 0x58, 0x07, 0x14, 0x99, 0x2A, 0xCD,
    0x18, 0xAC, 0xAB, 0x63, 0x38, 0xB2, 0xED, 0xD0, 0x8E, 0x05, 0x87, 0x21,
    0xE5, 0xAA, 0xEA, 0xE6, 0x1D, 0x87, 0x73, 0x4A};

static const uint8_t kat_message[] = "message digest";
static const uint8_t kat_plaintext[] = "encryption standard";

/* Enough lanes for every path of a backend, and one more than a round number. */
#define KAT_LANES 33

/* Messages of unequal lengths: more than twice as many as any vector has lanes. */
#define KAT_UNEVEN 71

/* 1 if lanes that are done at different times are right. */
static int sm2_selftest_hash_uneven(const sm2_backend *backend)
{
    uint8_t pattern[KAT_UNEVEN + 300], out[32 * KAT_UNEVEN];
    const uint8_t *message[KAT_UNEVEN];
    size_t length[KAT_UNEVEN], i;

    for (i = 0; i < sizeof pattern; i++) {
        pattern[i] = (uint8_t)(7 * i + i / 64);
    }
    for (i = 0; i < KAT_UNEVEN; i++) {
        message[i] = pattern + i;
        length[i] = 37 * i % 300;
    }
    backend->sm3_many(out, message, length, KAT_UNEVEN);
    sm3_hash(out, out, sizeof out);
    return memcmp(out, kat_sm3_uneven, 32) == 0;
}

/* 1 if the generator is right, in a batch and block by block. */
static int sm2_selftest_drbg(void)
{
    uint8_t seed[SM2_SEED_SIZE], out[32 * KAT_UNEVEN], again[32 * KAT_UNEVEN];
    sm2_drbg g;
    size_t i;
    int ok;

    for (i = 0; i < sizeof seed; i++) {
        seed[i] = (uint8_t)i;
    }
    sm2_drbg_init(&g, seed);
    ok = sm2_drbg_blocks(&g, out, KAT_UNEVEN);
    sm2_drbg_init(&g, seed);
    for (i = 0; i < KAT_UNEVEN; i++) {
        ok &= sm2_drbg_blocks(&g, again + 32 * i, 1);
    }
    ok &= memcmp(out, again, sizeof out) == 0;
    sm3_hash(out, out, sizeof out);
    return ok & (memcmp(out, kat_drbg, 32) == 0);
}

/* 1 if SM3 is right, alone and in a batch. */
static int sm2_selftest_hash(const sm2_backend *backend)
{
    static const uint8_t abcd[] =
        "abcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd";
    const uint8_t *message[KAT_LANES];
    uint8_t out[32 * KAT_LANES];
    size_t length[KAT_LANES], i;
    int ok;

    for (i = 0; i < KAT_LANES; i++) {
        message[i] = (const uint8_t *)"abc";
        length[i] = 3;
    }
    sm3_hash(out, message[0], 3);
    ok = memcmp(out, kat_sm3_abc, 32) == 0;
    backend->sm3_many(out, message, length, KAT_LANES);
    for (i = 0; i < KAT_LANES; i++) {
        ok &= memcmp(out + 32 * i, kat_sm3_abc, 32) == 0;
        message[i] = abcd;
        length[i] = sizeof abcd - 1;
    }
    backend->sm3_many(out, message, length, KAT_LANES);
    for (i = 0; i < KAT_LANES; i++) {
        ok &= memcmp(out + 32 * i, kat_sm3_abcd, 32) == 0;
    }
    return ok & sm2_selftest_hash_uneven(backend);
}

/* 1 if the signature example is met: Z and e, the public key, r and s. */
static int sm2_selftest_sign(const sm2_private *key, const sm2_point *q)
{
    uint8_t out[SM2_PUBLIC_SIZE], id[16];
    sm2_point made;
    sm3_ctx c;
    int ok;

    memcpy(id, "1234567812345678", sizeof id);
    sm2_private_to_public(&made, key);
    sm2_public_export(out, &made);
    ok = memcmp(out, kat_public, sizeof kat_public) == 0;
    ok &= sm2_z(out, id, sizeof id, q) == SM2_OK;
    sm3_init(&c);
    sm3_update(&c, out, 32);
    sm3_update(&c, kat_message, sizeof kat_message - 1);
    sm3_final(&c, out);
    ok &= memcmp(out, kat_digest, 32) == 0;
    ok &= sm2_sign_with_nonce(out, key, kat_digest, kat_nonce) == SM2_OK;
    ok &= memcmp(out, kat_signature, 64) == 0;
    return ok;
}

/* 1 if many lanes of k*G, and of verification with some spoilt, are right. */
static int sm2_selftest_batch(const sm2_backend *backend, const sm2_point *q)
{
    sm2_u256 k[KAT_LANES];
    sm2_point kg[KAT_LANES], expected;
    const sm2_point *key[KAT_LANES];
    uint8_t digest[32 * KAT_LANES], signature[64 * KAT_LANES], valid[KAT_LANES];
    size_t i;
    int ok = 1;

    sm2_u256_load(&expected.x, kat_ciphertext + 1);
    sm2_u256_load(&expected.y, kat_ciphertext + 33);
    for (i = 0; i < KAT_LANES; i++) {
        sm2_u256_load(&k[i], kat_nonce);
        key[i] = q;
        memcpy(digest + 32 * i, kat_digest, 32);
        memcpy(signature + 64 * i, kat_signature, 64);
        if (i % 4 == 1) {
            signature[64 * i + 8 * (i % 8)] ^= 1;
        }
    }
    backend->mulgen_many(kg, k, KAT_LANES);
    sm2_verify_many(valid, key, 1, digest, signature, KAT_LANES);
    for (i = 0; i < KAT_LANES; i++) {
        ok &= (int)(sm2_u256_equal(&kg[i].x, &expected.x) & sm2_u256_equal(&kg[i].y, &expected.y));
        ok &= valid[i] == (i % 4 != 1);
    }
    sm2_verify_many(valid, key, 1, digest, signature, 2);
    return ok & (valid[0] == 1) & (valid[1] == 0);
}

/* 1 if the encryption example is met both ways, and a spoilt ciphertext is refused. */
static int sm2_selftest_cipher(const sm2_private *key, const sm2_point *q)
{
    uint8_t out[sizeof kat_ciphertext], plain[sizeof kat_plaintext];
    size_t n = sizeof kat_plaintext - 1;
    int ok;

    ok = sm2_encrypt_with_nonce(out, q, kat_plaintext, n, kat_nonce) == SM2_OK;
    ok &= memcmp(out, kat_ciphertext, sizeof out) == 0;
    ok &= sm2_decrypt(plain, key, out, sizeof out) == SM2_OK;
    ok &= memcmp(plain, kat_plaintext, n) == 0;
    out[sizeof out - 1] ^= 1;
    ok &= sm2_decrypt(plain, key, out, sizeof out) == SM2_ERR_DECRYPT;
    return ok;
}

/* SM2_OK if every known answer is met. Leaves `backend` in use. */
int sm2_selftest(const sm2_backend *backend)
{
    sm2_private key;
    sm2_point q;
    int ok;

    sm2_use_backend(backend);
    ok = sm2_private_import(&key, kat_d) == SM2_OK;
    ok &= sm2_public_import(&q, kat_public, sizeof kat_public) == SM2_OK;
    ok = ok && sm2_selftest_hash(backend) && sm2_selftest_drbg() && sm2_selftest_sign(&key, &q) &&
         sm2_selftest_batch(backend, &q) && sm2_selftest_cipher(&key, &q);
    return ok ? SM2_OK : SM2_ERR_SELFTEST;
}
