/* Public-key encryption (GB/T 32918.4-2016) and its key derivation function. */
#include "sm2_internal.h"

/* kdf := the state after the fixed input. CT: yes. */
void sm2_kdf_init(sm2_kdf *kdf, const uint8_t *z, size_t blocks)
{
    sm3_ctx c;

    sm3_init(&c);
    memcpy(kdf->state, c.state, sizeof kdf->state);
    sm3_compress(kdf->state, z, blocks);
    kdf->length = 64 * (uint64_t)blocks;
}

/* out := SM3(z || counter): one compression, because z is whole blocks. CT: yes. */
void sm2_kdf_block(uint8_t out[32], const sm2_kdf *kdf, uint32_t counter)
{
    uint8_t block[64] = {0};
    uint32_t state[8];
    int i;

    for (i = 0; i < 4; i++) {
        block[i] = (uint8_t)(counter >> (24 - 8 * i));
    }
    block[4] = 0x80;
    sm2_store64_be(block + 56, (kdf->length + 4) << 3);
    memcpy(state, kdf->state, sizeof state);
    sm3_compress(state, block, 1);
    for (i = 0; i < 8; i++) {
        out[4 * i] = (uint8_t)(state[i] >> 24);
        out[4 * i + 1] = (uint8_t)(state[i] >> 16);
        out[4 * i + 2] = (uint8_t)(state[i] >> 8);
        out[4 * i + 3] = (uint8_t)state[i];
    }
    sm2_wipe(state, sizeof state);
}

/* out := in XOR the key stream; returns the OR of the stream's bytes. CT: yes. */
static uint64_t sm2_stream_xor(uint8_t *out, const uint8_t *in, size_t n, const sm2_kdf *kdf)
{
    uint8_t t[32];
    uint64_t any = 0;
    size_t i, j;

    for (i = 0; i < n; i += 32) {
        sm2_kdf_block(t, kdf, (uint32_t)(i / 32 + 1));
        for (j = 0; j < 32 && i + j < n; j++) {
            any |= t[j];
            out[i + j] = in[i + j] ^ t[j];
        }
    }
    sm2_wipe(t, sizeof t);
    return any;
}

/*
 * out := C1||C3||C2 for the nonce k; returns 1, or 0 (out meaningless) if the
 * key stream is all zero and another nonce must be taken. In: 0 < k < n, q a
 * valid key, n >= 1. CT: yes.
 */
static int sm2_encrypt_with_scalar(uint8_t *out, const sm2_point *q, const uint8_t *message,
                                   size_t n, const sm2_u256 *k)
{
    sm2_point c1, shared;
    uint8_t xy[64];
    sm2_kdf kdf;
    sm3_ctx c3;
    uint64_t any;

    sm2_active_backend->mulgen_many(&c1, k, 1);
    sm2_declassify(&c1, sizeof c1);
    sm2_active_backend->mul_many(&shared, k, &q, 1);
    sm2_point_store(xy, &shared);
    sm2_kdf_init(&kdf, xy, 1);
    any = sm2_stream_xor(out + SM2_CIPHERTEXT_OVERHEAD, message, n, &kdf);
    out[0] = 0x04;
    sm2_point_store(out + 1, &c1);
    sm3_init(&c3);
    sm3_update(&c3, xy, 32);
    sm3_update(&c3, message, n);
    sm3_update(&c3, xy + 32, 32);
    sm3_final(&c3, out + 65);
    sm2_wipe(&shared, sizeof shared);
    sm2_wipe(xy, sizeof xy);
    sm2_wipe(&kdf, sizeof kdf);
    if (sm2_declassify_bit(sm2_is_zero64(any))) {
        sm2_wipe(out, SM2_CIPHERTEXT_OVERHEAD + n);
        return 0;
    }
    sm2_declassify(out, SM2_CIPHERTEXT_OVERHEAD + n);
    return 1;
}

/* out := C1||C3||C2. CT: yes (in the contents). */
int sm2_encrypt(uint8_t *out, const sm2_point *q, const uint8_t *message, size_t n)
{
    sm2_u256 k;
    int status = SM2_OK, done = 0, rounds;

    if (n == 0 || n > SM2_PLAINTEXT_MAX) {
        return SM2_ERR_LENGTH;
    }
    for (rounds = 0; !done && status == SM2_OK; rounds++) {
        status = rounds < SM2_DRAWS_MAX ? sm2_random_scalars(&k, 1) : SM2_ERR_ENTROPY;
        if (status == SM2_OK) {
            done = sm2_encrypt_with_scalar(out, q, message, n, &k);
        }
    }
    sm2_wipe(&k, sizeof k);
    return status;
}

/* out := C1||C3||C2 with the caller's nonce. CT: yes. */
int sm2_encrypt_with_nonce(uint8_t *out, const sm2_point *q, const uint8_t *message, size_t n,
                           const uint8_t nonce[32])
{
    sm2_u256 k;
    int ok;

    if (n == 0 || n > SM2_PLAINTEXT_MAX) {
        return SM2_ERR_LENGTH;
    }
    sm2_u256_load(&k, nonce);
    ok = sm2_declassify_bit(sm2_fn_is_valid(&k)) && sm2_encrypt_with_scalar(out, q, message, n, &k);
    sm2_wipe(&k, sizeof k);
    return ok ? SM2_OK : SM2_ERR_NONCE;
}

/*
 * 1 if c3 is the hash of the plaintext and the key stream is not all zero. The
 * plaintext passes through 32 bytes of stack and goes nowhere. CT: yes.
 */
static uint64_t sm2_decrypt_check(const uint8_t c3[32], const uint8_t *c2, size_t n,
                                  const uint8_t xy[64], const sm2_kdf *kdf)
{
    uint8_t t[32], u[32];
    uint64_t any = 0, ok;
    sm3_ctx c;
    size_t i, j, take;

    sm3_init(&c);
    sm3_update(&c, xy, 32);
    for (i = 0; i < n; i += take) {
        take = n - i < 32 ? n - i : 32;
        sm2_kdf_block(t, kdf, (uint32_t)(i / 32 + 1));
        for (j = 0; j < take; j++) {
            any |= t[j];
            t[j] ^= c2[i + j];
        }
        sm3_update(&c, t, take);
    }
    sm3_update(&c, xy + 32, 32);
    sm3_final(&c, u);
    ok = sm2_ct_equal(u, c3, 32) & (1 ^ sm2_is_zero64(any));
    sm2_wipe(t, sizeof t);
    sm2_wipe(u, sizeof u);
    return ok;
}

/* out := the plaintext, only if C3 is right. CT: yes; the verdict is public. */
int sm2_decrypt(uint8_t *out, const sm2_private *key, const uint8_t *ciphertext, size_t n)
{
    const uint8_t *c3 = ciphertext + 65, *c2 = ciphertext + SM2_CIPHERTEXT_OVERHEAD;
    sm2_point c1, shared;
    const sm2_point *base = &c1;
    uint8_t xy[64];
    sm2_kdf kdf;
    int ok;

    if (n <= SM2_CIPHERTEXT_OVERHEAD || n - SM2_CIPHERTEXT_OVERHEAD > SM2_PLAINTEXT_MAX) {
        return SM2_ERR_ENCODING;
    }
    n -= SM2_CIPHERTEXT_OVERHEAD;
    sm2_u256_load(&c1.x, ciphertext + 1);
    sm2_u256_load(&c1.y, ciphertext + 33);
    if (ciphertext[0] != 0x04 || !sm2_u256_less(&c1.x, &sm2_p) || !sm2_u256_less(&c1.y, &sm2_p)) {
        return SM2_ERR_ENCODING;
    }
    if (!sm2_point_is_valid(&c1)) {
        return SM2_ERR_DECRYPT;
    }
    sm2_active_backend->mul_many(&shared, &key->d, &base, 1);
    sm2_point_store(xy, &shared);
    sm2_kdf_init(&kdf, xy, 1);
    ok = sm2_declassify_bit(sm2_decrypt_check(c3, c2, n, xy, &kdf));
    if (ok) {
        (void)sm2_stream_xor(out, c2, n, &kdf);
    }
    sm2_wipe(&shared, sizeof shared);
    sm2_wipe(xy, sizeof xy);
    sm2_wipe(&kdf, sizeof kdf);
    return ok ? SM2_OK : SM2_ERR_DECRYPT;
}
