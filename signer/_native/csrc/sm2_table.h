/*
 * The comb table of the base point: entry [i][j] is (2j+1)*2^(6i)*G, as the
 * four limbs of x followed by the four of y, in Montgomery form.
 */
#ifndef SM2_TABLE_H
#define SM2_TABLE_H

#include <stdint.h>

#define SM2_COMB_BITS 6
#define SM2_COMB_WINDOWS 43
#define SM2_COMB_ENTRIES 32

extern const uint64_t sm2_comb_table[SM2_COMB_WINDOWS][SM2_COMB_ENTRIES][8];

#endif
