/*
 * SM2 (GB/T 32918) on sm2p256v1: keys, signatures, encryption, key agreement.
 *
 * Outputs come first, a length directly follows its buffer. Functions that can
 * fail return SM2_OK or one of the negative codes; on failure their outputs
 * hold nothing of value. Before anything else, sm2_use_backend() must be given
 * a backend; it and sm2_set_entropy() are for start-up and tests, not for use
 * while other threads are inside.
 */
#ifndef SM2_H
#define SM2_H

#include "sm2_backend.h"

#define SM2_OK 0
#define SM2_ERR_KEY (-1)       /* not a valid private or public key */
#define SM2_ERR_ENTROPY (-2)   /* the random source failed */
#define SM2_ERR_SIGNATURE (-3) /* the signature is not valid */
#define SM2_ERR_ENCODING (-4)  /* the bytes are not a well-formed value */
#define SM2_ERR_DECRYPT (-5)   /* well formed, but not decryptable with this key */
#define SM2_ERR_LENGTH (-6)    /* too long or too short for the operation */
#define SM2_ERR_NONCE (-7)     /* this nonce gives no signature; only for a given nonce */
#define SM2_ERR_AGREEMENT (-8) /* the shared point is at infinity */
#define SM2_ERR_SELFTEST (-9)  /* a known answer was not met */

#define SM2_PRIVATE_SIZE 32
#define SM2_PUBLIC_SIZE 65
#define SM2_PUBLIC_COMPRESSED_SIZE 33
#define SM2_DIGEST_SIZE 32
#define SM2_SIGNATURE_SIZE 64
#define SM2_SIGNATURE_DER_MAX 72
#define SM2_ID_MAX 8191              /* its length in bits has 16 bits */
#define SM2_CIPHERTEXT_OVERHEAD 97   /* 04 || x1 || y1 || C3 */
#define SM2_CIPHERTEXT_DER_OVERHEAD 120
#define SM2_PLAINTEXT_MAX ((size_t)1 << 30)

/* A private key and what signing needs of it. All of it is secret. */
typedef struct {
    sm2_u256 d;        /* 1 <= d <= n-2 */
    sm2_u256 inv_mont; /* 1/(1+d) mod n, in Montgomery form */
} sm2_private;

/* --- start-up ---------------------------------------------------------- */

void sm2_use_backend(const sm2_backend *backend);

/* Fills out with n bytes; returns 0, or anything else on failure. */
typedef int (*sm2_entropy_fn)(void *ctx, uint8_t *out, size_t n);

/* Replaces the source of random bytes; NULL puts the operating system's back. */
void sm2_set_entropy(sm2_entropy_fn fn, void *ctx);

/* SM2_OK, or SM2_ERR_SELFTEST if a known answer is not met. Leaves `backend` in use. */
int sm2_selftest(const sm2_backend *backend);

/* --- keys -------------------------------------------------------------- */

/* SM2_ERR_KEY if d is not in [1, n-2]. CT: yes. */
int sm2_private_import(sm2_private *key, const uint8_t d[SM2_PRIVATE_SIZE]);

/* CT: yes. */
void sm2_private_export(uint8_t d[SM2_PRIVATE_SIZE], const sm2_private *key);

/* q := d*G. CT: yes. */
void sm2_private_to_public(sm2_point *q, const sm2_private *key);

/*
 * n fresh key pairs, every one checked (see sm2_pairs.c).
 * SM2_ERR_ENTROPY if the source fails, SM2_ERR_SELFTEST if a pair is not
 * consistent; all the keys are then wiped. CT: yes.
 */
int sm2_generate_many(sm2_private *const *key, sm2_point *q, size_t n);

/*
 * 65 bytes 04||x||y or 33 bytes 02/03||x. Refused with SM2_ERR_KEY: any other
 * form, coordinates >= p, points off the curve, infinity, and -G (which is the
 * public key of n-1, under which anybody can sign). CT: no, public.
 */
int sm2_public_import(sm2_point *q, const uint8_t *in, size_t n);

void sm2_public_export(uint8_t out[SM2_PUBLIC_SIZE], const sm2_point *q);

/* z := Z of GB/T 32918.2 section 5.5. SM2_ERR_LENGTH if n > SM2_ID_MAX. CT: no, public. */
int sm2_z(uint8_t z[SM2_DIGEST_SIZE], const uint8_t *id, size_t n, const sm2_point *q);

/* z[32*i] := sm2_z of q[i], with one identifier for all. SM2_ERR_LENGTH as there. CT: no, public. */
int sm2_z_many(uint8_t *z, const uint8_t *id, size_t n, const sm2_point *const *q, size_t keys);

/*
 * e[32*i] := SM3(Z||M), what a signature of the len[i] bytes M at msg[i] is
 * made of, for Z at z[32*i*z_step] (z_step 0: one for all). scratch is where
 * messages are put behind their Z, as many at a time as it holds; it then
 * holds parts of them. CT: yes (in the contents).
 */
void sm2_digest_many(uint8_t *e, const uint8_t *z, size_t z_step, const uint8_t *const *msg,
                     const size_t *len, size_t n, uint8_t *scratch, size_t scratch_size);

/* --- signatures -------------------------------------------------------- */

/*
 * out[64*i] := r||s of the digest e at digest[32*i] under *key[i*key_step]
 * (key_step 0: one key for all). SM2_ERR_ENTROPY: out is all zero. CT: yes.
 */
int sm2_sign_many(uint8_t *out, const sm2_private *const *key, size_t key_step,
                  const uint8_t *digest, size_t n);

/*
 * One signature with a nonce the caller gives: for known-answer tests only,
 * since whoever knows or repeats a nonce gives the key away. SM2_ERR_NONCE
 * where the standard asks for another nonce. CT: yes.
 */
int sm2_sign_with_nonce(uint8_t out[SM2_SIGNATURE_SIZE], const sm2_private *key,
                        const uint8_t digest[SM2_DIGEST_SIZE], const uint8_t nonce[32]);

/* valid[i] := 1 if signature i is valid for digest i under *q[i*q_step], else 0. CT: no, public. */
void sm2_verify_many(uint8_t *valid, const sm2_point *const *q, size_t q_step,
                     const uint8_t *digest, const uint8_t *signature, size_t n);

/*
 * Bytes of the table that makes verification under one key faster; 0 if the
 * backend has none. It holds nothing secret, and is of use to this backend in
 * this process only.
 */
size_t sm2_key_table_size(void);

/* The sm2_key_table_size() bytes at table, a multiple of 64, := the table of q. CT: no, public. */
void sm2_key_table_build(void *table, const sm2_point *q);

/* sm2_verify_many, where table[i*q_step] is the table of *q[i*q_step], or NULL. CT: no, public. */
void sm2_verify_prepared_many(uint8_t *valid, const sm2_point *const *q,
                              const void *const *table, size_t q_step, const uint8_t *digest,
                              const uint8_t *signature, size_t n);

/* Returns the DER length (<= SM2_SIGNATURE_DER_MAX) or SM2_ERR_SIGNATURE if r or s is 0 or >= n. */
int sm2_signature_to_der(uint8_t *out, const uint8_t signature[SM2_SIGNATURE_SIZE]);

/* Strict DER only; SM2_ERR_ENCODING otherwise. CT: no, public. */
int sm2_signature_from_der(uint8_t out[SM2_SIGNATURE_SIZE], const uint8_t *der, size_t n);

/* --- encryption -------------------------------------------------------- */

/* out[0..97+n) := C1||C3||C2. SM2_ERR_LENGTH: n is 0 or too long. CT: yes (in the contents). */
int sm2_encrypt(uint8_t *out, const sm2_point *q, const uint8_t *message, size_t n);

/* As sm2_encrypt with a given nonce, for known-answer tests only. CT: yes. */
int sm2_encrypt_with_nonce(uint8_t *out, const sm2_point *q, const uint8_t *message, size_t n,
                           const uint8_t nonce[32]);

/*
 * out[0..n-97) := the plaintext of C1||C3||C2. Writes to out only after C3 has
 * been found right. SM2_ERR_ENCODING or SM2_ERR_DECRYPT otherwise. out must
 * not overlap the ciphertext. CT: yes (in the key and the plaintext).
 */
int sm2_decrypt(uint8_t *out, const sm2_private *key, const uint8_t *ciphertext, size_t n);

/* Returns the length written (<= 23+n) or a negative code. CT: no, public. */
long sm2_ciphertext_to_der(uint8_t *out, const uint8_t *c1c3c2, size_t n);

/* Strict DER (GM/T 0009) to C1||C3||C2; returns the length (< n+97) or a negative code. CT: no. */
long sm2_ciphertext_from_der(uint8_t *out, const uint8_t *der, size_t n);

/* --- key agreement ----------------------------------------------------- */

typedef struct {
    const sm2_private *own, *own_ephemeral;
    const sm2_point *own_public, *own_ephemeral_public;
    const sm2_point *peer_public, *peer_ephemeral_public;
    const uint8_t *own_z, *peer_z; /* 32 bytes each */
    int initiator;
} sm2_agreement;

/*
 * key[0..n) := the shared key; s_responder := S_1 = S_B, what the responder
 * sends; s_initiator := S_2 = S_A, what the initiator sends (GB/T 32918.3
 * section 6.1). SM2_ERR_AGREEMENT: refused, infinity. SM2_ERR_LENGTH: n is 0
 * or too long. CT: yes.
 */
int sm2_agree(uint8_t *key, size_t n, uint8_t s_responder[32], uint8_t s_initiator[32],
              const sm2_agreement *in);

#endif
