/*
 * The SM3 hash (GB/T 32905): one message at once, or piece by piece.
 *
 * Messages may hold secrets: nothing depends on their contents, only on their
 * lengths.
 */
#ifndef SM3_H
#define SM3_H

#include <stddef.h>
#include <stdint.h>

#define SM3_DIGEST_SIZE 32
#define SM3_BLOCK_SIZE 64
#define SM3_LONG_BLOCKS 32

typedef struct {
    uint32_t state[8];
    uint64_t length; /* bytes taken so far, modulo 2^61 */
    uint8_t block[SM3_BLOCK_SIZE];
} sm3_ctx;

/* state := compress of `blocks` blocks at p, one after the other. CT: yes. */
void sm3_compress(uint32_t state[8], const uint8_t *p, size_t blocks);

/*
 * From now on runs of SM3_LONG_BLOCKS blocks or more go to `blocks`, which does
 * what sm3_compress does; to be called before there is a second thread.
 */
void sm3_use(void (*blocks)(uint32_t state[8], const uint8_t *p, size_t blocks));

/* c := the empty message. CT: yes. */
void sm3_init(sm3_ctx *c);

/* Appends n bytes. CT: yes (in the contents). */
void sm3_update(sm3_ctx *c, const void *data, size_t n);

/* out := the hash; c is wiped and must be initialised before it is used again. CT: yes. */
void sm3_final(sm3_ctx *c, uint8_t out[SM3_DIGEST_SIZE]);

/* out := the hash of n bytes. CT: yes (in the contents). */
void sm3_hash(uint8_t out[SM3_DIGEST_SIZE], const void *data, size_t n);

#endif
