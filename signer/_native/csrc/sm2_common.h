/*
 * Types and small tools shared by every C file of the native core.
 *
 * Two rules the whole folder obeys: nothing here allocates, and nothing here
 * branches on, indexes by, or divides by a value that came from a private key
 * or a nonce. Where a decision must be made on such a value, the decision
 * itself is first made public with sm2_declassify(), which says in the source
 * (and to the memory checker) that this one bit may be seen.
 */
#ifndef SM2_COMMON_H
#define SM2_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

__extension__ typedef unsigned __int128 sm2_u128;

/* A 256-bit integer, least significant limb first. */
typedef struct {
    uint64_t v[4];
} sm2_u256;

#define SM2_INLINE static inline __attribute__((always_inline, unused))
#define SM2_UNUSED __attribute__((unused))

#if defined(SM2_VERIFY)
#include <stdio.h>
#include <stdlib.h>
/* Invariant of a test build; compiled out of the product. */
#define VERIFY_CHECK(cond)                                                       \
    do {                                                                         \
        if (!(cond)) {                                                           \
            fprintf(stderr, "%s:%d: invariant fails: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                             \
        }                                                                        \
    } while (0)
#else
#define VERIFY_CHECK(cond) ((void)0)
#endif

#if defined(SM2_CTIME_TEST)
#include <valgrind/memcheck.h>
#endif

/* Says that the n bytes at p may be seen by anyone from here on. CT: yes. */
SM2_INLINE void sm2_declassify(const void *p, size_t n)
{
#if defined(SM2_CTIME_TEST)
    VALGRIND_MAKE_MEM_DEFINED(p, n);
#else
    (void)p;
    (void)n;
#endif
}

/* b, made public. In: b any int that is the outcome of a test. CT: yes. */
SM2_INLINE int sm2_declassify_bit(uint64_t b)
{
    sm2_declassify(&b, sizeof b);
    return (int)b;
}

/* x, hidden from the optimiser, so that a mask stays a mask. CT: yes. */
SM2_INLINE uint64_t sm2_value_barrier(uint64_t x)
{
    __asm__("" : "+r"(x));
    return x;
}

/* 2^64-1 if b = 1, 0 if b = 0. In: b in {0,1}. CT: yes. */
SM2_INLINE uint64_t sm2_mask(uint64_t b)
{
    return 0 - sm2_value_barrier(b);
}

/* 1 if x = 0, else 0. CT: yes. */
SM2_INLINE uint64_t sm2_is_zero64(uint64_t x)
{
    return sm2_value_barrier(1 ^ ((x | (0 - x)) >> 63));
}

/* Clears n bytes at p in a way the compiler may not drop. CT: yes. */
SM2_INLINE void sm2_wipe(void *p, size_t n)
{
    memset(p, 0, n);
    __asm__ __volatile__("" : : "r"(p) : "memory");
}

/* 1 if the n bytes at a and b are equal, else 0. CT: yes (in the contents). */
SM2_INLINE uint64_t sm2_ct_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint64_t diff = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        diff |= (uint64_t)(a[i] ^ b[i]);
    }
    return sm2_is_zero64(diff);
}

SM2_INLINE uint64_t sm2_load64_be(const uint8_t *p)
{
    return ((uint64_t)p[0] << 56) | ((uint64_t)p[1] << 48) | ((uint64_t)p[2] << 40) |
           ((uint64_t)p[3] << 32) | ((uint64_t)p[4] << 24) | ((uint64_t)p[5] << 16) |
           ((uint64_t)p[6] << 8) | (uint64_t)p[7];
}

SM2_INLINE void sm2_store64_be(uint8_t *p, uint64_t x)
{
    int i;

    for (i = 7; i >= 0; i--) {
        p[i] = (uint8_t)x;
        x >>= 8;
    }
}

#endif
