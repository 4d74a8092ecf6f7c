/* SM3 of many messages on two vectors of sixteen lanes. */
#include "sm3_many.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,bmi2")
#endif

#include "sm3_avx512_impl.h"
#include "sm3_lanes_impl.h"

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. CT: yes (in the contents). */
void sm3_many_avx512(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes)
{
    sm3_v_many(out, msg, len, lanes);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int sm3_many_avx512_absent; /* ISO C wants something in a unit */
#endif
