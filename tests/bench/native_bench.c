/*
 * Kernels and operations of the C core, one figure a line, without Python.
 *
 *   gcc -std=c11 -O3 -Isigner/_native/csrc -o native_bench \
 *       tests/bench/native_bench.c signer/_native/csrc/sm?*.c
 *   ./native_bench [BACKEND]
 *
 * Processor time of this thread; of several rounds the median, with the spread
 * between the fastest and the slowest beside it.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sm2_internal.h"

#define ROUNDS 9
#define MOST 1024

static sm2_private key;
static sm2_point public_key;
static uint8_t digest[32 * MOST], signature[64 * MOST], valid[MOST], message[16384];
static sm2_private made[MOST];
static sm2_private *made_at[MOST];
static sm2_point made_public[MOST];

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void do_sign(size_t n)
{
    const sm2_private *k = &key;

    if (sm2_sign_many(signature, &k, 0, digest, n) != SM2_OK) {
        exit(1);
    }
}

static void do_verify(size_t n)
{
    const sm2_point *q = &public_key;

    sm2_verify_many(valid, &q, 0, digest, signature, n);
    if (valid[0] != 1 || valid[n - 1] != 1) {
        exit(1);
    }
}

static void do_generate(size_t n)
{
    if (sm2_generate_many(made_at, made_public, n) != SM2_OK) {
        exit(1);
    }
}

static void do_hash(size_t n)
{
    const uint8_t *m = message;
    uint8_t out[32];

    sm2_active_backend->sm3_many(out, &m, &n, 1);
}

static void do_multiply(size_t n)
{
    const sm2_point *q = &public_key;
    sm2_point out;

    for (size_t i = 0; i < n; i++) {
        sm2_active_backend->mul_many(&out, &key.d, &q, 1);
    }
}

/* Prints the median time of f(n) divided by `per`, in microseconds and as a rate. */
static void bench(const char *name, void (*f)(size_t), size_t n, double per, const char *unit)
{
    double t[ROUNDS], begin;
    size_t i, repeat = 1;

    for (;;) { /* until a round lasts 20 ms */
        begin = now();
        for (i = 0; i < repeat; i++) {
            f(n);
        }
        if (now() - begin > 0.02) {
            break;
        }
        repeat *= 2;
    }
    for (int r = 0; r < ROUNDS; r++) {
        begin = now();
        for (i = 0; i < repeat; i++) {
            f(n);
        }
        t[r] = (now() - begin) / (double)repeat / per;
    }
    qsort(t, ROUNDS, sizeof t[0], by_size);
    printf("%-24s %12.3f us %14.0f %-8s spread %4.1f%%\n", name, 1e6 * t[ROUNDS / 2],
           1 / t[ROUNDS / 2], unit, 100 * (t[ROUNDS - 1] / t[0] - 1));
}

int main(int argc, char **argv)
{
    static const size_t lanes[] = {1, 64, 1024}, sizes[] = {64, 1024, 16384};
    const sm2_backend *backend;
    uint8_t d[32] = {0x12, 0x34};
    char name[40];

    if (sm2_backend_choose(&backend, argc > 1 ? argv[1] : NULL) != SM2_BACKEND_OK ||
        sm2_selftest(backend) != SM2_OK || sm2_private_import(&key, d) != SM2_OK) {
        fputs("no such backend, or it does not work\n", stderr);
        return 1;
    }
    sm2_private_to_public(&public_key, &key);
    for (size_t i = 0; i < MOST; i++) {
        made_at[i] = &made[i];
        digest[32 * i] = (uint8_t)i;
    }
    printf("backend %s\n", backend->name);
    do_sign(MOST);
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "sign x %zu", lanes[i]);
        bench(name, do_sign, lanes[i], (double)lanes[i], "/s");
    }
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "verify x %zu", lanes[i]);
        bench(name, do_verify, lanes[i], (double)lanes[i], "/s");
    }
    bench("generate x 64", do_generate, 64, 64, "/s");
    bench("k*Q, k secret", do_multiply, 1, 1, "/s");
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "SM3 of %zu bytes", sizes[i]);
        bench(name, do_hash, sizes[i], (double)sizes[i] / 1e6, "MB/s");
    }
    return 0;
}
