/* What the processor (and the operating system on it) can do. */
#ifndef SM2_CPU_H
#define SM2_CPU_H

typedef struct {
    int bmi2, adx, avx2, avx512f, avx512dq, avx512bw, avx512vl, avx512ifma;
} sm2_cpu;

/* *cpu := the features found; all 0 where there is nothing to ask. */
void sm2_cpu_detect(sm2_cpu *cpu);

#endif
