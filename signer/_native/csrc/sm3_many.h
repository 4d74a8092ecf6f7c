/*
 * SM3 of many messages at once, and of long ones, on vectors. All of these give
 * what sm3_hash and sm3_compress give, for any number of messages of any lengths.
 */
#ifndef SM3_MANY_H
#define SM3_MANY_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. Needs AVX2, BMI2. CT: yes (in the contents). */
void sm3_many_avx2(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes);

/* The same. Needs AVX-512F, AVX-512BW, BMI2. CT: yes (in the contents). */
void sm3_many_avx512(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes);

/* The better of the two, found out once, when the program is loaded. CT: yes (in the contents). */
void sm3_many_x86_64(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes);

/* state := compress of `blocks` blocks at p, one after the other. Needs AVX2, BMI2. CT: yes. */
void sm3_blocks_avx2(uint32_t state[8], const uint8_t *p, size_t blocks);

/* The same. Needs AVX-512F, AVX-512BW, BMI2. CT: yes. */
void sm3_blocks_avx512(uint32_t state[8], const uint8_t *p, size_t blocks);

/* The better of the two, found out once, when the program is loaded. CT: yes. */
void sm3_blocks_x86_64(uint32_t state[8], const uint8_t *p, size_t blocks);

#endif

#endif
