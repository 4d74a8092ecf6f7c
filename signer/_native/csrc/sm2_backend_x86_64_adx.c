/*
 * The backend for x86-64 with BMI2, ADX and AVX2 (Intel from Broadwell, AMD
 * from Zen): field arithmetic in assembly, table scans with 256-bit vectors, SM3 on
 * the widest vectors there are.
 */
#include "sm2_backend.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi2,adx"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi2,adx")
#endif

#define SM2_FE_X86_64
#include "sm2_cpu.h"
#include "sm2_mul_impl.h"
#include "sm3_many.h"

static int sm2_x86_64_adx_is_supported(void)
{
    sm2_cpu cpu;

    sm2_cpu_detect(&cpu);
    return cpu.bmi2 && cpu.adx && cpu.avx2;
}

const sm2_backend sm2_backend_x86_64_adx = {
    .name = "x86-64-adx",
    .is_supported = sm2_x86_64_adx_is_supported,
    .mulgen_many = sm2_mulgen_many_impl,
    .mul_many = sm2_mul_many_impl,
    .mul2_many_vartime = sm2_mul2_many_vartime_impl,
    .sm3_many = sm3_many_x86_64,
    .sm3_blocks = sm3_blocks_x86_64,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int sm2_backend_x86_64_adx_absent; /* ISO C wants something in a unit */
#endif
