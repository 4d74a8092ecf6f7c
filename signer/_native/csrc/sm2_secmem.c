/* Slots for private keys (see sm2_secmem.h). Pages are kept until the process ends. */
#define _DEFAULT_SOURCE
#include "sm2_secmem.h"

#include <sys/mman.h>

#include "sm2.h"

#define SM2_SECMEM_CHUNK ((size_t)64 * 1024)

/* A slot is a cache line, or more should a key ever grow. */
typedef union sm2_secmem_slot {
    union sm2_secmem_slot *next;
    sm2_private key;
    uint8_t line[64];
} sm2_secmem_slot;

static sm2_secmem_slot *sm2_secmem_free;
static sm2_secmem_state sm2_secmem_now;

/* Maps one more chunk and puts its slots on the list; 0 if there is no memory. */
static int sm2_secmem_grow(void)
{
    sm2_secmem_slot *slot;
    size_t i;
    void *p = mmap(NULL, SM2_SECMEM_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        return 0;
    }
    sm2_secmem_now.mapped += SM2_SECMEM_CHUNK;
    if (mlock(p, SM2_SECMEM_CHUNK) == 0) {
        sm2_secmem_now.locked += SM2_SECMEM_CHUNK;
    }
#if defined(MADV_DONTDUMP)
    if (madvise(p, SM2_SECMEM_CHUNK, MADV_DONTDUMP) == 0) {
        sm2_secmem_now.undumped += SM2_SECMEM_CHUNK;
    }
#endif
    slot = p;
    for (i = SM2_SECMEM_CHUNK / sizeof *slot; i-- > 0;) {
        slot[i].next = sm2_secmem_free;
        sm2_secmem_free = &slot[i];
    }
    return 1;
}

/* A cleared slot, or NULL. */
void *sm2_secmem_get(void)
{
    sm2_secmem_slot *slot;

    if (sm2_secmem_free == NULL && !sm2_secmem_grow()) {
        return NULL;
    }
    slot = sm2_secmem_free;
    sm2_secmem_free = slot->next;
    sm2_wipe(slot, sizeof *slot);
    return slot;
}

/* Clears the slot and takes it back. */
void sm2_secmem_put(void *p)
{
    sm2_secmem_slot *slot = p;

    sm2_wipe(slot, sizeof *slot);
    slot->next = sm2_secmem_free;
    sm2_secmem_free = slot;
}

/* *state := how well keys are protected at this moment. */
void sm2_secmem_query(sm2_secmem_state *state)
{
    *state = sm2_secmem_now;
}
