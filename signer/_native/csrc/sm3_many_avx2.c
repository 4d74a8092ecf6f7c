/* SM3 of many messages on two vectors of eight lanes. */
#define SM3_UNIT_TARGET "avx2,bmi2"
#define SM3_UNIT_VECTORS "sm3_avx2_impl.h"
#define SM3_UNIT_MANY sm3_many_avx2
#define SM3_UNIT_BLOCKS sm3_blocks_avx2
#include "sm3_unit_impl.h"
