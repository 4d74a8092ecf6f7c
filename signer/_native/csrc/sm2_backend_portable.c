/* The backend that runs anywhere: C11 and 64-bit limbs, nothing else. */
#include "sm2_backend.h"

#include "sm2_mul_impl.h"
#include "sm3_impl.h"

static int sm2_portable_is_supported(void)
{
    return 1;
}

const sm2_backend sm2_backend_portable = {
    .name = "portable",
    .is_supported = sm2_portable_is_supported,
    .mulgen_many = sm2_mulgen_many_impl,
    .mul_many = sm2_mul_many_impl,
    .mul2_many_vartime = sm2_mul2_many_vartime_impl,
    .sm3_many = sm3_many_impl,
    .sm3_blocks = sm3_compress_impl,
};
