/*
 * Kernels of the accelerated backend, each a fixed number of times, to be counted under callgrind.
 *
 * Calls the backend itself: valgrind runs BMI2, ADX and AVX2, but tells programs of no ADX, so that nothing that asks the
 * processor would choose it. It knows no AVX-512: the backend written in that cannot be counted.
 */
#include <stdio.h>
#include <string.h>

#include "sm2_backend.h"

#define LANES 8
#define BLOCKS 1000

extern const sm2_backend sm2_backend_x86_64_adx;

static const sm2_backend *const backend = &sm2_backend_x86_64_adx;
static sm2_u256 scalar[LANES], other[LANES], x[LANES];
static sm2_point point[LANES], out[LANES];
static const sm2_point *at[LANES];
static uint8_t finite[LANES], message[64 * BLOCKS - 9], digests[32 * LANES];

__attribute__((noinline)) void counted_base(void) { backend->mulgen_many(point, scalar, LANES); }

__attribute__((noinline)) void counted_point(void) { backend->mul_many(out, scalar, at, LANES); }

__attribute__((noinline)) void counted_two(void) { backend->mul2_many_vartime(x, finite, scalar, other, at, LANES); }

__attribute__((noinline)) void counted_sm3_lanes(void) {
    const uint8_t *messages[LANES];
    size_t lengths[LANES];
    for (int i = 0; i < LANES; i++) messages[i] = message, lengths[i] = sizeof message;
    backend->sm3_many(digests, messages, lengths, LANES);
}

int main(void) {
    for (int i = 0; i < LANES; i++) {
        memset(&scalar[i], 0x35 + i, sizeof scalar[i]);
        memset(&other[i], 0x5a - i, sizeof other[i]);
        at[i] = &point[i];
    }
    if (backend->prepare != NULL) backend->prepare();
    counted_base();
    counted_point();
    counted_two();
    counted_sm3_lanes();
    for (int i = 0; i < LANES; i++)
        if (!finite[i] || memcmp(digests, digests + 32 * i, 32) != 0) return 1;
    printf("%s\n", backend->name);
    return 0;
}
