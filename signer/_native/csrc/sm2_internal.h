/* What the front-end files share among themselves. */
#ifndef SM2_INTERNAL_H
#define SM2_INTERNAL_H

#include "sm2.h"
#include "sm2_fn_impl.h"
#include "sm2_point_impl.h"
#include "sm3.h"

/* The backend in use; never NULL once sm2_use_backend() has run. */
extern const sm2_backend *sm2_active_backend;

/* Draws of one scalar before the source is held to be broken; chance alone needs one. */
#define SM2_DRAWS_MAX 64

/* out := n random bytes. SM2_ERR_ENTROPY: out is all zero. CT: yes. */
int sm2_random(uint8_t *out, size_t n);

/*
 * The generator of one batch: Hash_DRBG with SM3. `v` is 256*V, least
 * significant limb first; `last` is the block given out last; `left` is how
 * many more it may give before it must be seeded again.
 */
typedef struct {
    uint64_t v[7];
    uint8_t last[32];
    size_t left;
} sm2_drbg;

/* A generator that has yet to be seeded. To be wiped after use. */
#define SM2_DRBG_UNSEEDED {{0}, {0}, 0}

#define SM2_SEED_SIZE 48 /* 256 bits of entropy, and 128 for the nonce of the standard */

/* Blocks of one seed: what a request may ask for at most (SP 800-90A Table 2) is 2,048. */
#define SM2_DRBG_BLOCKS 1024

/* g := a generator seeded with these bytes. CT: yes. */
void sm2_drbg_init(sm2_drbg *g, const uint8_t seed[SM2_SEED_SIZE]);

/*
 * out := the next n blocks of 32 bytes. Returns 1, or 0 if a block equals the
 * one before it: the generator is then not to be used. CT: yes; the verdict is public.
 */
int sm2_drbg_blocks(sm2_drbg *g, uint8_t *out, size_t n);

/*
 * 1 if each of n blocks of `size` bytes differs from the one before it. In:
 * size a multiple of 8. CT: yes; the verdict is public.
 */
int sm2_blocks_differ(const uint8_t *p, size_t size, size_t n);

/*
 * k[i] := uniform in [1, n-1] for i < lanes, by rejection; that a draw was
 * rejected is public, what it was is not. Many are taken from g, which is
 * seeded when it has to be, a few from the source. SM2_ERR_ENTROPY: k is all
 * zero. In: lanes <= SM2_LANES_MAX. CT: yes.
 */
int sm2_batch_scalars(sm2_drbg *g, sm2_u256 *k, size_t lanes);

/* As sm2_batch_scalars, with a generator of its own. CT: yes. */
int sm2_random_scalars(sm2_u256 *k, size_t lanes);

/* From this many pairs on they are tested by combinations of all, where the backend can. */
#define SM2_PAIRS_MIN 16

/*
 * 1 if the n pairs are consistent; 0 if not, or if *status is no longer
 * SM2_OK. In: n <= SM2_KEYS_MAX. CT: yes; the verdict is public.
 */
int sm2_pairs_are_consistent(sm2_private *const *key, const sm2_point *q, size_t n, int *status);

/* 1 if (x, y) are < p and on the curve, else 0. CT: yes. */
uint64_t sm2_point_is_valid(const sm2_point *q);

/* out := x||y. CT: yes. */
void sm2_point_store(uint8_t out[64], const sm2_point *q);

/* The key derivation function of GB/T 32918.4 section 5.4.3, after its fixed input. */
typedef struct {
    uint32_t state[8];
    uint64_t length;
} sm2_kdf;

/* Takes the fixed input, `blocks` whole 64-byte blocks. CT: yes. */
void sm2_kdf_init(sm2_kdf *kdf, const uint8_t *z, size_t blocks);

/* out := 32 bytes of the stream, the one numbered `counter` (from 1). CT: yes. */
void sm2_kdf_block(uint8_t out[32], const sm2_kdf *kdf, uint32_t counter);

#endif
