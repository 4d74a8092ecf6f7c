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
 * k[i] := uniform in [1, n-1] for i < lanes, by rejection; that a draw was
 * rejected is public, what it was is not. SM2_ERR_ENTROPY: k is all zero.
 * In: lanes <= SM2_LANES_MAX. CT: yes.
 */
int sm2_random_scalars(sm2_u256 *k, size_t lanes);

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
