/* Processor features, asked of the processor itself. */
#include "sm2_cpu.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* The register states the operating system saves: bits of XCR0. */
static unsigned sm2_cpu_saved_state(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) {
        return 0;
    }
    __asm__ __volatile__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

/* *cpu := the features found. */
void sm2_cpu_detect(sm2_cpu *cpu)
{
    unsigned a, b, c, d, saved = sm2_cpu_saved_state();
    int ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xE6) == 0xE6;

    memset(cpu, 0, sizeof *cpu);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return;
    }
    cpu->bmi2 = (int)(b >> 8 & 1);
    cpu->adx = (int)(b >> 19 & 1);
    cpu->avx2 = ymm && (b >> 5 & 1);
    cpu->avx512f = zmm && (b >> 16 & 1);
    cpu->avx512dq = zmm && (b >> 17 & 1);
    cpu->avx512ifma = zmm && (b >> 21 & 1);
    cpu->avx512bw = zmm && (b >> 30 & 1);
    cpu->avx512vl = zmm && (b >> 31 & 1);
}
#else
/* *cpu := nothing special. */
void sm2_cpu_detect(sm2_cpu *cpu)
{
    memset(cpu, 0, sizeof *cpu);
}
#endif
