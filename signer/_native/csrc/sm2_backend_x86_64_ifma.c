/*
 * The backend for x86-64 with AVX-512 IFMA (Intel from Ice Lake, AMD from Zen
 * 4): eight field elements in one set of registers, sixteen lanes at a time.
 *
 * Built with SM2_SIMD_SHIM it is the same code over vectors simulated in C,
 * and runs anywhere; that is for tests.
 */
#include "sm2_backend.h"

#if defined(__x86_64__) || defined(SM2_SIMD_SHIM)

#if defined(SM2_SIMD_SHIM)
#define SM2_IFMA_NAME "simulated-ifma"
#elif defined(__clang__)
#define SM2_IFMA_NAME "x86-64-ifma"
#pragma clang attribute push(                                                    \
    __attribute__((target("avx2,bmi2,adx,avx512f,avx512dq,avx512bw,avx512vl,avx512ifma"))), \
    apply_to = function)
#else
#define SM2_IFMA_NAME "x86-64-ifma"
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,adx,avx512f,avx512dq,avx512bw,avx512vl,avx512ifma")
#endif

#if !defined(SM2_SIMD_SHIM)
#define SM2_FE_X86_64
#endif
#include "sm2_cpu.h"
#include "sm2_mul_impl.h"
#include "sm2_ifma_pairs_impl.h"
#if defined(SM2_SIMD_SHIM)
#include "sm3_impl.h"
#define SM2_IFMA_SM3 sm3_many_impl
#define SM2_IFMA_SM3_BLOCKS sm3_compress_impl
#else
#include "sm3_many.h"
#define SM2_IFMA_SM3 sm3_many_x86_64
#define SM2_IFMA_SM3_BLOCKS sm3_blocks_x86_64
#endif

static int sm2_x86_64_ifma_is_supported(void)
{
#if defined(SM2_SIMD_SHIM)
    return 1;
#else
    sm2_cpu cpu;

    sm2_cpu_detect(&cpu);
    return cpu.bmi2 && cpu.adx && cpu.avx2 && cpu.avx512f && cpu.avx512dq && cpu.avx512bw &&
           cpu.avx512vl && cpu.avx512ifma;
#endif
}

const sm2_backend sm2_backend_x86_64_ifma = {
    .name = SM2_IFMA_NAME,
    .is_supported = sm2_x86_64_ifma_is_supported,
    .prepare = sm2_ifma_prepare,
    .mulgen_many = sm2_ifma_mulgen_many,
    .mul_many = sm2_ifma_mul_many,
    .mul2_many_vartime = sm2_ifma_mul2_many_vartime,
    .key_table_size = sizeof(sm2_ifma_comb),
    .key_table_build = sm2_ifma_key_table_build,
    .mul2_prepared_many_vartime = sm2_ifma_mul2_prepared_many_vartime,
    .order_invert_many = sm2_ifma_order_invert_many,
    .order_inverses_are = sm2_ifma_order_inverses_are,
    .combine = sm2_ifma_combine,
    .combinations_are_vartime = sm2_ifma_combinations_are_vartime,
    .sm3_many = SM2_IFMA_SM3,
    .sm3_blocks = SM2_IFMA_SM3_BLOCKS,
};

#if defined(SM2_SIMD_SHIM)
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int sm2_backend_x86_64_ifma_absent; /* ISO C wants something in a unit */
#endif
