/* What the fuzzing programs share: a promise that stops the fuzzer where it is broken. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "sm2_internal.h"

#define PROMISE(cond)                                                            \
    do {                                                                         \
        if (!(cond)) {                                                           \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #cond);   \
            abort();                                                             \
        }                                                                        \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* n bytes of their own, so that a read past them is seen; to be freed. */
static inline uint8_t *exact(const void *data, size_t n)
{
    uint8_t *p = malloc(n > 0 ? n : 1);

    PROMISE(p != NULL);
    if (n > 0) {
        memcpy(p, data, n);
    }
    return p;
}

/* The best backend, chosen once. */
static inline void ready(void)
{
    const sm2_backend *backend;

    if (sm2_active_backend == NULL) {
        PROMISE(sm2_backend_choose(&backend, NULL) == SM2_BACKEND_OK);
        sm2_use_backend(backend);
    }
}

#endif
