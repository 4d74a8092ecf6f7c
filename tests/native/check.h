/* What the C tests share: a check that says where it failed, and a repeatable source of bytes. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int check_failures;

#define CHECK(cond)                                                              \
    do {                                                                         \
        if (!(cond)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
            if (++check_failures > 20) {                                         \
                exit(1);                                                         \
            }                                                                    \
        }                                                                        \
    } while (0)

/* splitmix64: good enough to pick inputs, and the same in every run. */
static uint64_t check_state = 1;

static inline uint64_t check_random(void)
{
    uint64_t z = (check_state += UINT64_C(0x9E3779B97F4A7C15));

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static inline void check_random_bytes(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)check_random();
    }
}

#endif
