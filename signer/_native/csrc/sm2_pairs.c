/* The consistency test of fresh key pairs: no key is handed out without. */
#include "sm2_internal.h"

/* w[0..words) := random, and public. SM2_ERR_ENTROPY where the source fails. CT: yes. */
static int sm2_pairs_draw(uint16_t w[SM2_PAIRS_WORDS_MAX + 16], size_t words)
{
    sm2_drbg g = SM2_DRBG_UNSEEDED;
    uint8_t seed[SM2_SEED_SIZE];
    int status = sm2_random(seed, sizeof seed);

    if (status == SM2_OK) {
        sm2_drbg_init(&g, seed);
        if (!sm2_drbg_blocks(&g, (uint8_t *)w, (words * sizeof w[0] + 31) / 32)) {
            status = SM2_ERR_ENTROPY;
        }
        sm2_declassify(w, words * sizeof w[0]);
    }
    sm2_wipe(&g, sizeof g);
    sm2_wipe(seed, sizeof seed);
    return status;
}

/* What the combinations are of: the keys, and small ones that fill the last sixteen. d and inv are secret. */
typedef struct {
    sm2_u256 d[SM2_KEYS_MAX], inv[SM2_KEYS_MAX];
    const sm2_point *q[SM2_KEYS_MAX];
    sm2_point filler[16];
    uint16_t w[SM2_PAIRS_WORDS_MAX + 16];
} sm2_pairs_scratch;

/* *s := the n pairs, filled up to a multiple of sixteen, which is returned. CT: yes. */
static size_t sm2_pairs_gather(sm2_pairs_scratch *s, sm2_private *const *key, const sm2_point *q,
                               size_t n)
{
    const size_t full = (n + 15) / 16 * 16;
    size_t i;

    for (i = 0; i < n; i++) {
        s->d[i] = key[i]->d;
        s->q[i] = &q[i];
    }
    for (; i < full; i++) {
        memset(&s->d[i], 0, sizeof s->d[i]);
        s->d[i].v[0] = i - n + 1;
        s->q[i] = &s->filler[i - n];
    }
    if (full > n) {
        sm2_active_backend->mulgen_many(s->filler, s->d + n, full - n);
    }
    return full;
}

/* 1 if inv_mont is 1/(1+d) in every key, by the kernel. s->d is used up. CT: yes; the verdict is public. */
static int sm2_pairs_many_inverses(sm2_pairs_scratch *s, sm2_private *const *key, size_t n, size_t full)
{
    static const sm2_u256 one = {{1, 0, 0, 0}};
    size_t i;

    for (i = 0; i < full; i++) {
        s->inv[i] = key[i < n ? i : 0]->inv_mont;
        sm2_fn_add(&s->d[i], &key[i < n ? i : 0]->d, &one);
    }
    return sm2_declassify_bit((uint64_t)sm2_active_backend->order_inverses_are(s->inv, s->d, full));
}

/*
 * 1 if want[i] := t[i]*G for all sixteen, the first as the scalar code finds
 * it as well; 0 if not, or if a t[i] is 0. The points are public. CT: yes.
 */
static int sm2_pairs_want(sm2_point want[16], const sm2_u256 t[16])
{
    sm2_point again;
    uint64_t zero = 0;
    size_t i;

    for (i = 0; i < 16; i++) {
        zero |= sm2_u256_is_zero(&t[i]);
    }
    if (sm2_declassify_bit(zero)) {
        return 0;
    }
    sm2_active_backend->mulgen_many(want, t, 16);
    sm2_active_backend->mulgen_many(&again, t, 1);
    sm2_declassify(want, 16 * sizeof *want);
    sm2_declassify(&again, sizeof again);
    return (int)(sm2_u256_equal(&again.x, &want[0].x) & sm2_u256_equal(&again.y, &want[0].y));
}

/*
 * 1 if random combinations of the public keys are the same combinations of
 * the private keys times G, and the inverses hold. Coefficients are not 0
 * mod n, so a wrong pair that is the only one in its lane is always found.
 * Whatever is wrong with several, they escape with probability 2^-64 at most:
 * each is in two combinations with independent coefficients, of which none
 * has a probability above 2^-32 (sm2_pairs_shape). 0 also where the backend
 * has no kernels for it. CT: yes; the verdict and the combinations of points are public.
 */
static int sm2_pairs_combinations(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    sm2_pairs_scratch s;
    sm2_u256 t[16];
    sm2_point want[16];
    size_t full;
    int ok = 0;

    if (sm2_active_backend->combine == NULL || n < SM2_PAIRS_MIN) {
        return 0;
    }
    full = sm2_pairs_gather(&s, key, q, n);
    *status = sm2_pairs_draw(s.w, sm2_pairs_words(full));
    if (*status == SM2_OK) {
        sm2_active_backend->combine(t, s.w, s.d, full);
        ok = sm2_pairs_want(want, t) &&
             sm2_active_backend->combinations_are_vartime(want, s.w, s.q, full) &&
             sm2_pairs_many_inverses(&s, key, n, full);
    }
    sm2_wipe(s.d, full * sizeof s.d[0]);
    sm2_wipe(s.inv, full * sizeof s.inv[0]);
    sm2_wipe(t, sizeof t);
    return ok;
}

/* 1 if inv_mont is 1/(1+d) in every key. CT: yes; the verdict is public. */
static int sm2_pairs_inverses(sm2_private *const *key, size_t n)
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
    return sm2_declassify_bit(ok);
}

/*
 * 1 if each of the n pairs signs what its public key verifies, and the private
 * key belongs to the inverse, which is all that signing reads. CT: yes.
 */
static int sm2_pairs_sign(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    const sm2_point *public_key[SM2_LANES_MAX];
    uint8_t digest[32 * SM2_LANES_MAX], signature[64 * SM2_LANES_MAX], valid[SM2_LANES_MAX];
    size_t i;
    int ok = sm2_pairs_inverses(key, n);

    if (n == 0 || !ok) {
        return ok;
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

/* 1 if the n pairs are consistent. n <= SM2_KEYS_MAX. CT: yes; the verdict is public. */
int sm2_pairs_are_consistent(sm2_private *const *key, const sm2_point *q, size_t n, int *status)
{
    size_t i, take;
    int ok = 1;

    *status = SM2_OK;
    if (sm2_pairs_combinations(key, q, n, status)) {
        return 1;
    }
    for (i = 0; i < n && ok && *status == SM2_OK; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        ok = sm2_pairs_sign(key + i, q + i, take, status);
    }
    return ok && *status == SM2_OK;
}
