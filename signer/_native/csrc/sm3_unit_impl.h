/*
 * The whole of a unit that holds SM3 of many messages, and of long ones, on one kind of vector.
 * Who includes it, once, says
 *
 *   SM3_UNIT_TARGET   what the processor must have, as the compiler calls it
 *   SM3_UNIT_VECTORS  the header with the operations of those vectors
 *   SM3_UNIT_MANY     the functions to define, declared in sm3_many.h
 *   SM3_UNIT_BLOCKS
 */
#ifndef SM3_UNIT_IMPL_H
#define SM3_UNIT_IMPL_H

#include "sm3_many.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define SM3_UNIT_TEXT(x) _Pragma(#x)
#define SM3_UNIT_PRAGMA(x) SM3_UNIT_TEXT(x)

#if defined(__clang__)
SM3_UNIT_PRAGMA(clang attribute push(__attribute__((target(SM3_UNIT_TARGET))), apply_to = function))
#else
#pragma GCC push_options
SM3_UNIT_PRAGMA(GCC target(SM3_UNIT_TARGET))
#endif

#include SM3_UNIT_VECTORS
#include "sm3_lanes_impl.h"
#include "sm3_long_impl.h"

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. CT: yes (in the contents). */
void SM3_UNIT_MANY(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes)
{
    sm3_v_many(out, msg, len, lanes);
}

/* state := compress of `blocks` blocks at p. CT: yes. */
void SM3_UNIT_BLOCKS(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    sm3_v_blocks(state, p, blocks);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int sm3_unit_absent; /* ISO C wants something in a unit */
#endif

#endif
