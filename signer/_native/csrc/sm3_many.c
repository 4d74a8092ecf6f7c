/* The choice between the two kinds of vectors. */
#include "sm3_many.h"

#if defined(__x86_64__)

#include "sm2_cpu.h"

typedef void sm3_many_fn(uint8_t *, const uint8_t *const *, const size_t *, size_t);

typedef void sm3_blocks_fn(uint32_t *, const uint8_t *, size_t);

static sm3_many_fn *sm3_many_best = sm3_many_avx2;
static sm3_blocks_fn *sm3_blocks_best = sm3_blocks_avx2;

/* Runs when the program, or the library, is loaded: before anything can call what it chooses. */
__attribute__((constructor)) static void sm3_many_choose(void)
{
    sm2_cpu cpu;

    sm2_cpu_detect(&cpu);
    if (cpu.avx512f && cpu.avx512bw && cpu.bmi2) {
        sm3_many_best = sm3_many_avx512;
        sm3_blocks_best = sm3_blocks_avx512;
    }
}

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. Needs AVX2, BMI2. CT: yes (in the contents). */
void sm3_many_x86_64(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes)
{
    sm3_many_best(out, msg, len, lanes);
}

/* state := compress of `blocks` blocks at p. Needs AVX2, BMI2. CT: yes. */
void sm3_blocks_x86_64(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    sm3_blocks_best(state, p, blocks);
}

#else
typedef int sm3_many_absent; /* ISO C wants something in a unit */
#endif
