/*
 * Eight 64-bit lanes: the few vector operations that the IFMA backend is made
 * of, each one instruction.
 *
 * SM2_SIMD_SHIM puts a simulation in plain C in their place (it comes with the
 * tests), so that machines without AVX-512 and Memcheck can run the backend.
 */
#ifndef SM2_IFMA_VEC_IMPL_H
#define SM2_IFMA_VEC_IMPL_H

#include "sm2_common.h"

#define SM2_ALIGNED __attribute__((aligned(64)))

#if defined(__GNUC__) && !defined(__clang__)
/* gcc cannot see that a loop over the groups of a pair runs at least once. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(SM2_SIMD_SHIM)
#include "sm2_simd_shim.h"
#else
#include <immintrin.h>

typedef __m512i sm2_v;     /* lane i is bits 64i..64i+63 */
typedef __mmask8 sm2_lanes; /* bit i belongs to lane i */

/* Every lane := x. CT: yes. */
SM2_INLINE sm2_v sm2_v_set1(uint64_t x)
{
    return _mm512_set1_epi64((long long)x);
}

/* The eight words at p, which is a multiple of 64. CT: yes. */
SM2_INLINE sm2_v sm2_v_load(const uint64_t *p)
{
    return _mm512_load_si512((const void *)p);
}

/* The eight words at p, any address := x. CT: yes. */
SM2_INLINE void sm2_v_store(uint64_t *p, sm2_v x)
{
    _mm512_storeu_si512((void *)p, x);
}

/* The eight words at p, any address. CT: yes. */
SM2_INLINE sm2_v sm2_v_loadu(const uint64_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

/* x+y mod 2^64. CT: yes. */
SM2_INLINE sm2_v sm2_v_add(sm2_v x, sm2_v y)
{
    return _mm512_add_epi64(x, y);
}

/* x-y mod 2^64. CT: yes. */
SM2_INLINE sm2_v sm2_v_sub(sm2_v x, sm2_v y)
{
    return _mm512_sub_epi64(x, y);
}

SM2_INLINE sm2_v sm2_v_and(sm2_v x, sm2_v y)
{
    return _mm512_and_si512(x, y);
}

SM2_INLINE sm2_v sm2_v_or(sm2_v x, sm2_v y)
{
    return _mm512_or_si512(x, y);
}

SM2_INLINE sm2_v sm2_v_xor(sm2_v x, sm2_v y)
{
    return _mm512_xor_si512(x, y);
}

/* x << n, 0 from n = 64 on. CT: yes (n is public). */
SM2_INLINE sm2_v sm2_v_shl(sm2_v x, unsigned n)
{
    return _mm512_sll_epi64(x, _mm_cvtsi32_si128((int)n));
}

/* x >> n, 0 from n = 64 on. CT: yes (n is public). */
SM2_INLINE sm2_v sm2_v_shr(sm2_v x, unsigned n)
{
    return _mm512_srl_epi64(x, _mm_cvtsi32_si128((int)n));
}

/* floor(x/2^52) of a signed x. CT: yes. */
SM2_INLINE sm2_v sm2_v_carry(sm2_v x)
{
    return _mm512_srai_epi64(x, 52);
}

/* a + the lower 52 bits of x*y, of whose factors only 52 bits count. CT: yes. */
SM2_INLINE sm2_v sm2_v_mulo(sm2_v a, sm2_v x, sm2_v y)
{
    return _mm512_madd52lo_epu64(a, x, y);
}

/* a + the upper 52 bits of x*y, of whose factors only 52 bits count. CT: yes. */
SM2_INLINE sm2_v sm2_v_muhi(sm2_v a, sm2_v x, sm2_v y)
{
    return _mm512_madd52hi_epu64(a, x, y);
}

/* Lane i := word (at[i] mod 16) of the sixteen words x, y. CT: yes (a register, not memory). */
SM2_INLINE sm2_v sm2_v_permute2(sm2_v x, sm2_v at, sm2_v y)
{
    return _mm512_permutex2var_epi64(x, at, y);
}

/* y in the lanes of m, x in the others. CT: yes. */
SM2_INLINE sm2_v sm2_v_select(sm2_v x, sm2_v y, sm2_lanes m)
{
    return _mm512_mask_blend_epi64(m, x, y);
}

/* The lanes in which x and y have a bit in common. CT: yes. */
SM2_INLINE sm2_lanes sm2_v_test(sm2_v x, sm2_v y)
{
    return _mm512_test_epi64_mask(x, y);
}
#endif

#endif
