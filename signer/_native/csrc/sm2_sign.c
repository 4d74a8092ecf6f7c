/* Signing and verification of digests (GB/T 32918.2 sections 6.1 and 7.1). */
#include "sm2_internal.h"

/*
 * out := r||s for the nonce k and x1, the x-coordinate of k*G:
 *   r = e + x1 mod n,  s = (k + r)/(1 + d) - r mod n,
 * which is the standard's (k - r*d)/(1 + d). Returns 1, or 0 (out untouched)
 * where the standard asks for another nonce: r = 0, r + k = n, s = 0.
 * In: 0 < k < n, x1 < p. CT: yes; whether to retry is public, and r and s are.
 */
static int sm2_sign_lane(uint8_t out[64], const sm2_private *key, const uint8_t digest[32],
                         const sm2_u256 *k, const sm2_u256 *x1)
{
    sm2_u256 e, r, s, t;
    uint64_t retry;
    int ok;

    sm2_u256_load(&e, digest);
    sm2_fn_reduce(&e, &e);
    sm2_fn_reduce(&r, x1);
    sm2_fn_add(&r, &r, &e);
    sm2_fn_add(&t, &r, k);
    retry = sm2_u256_is_zero(&r) | sm2_u256_is_zero(&t);
    sm2_fn_mont_mul(&s, &t, &key->inv_mont);
    sm2_fn_sub(&s, &s, &r);
    retry |= sm2_u256_is_zero(&s);
    ok = !sm2_declassify_bit(retry);
    if (ok) {
        sm2_declassify(&r, sizeof r);
        sm2_declassify(&s, sizeof s);
        sm2_u256_store(out, &r);
        sm2_u256_store(out + 32, &s);
    }
    sm2_wipe(&r, sizeof r);
    sm2_wipe(&s, sizeof s);
    sm2_wipe(&t, sizeof t);
    return ok;
}

/* Up to SM2_LANES_MAX signatures; as sm2_sign_many, but out is not cleared on failure. CT: yes. */
static int sm2_sign_chunk(uint8_t *out, sm2_drbg *nonces, const sm2_private *const *key,
                          size_t key_step, const uint8_t *digest, size_t n)
{
    sm2_u256 k[SM2_LANES_MAX];
    sm2_point kg[SM2_LANES_MAX];
    size_t lane[SM2_LANES_MAX], pending = n, left, i;
    int status = SM2_OK, rounds;

    for (i = 0; i < n; i++) {
        lane[i] = i;
    }
    for (rounds = 0; pending > 0 && status == SM2_OK; rounds++) {
        status = rounds < SM2_DRAWS_MAX ? sm2_batch_scalars(nonces, k, pending) : SM2_ERR_ENTROPY;
        if (status != SM2_OK) {
            break;
        }
        sm2_active_backend->mulgen_many(kg, k, pending);
        for (left = 0, i = 0; i < pending; i++) {
            size_t at = lane[i];

            if (!sm2_sign_lane(out + 64 * at, key[at * key_step], digest + 32 * at, &k[i],
                               &kg[i].x)) {
                lane[left++] = at;
            }
        }
        pending = left;
    }
    sm2_wipe(k, n * sizeof k[0]);
    sm2_wipe(kg, n * sizeof kg[0]);
    return status;
}

/* n signatures, or none at all. CT: yes. */
int sm2_sign_many(uint8_t *out, const sm2_private *const *key, size_t key_step,
                  const uint8_t *digest, size_t n)
{
    sm2_drbg nonces = SM2_DRBG_UNSEEDED;
    int status = SM2_OK;
    size_t i, take;

    for (i = 0; i < n && status == SM2_OK; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        status = sm2_sign_chunk(out + 64 * i, &nonces, key + i * key_step, key_step,
                                digest + 32 * i, take);
    }
    sm2_wipe(&nonces, sizeof nonces);
    if (status != SM2_OK) {
        sm2_wipe(out, 64 * n);
    }
    return status;
}

/* One signature with the caller's nonce. CT: yes. */
int sm2_sign_with_nonce(uint8_t out[SM2_SIGNATURE_SIZE], const sm2_private *key,
                        const uint8_t digest[SM2_DIGEST_SIZE], const uint8_t nonce[32])
{
    sm2_u256 k;
    sm2_point kg;
    int ok;

    sm2_u256_load(&k, nonce);
    ok = sm2_declassify_bit(sm2_fn_is_valid(&k));
    if (ok) {
        sm2_active_backend->mulgen_many(&kg, &k, 1);
        ok = sm2_sign_lane(out, key, digest, &k, &kg.x);
        sm2_wipe(&kg, sizeof kg);
    }
    sm2_wipe(&k, sizeof k);
    return ok ? SM2_OK : SM2_ERR_NONCE;
}

/*
 * *s := s, *t := r+s mod n and *x := r-e mod n, if r and s are in [1, n-1] as
 * integers and r+s is not 0 mod n; returns 1 if so, else 0. The signature is
 * read here and nowhere else. CT: no, public.
 */
static int sm2_verify_prepare_vartime(sm2_u256 *s, sm2_u256 *t, sm2_u256 *x,
                                      const uint8_t signature[64], const uint8_t digest[32])
{
    sm2_u256 r, e;

    sm2_u256_load(&r, signature);
    sm2_u256_load(s, signature + 32);
    if (!sm2_fn_is_valid(&r) || !sm2_fn_is_valid(s)) {
        return 0;
    }
    sm2_u256_load(&e, digest);
    sm2_fn_reduce(&e, &e);
    sm2_fn_sub(x, &r, &e);
    sm2_fn_add(t, &r, s);
    return !sm2_u256_is_zero(t);
}

/* Up to SM2_LANES_MAX verifications under way; prepared keys fill the arrays from below, others from above. */
typedef struct {
    sm2_u256 s[SM2_LANES_MAX], t[SM2_LANES_MAX], x[SM2_LANES_MAX], want[SM2_LANES_MAX];
    const sm2_point *key[SM2_LANES_MAX];
    const void *table[SM2_LANES_MAX];
    uint8_t finite[SM2_LANES_MAX];
    size_t lane[SM2_LANES_MAX];
} sm2_verify_scratch;

/* valid[lane[i]] := 1 if x[i] is as wanted, for from <= i < to. CT: no, public. */
static void sm2_verify_compare_vartime(uint8_t *valid, sm2_verify_scratch *w, size_t from, size_t to)
{
    size_t i;

    for (i = from; i < to; i++) { /* e + x1 = r mod n; x1 may be in [n, p) */
        sm2_fn_reduce(&w->x[i], &w->x[i]);
        valid[w->lane[i]] = (uint8_t)(w->finite[i] & sm2_u256_equal(&w->x[i], &w->want[i]));
    }
}

/* Up to SM2_LANES_MAX verifications; only well-formed ones reach the kernels. CT: no, public. */
static void sm2_verify_chunk_vartime(uint8_t *valid, const sm2_point *const *q,
                                     const void *const *table, size_t q_step,
                                     const uint8_t *digest, const uint8_t *signature, size_t n)
{
    sm2_verify_scratch w;
    size_t low = 0, high = SM2_LANES_MAX, at, i;
    const void *known;

    for (i = 0; i < n; i++) {
        valid[i] = 0;
        known = table != NULL ? table[i * q_step] : NULL;
        at = known != NULL ? low : high - 1;
        if (sm2_verify_prepare_vartime(&w.s[at], &w.t[at], &w.want[at], signature + 64 * i,
                                       digest + 32 * i)) {
            w.key[at] = q[i * q_step];
            w.table[at] = known;
            w.lane[at] = i;
            low += known != NULL;
            high -= known == NULL;
        }
    }
    if (low > 0) {
        sm2_active_backend->mul2_prepared_many_vartime(w.x, w.finite, w.s, w.t, w.key, w.table, low);
        sm2_verify_compare_vartime(valid, &w, 0, low);
    }
    if (high < SM2_LANES_MAX) {
        sm2_active_backend->mul2_many_vartime(w.x + high, w.finite + high, w.s + high, w.t + high,
                                              w.key + high, SM2_LANES_MAX - high);
        sm2_verify_compare_vartime(valid, &w, high, SM2_LANES_MAX);
    }
}

/* Bytes of the table of one key, or 0. */
size_t sm2_key_table_size(void)
{
    return sm2_active_backend->key_table_size;
}

/* table := what makes verification under q faster. CT: no, public. */
void sm2_key_table_build(void *table, const sm2_point *q)
{
    sm2_active_backend->key_table_build(table, q);
}

/* valid[i] := 1 or 0, each lane for itself, with the tables of keys that have one. CT: no, public. */
void sm2_verify_prepared_many(uint8_t *valid, const sm2_point *const *q,
                              const void *const *table, size_t q_step, const uint8_t *digest,
                              const uint8_t *signature, size_t n)
{
    size_t i, take;

    for (i = 0; i < n; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        sm2_verify_chunk_vartime(valid + i, q + i * q_step,
                                 table != NULL ? table + i * q_step : NULL, q_step,
                                 digest + 32 * i, signature + 64 * i, take);
    }
}

/* valid[i] := 1 or 0, each lane for itself. CT: no, public. */
void sm2_verify_many(uint8_t *valid, const sm2_point *const *q, size_t q_step,
                     const uint8_t *digest, const uint8_t *signature, size_t n)
{
    sm2_verify_prepared_many(valid, q, NULL, q_step, digest, signature, n);
}
