/*
 * The random bits of one batch: Hash_DRBG (NIST SP 800-90A section 10.1.1,
 * GM/T 0105) with SM3, instantiated for the batch and wiped after it.
 *
 * What would carry it from one request to the next (the constant C, the
 * reseed counter, the update of V) has no place here: nothing outlives the
 * batch, so nothing can be duplicated by a fork or read out afterwards. V + 0,
 * V + 1, ... are one block of SM3 each and are hashed in lanes.
 */
#include "sm2_internal.h"

#define DRBG_V_SIZE 55 /* seedlen, 440 bits */
#define DRBG_STRIP 64  /* blocks hashed at once */

/* 1 if no block repeats the one before it. In: size a multiple of 8. CT: yes; public verdict. */
int sm2_blocks_differ(const uint8_t *p, size_t size, size_t n)
{
    uint64_t same = 0, diff, x, y;
    size_t i, j;

    for (i = 1; i < n; i++, p += size) {
        for (diff = 0, j = 0; j < size; j += 8) {
            memcpy(&x, p + j, 8);
            memcpy(&y, p + size + j, 8);
            diff |= x ^ y;
        }
        same |= sm2_is_zero64(diff);
    }
    return !sm2_declassify_bit(same);
}

/* V := Hash_df(seed, 440 bits), SP 800-90A section 10.3.1. CT: yes. */
void sm2_drbg_init(sm2_drbg *g, const uint8_t seed[SM2_SEED_SIZE])
{
    static const uint8_t bits[4] = {0, 0, 8 * DRBG_V_SIZE >> 8, 8 * DRBG_V_SIZE & 0xFF};
    uint8_t in[2][1 + sizeof bits + SM2_SEED_SIZE], out[64];
    const uint8_t *message[2] = {in[0], in[1]};
    size_t length[2] = {sizeof in[0], sizeof in[1]}, i;

    for (i = 0; i < 2; i++) {
        in[i][0] = (uint8_t)(1 + i);
        memcpy(in[i] + 1, bits, sizeof bits);
        memcpy(in[i] + 1 + sizeof bits, seed, SM2_SEED_SIZE);
    }
    sm2_active_backend->sm3_many(out, message, length, 2);
    out[DRBG_V_SIZE] = 0;
    for (i = 0; i < 7; i++) {
        g->v[6 - i] = sm2_load64_be(out + 8 * i);
    }
    memset(g->last, 0, sizeof g->last);
    g->left = SM2_DRBG_BLOCKS;
    sm2_wipe(in, sizeof in);
    sm2_wipe(out, sizeof out);
}

/* out := V and a zero byte; V := V + 1. v: 256*V. CT: yes. */
SM2_INLINE void sm2_drbg_step(uint64_t v[7], uint8_t out[DRBG_V_SIZE + 1])
{
    uint64_t carry = 0;
    size_t i;

    for (i = 0; i < 7; i++) {
        sm2_store64_be(out + 8 * (6 - i), v[i]);
        v[i] = sm2_adc(v[i], i == 0 ? 256 : 0, &carry);
    }
}

/* out := the next n blocks; 1, or 0 if one repeats the one before it. CT: yes. */
int sm2_drbg_blocks(sm2_drbg *g, uint8_t *out, size_t n)
{
    _Alignas(SM3_BLOCK_SIZE) uint8_t in[DRBG_STRIP][SM3_BLOCK_SIZE];
    const uint8_t *message[DRBG_STRIP];
    size_t length[DRBG_STRIP], done, take, i;
    uint64_t v[7];
    int ok = 1;

    VERIFY_CHECK(n <= g->left);
    g->left -= n;
    memcpy(v, g->v, sizeof v);
    for (done = 0; done < n; done += take) {
        take = n - done < DRBG_STRIP ? n - done : DRBG_STRIP;
        for (i = 0; i < take; i++) {
            sm2_drbg_step(v, in[i]);
            message[i] = in[i];
            length[i] = DRBG_V_SIZE;
        }
        sm2_active_backend->sm3_many(out + 32 * done, message, length, take);
    }
    memcpy(g->v, v, sizeof v);
    if (n > 0) {
        ok = !sm2_declassify_bit(sm2_ct_equal(g->last, out, 32));
        ok &= sm2_blocks_differ(out, 32, n);
        memcpy(g->last, out + 32 * (n - 1), 32);
    }
    sm2_wipe(v, sizeof v);
    sm2_wipe(in, (n < DRBG_STRIP ? n : DRBG_STRIP) * sizeof in[0]);
    return ok;
}
