/* The consistency test of fresh key pairs: no key is handed out without. */
#include "sm2_internal.h"

/*
 * *t := the sum of c[i]*d[i] mod n, where c[i] = 2^16 - 1 - 2*w[i], which is
 * the sum of +-2^j with minus where bit j of w[i] is set. CT: yes.
 */
static void sm2_pairs_combine(sm2_u256 *t, const uint16_t *w, sm2_private *const *key, size_t n)
{
    static const sm2_u256 most = {{0xFFFF, 0, 0, 0}};
    sm2_u256 sum = {{0, 0, 0, 0}}, high = {{0, 0, 0, 0}}, low = {{0, 0, 0, 0}};
    uint64_t h, c;
    size_t i;
    int j;

    for (i = 0; i < n; i++) {
        sm2_fn_add(&sum, &sum, &key[i]->d);
        for (h = 0, c = 0, j = 0; j < 4; j++) {
            uint64_t part = sm2_mac(key[i]->d.v[j], w[i], h, 0, &h);

            low.v[j] = sm2_adc(low.v[j], part, &c);
        }
        high.v[0] += h + c; /* n sums of 16 bits */
    }
    sm2_fn_reduce(&low, &low);
    sm2_fn_to_mont(&high, &high); /* high*2^256 */
    sm2_fn_add(&low, &low, &high);
    sm2_fn_add(&low, &low, &low);
    sm2_fn_to_mont(&sum, &sum);
    sm2_fn_mont_mul(&sum, &sum, &most);
    sm2_fn_sub(t, &sum, &low);
    sm2_wipe(&sum, sizeof sum);
    sm2_wipe(&low, sizeof low);
    sm2_wipe(&high, sizeof high);
}

/* 1 if inv_mont is 1/(1+d) in every key. CT: yes. */
static uint64_t sm2_pairs_inverses(sm2_private *const *key, size_t n)
{
    static const sm2_u256 one = {{1, 0, 0, 0}};
    sm2_u256 t;
    uint64_t ok = 1;
    size_t i;

    for (i = 0; i < n; i++) {
        sm2_fn_add(&t, &key[i]->d, &one);
        sm2_fn_mont_mul(&t, &t, &key[i]->inv_mont);
        ok &= sm2_u256_equal(&t, &one);
    }
    sm2_wipe(&t, sizeof t);
    return ok;
}

/* w[0..n) := random, and public. SM2_ERR_ENTROPY where the source fails. In: n <= SM2_LANES_MAX. CT: yes. */
static int sm2_pairs_draw(uint16_t w[SM2_LANES_MAX], size_t n)
{
    sm2_drbg g = SM2_DRBG_UNSEEDED;
    uint8_t seed[SM2_SEED_SIZE];
    int status = sm2_random(seed, sizeof seed);

    if (status == SM2_OK) {
        sm2_drbg_init(&g, seed);
        if (!sm2_drbg_blocks(&g, (uint8_t *)w, (n * sizeof w[0] + 31) >> 5)) {
            status = SM2_ERR_ENTROPY;
        }
        sm2_declassify(w, SM2_LANES_MAX * sizeof w[0]);
    }
    sm2_wipe(&g, sizeof g);
    sm2_wipe(seed, sizeof seed);
    return status;
}

/*
 * 1 if a random combination of the public keys is the same combination of the
 * private keys times G, as computed for one scalar alone, and the inverses
 * hold. A single wrong pair is always found; several whose errors are in
 * league escape with probability 2^-16 at most. 0 also where the backend has
 * no kernel for it. CT: yes; the verdict and the combination of points are public.
 */
static int sm2_pairs_combination(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    uint16_t w[SM2_LANES_MAX];
    sm2_point want;
    sm2_u256 t;
    int ok;

    if (sm2_active_backend->combination_is_vartime == NULL || n < SM2_PAIRS_MIN) {
        return 0;
    }
    *status = sm2_pairs_draw(w, n);
    if (*status != SM2_OK) {
        return 0;
    }
    sm2_pairs_combine(&t, w, key, n);
    ok = !sm2_declassify_bit(sm2_u256_is_zero(&t));
    if (ok) {
        sm2_active_backend->mulgen_many(&want, &t, 1);
        sm2_declassify(&want, sizeof want);
        ok = sm2_active_backend->combination_is_vartime(&want, w, q, n) &&
             sm2_declassify_bit(sm2_pairs_inverses(key, n));
    }
    sm2_wipe(&t, sizeof t);
    return ok;
}

/* 1 if each of the n pairs signs what its public key verifies. CT: yes. */
static int sm2_pairs_sign(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    const sm2_point *public_key[SM2_LANES_MAX];
    uint8_t digest[32 * SM2_LANES_MAX], signature[64 * SM2_LANES_MAX], valid[SM2_LANES_MAX];
    size_t i;
    int ok = 1;

    if (n == 0) {
        return 1;
    }
    for (i = 0; i < n; i++) {
        public_key[i] = &q[i];
        sm2_u256_store(digest + 32 * i, &q[i].x);
    }
    *status = sm2_sign_many(signature, (const sm2_private *const *)key, 1, digest, n);
    if (*status != SM2_OK) {
        return 0;
    }
    sm2_verify_many(valid, public_key, 1, digest, signature, n);
    for (i = 0; i < n; i++) {
        ok &= valid[i];
    }
    return ok;
}

/* 1 if the n pairs are consistent. n <= SM2_LANES_MAX. CT: yes; the verdict is public. */
int sm2_pairs_are_consistent(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    *status = SM2_OK;
    if (sm2_pairs_combination(key, q, n, status)) {
        return 1;
    }
    return *status == SM2_OK && sm2_pairs_sign(key, q, n, status);
}
