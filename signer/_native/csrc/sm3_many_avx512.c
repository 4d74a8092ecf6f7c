/* SM3 of many messages on two vectors of sixteen lanes. */
#define SM3_UNIT_TARGET "avx512f,avx512bw,bmi2"
#define SM3_UNIT_VECTORS "sm3_avx512_impl.h"
#define SM3_UNIT_MANY sm3_many_avx512
#define SM3_UNIT_BLOCKS sm3_blocks_avx512
#include "sm3_unit_impl.h"
