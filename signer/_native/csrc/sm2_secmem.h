/*
 * Memory for private keys: pages of their own, locked into RAM and left out of
 * core dumps where the operating system allows it. Not thread-safe: the caller
 * serialises (the Python module holds its interpreter lock).
 */
#ifndef SM2_SECMEM_H
#define SM2_SECMEM_H

#include <stddef.h>

typedef struct {
    size_t mapped;   /* bytes of pages in all */
    size_t locked;   /* of these, locked into RAM */
    size_t undumped; /* of these, left out of core dumps */
} sm2_secmem_state;

/* A cleared slot big enough for one sm2_private, or NULL if there is no memory. */
void *sm2_secmem_get(void);

/* Clears the slot and takes it back. */
void sm2_secmem_put(void *slot);

/* *state := how well keys are protected at this moment. */
void sm2_secmem_query(sm2_secmem_state *state);

#endif
