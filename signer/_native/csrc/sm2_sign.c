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
static int sm2_sign_chunk(uint8_t *out, const sm2_private *const *key, size_t key_step,
                          const uint8_t *digest, size_t n)
{
    sm2_u256 k[SM2_LANES_MAX];
    sm2_point kg[SM2_LANES_MAX];
    size_t lane[SM2_LANES_MAX], pending = n, left, i;
    int status = SM2_OK, rounds;

    for (i = 0; i < n; i++) {
        lane[i] = i;
    }
    for (rounds = 0; pending > 0 && status == SM2_OK; rounds++) {
        status = rounds < SM2_DRAWS_MAX ? sm2_random_scalars(k, pending) : SM2_ERR_ENTROPY;
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
    int status = SM2_OK;
    size_t i, take;

    for (i = 0; i < n && status == SM2_OK; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        status = sm2_sign_chunk(out + 64 * i, key + i * key_step, key_step, digest + 32 * i, take);
    }
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

/* Up to SM2_LANES_MAX verifications; only well-formed ones reach the kernel. CT: no, public. */
static void sm2_verify_chunk_vartime(uint8_t *valid, const sm2_point *const *q, size_t q_step,
                                     const uint8_t *digest, const uint8_t *signature, size_t n)
{
    sm2_u256 s[SM2_LANES_MAX], t[SM2_LANES_MAX], x[SM2_LANES_MAX], want[SM2_LANES_MAX];
    const sm2_point *key[SM2_LANES_MAX];
    uint8_t finite[SM2_LANES_MAX];
    size_t lane[SM2_LANES_MAX], used = 0, i;

    for (i = 0; i < n; i++) {
        valid[i] = 0;
        if (sm2_verify_prepare_vartime(&s[used], &t[used], &want[used], signature + 64 * i,
                                       digest + 32 * i)) {
            key[used] = q[i * q_step];
            lane[used++] = i;
        }
    }
    if (used == 0) {
        return;
    }
    sm2_active_backend->mul2_many_vartime(x, finite, s, t, key, used);
    for (i = 0; i < used; i++) { /* e + x1 = r mod n; x1 may be in [n, p) */
        sm2_fn_reduce(&x[i], &x[i]);
        valid[lane[i]] = (uint8_t)(finite[i] & sm2_u256_equal(&x[i], &want[i]));
    }
}

/* valid[i] := 1 or 0, each lane for itself. CT: no, public. */
void sm2_verify_many(uint8_t *valid, const sm2_point *const *q, size_t q_step,
                     const uint8_t *digest, const uint8_t *signature, size_t n)
{
    size_t i, take;

    for (i = 0; i < n; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        sm2_verify_chunk_vartime(valid + i, q + i * q_step, q_step, digest + 32 * i,
                                 signature + 64 * i, take);
    }
}
