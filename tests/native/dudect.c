/*
 * Constant time, looked at from outside: the method of dudect (Reparaz,
 * Balasch, Verbauwhede, 2017). An operation is timed with one fixed secret and
 * with random ones, in random order; if the two samples differ by more than
 * chance allows (Welch's t), time depends on the secret.
 *
 * Usage: dudect BACKEND OPERATION SECONDS [LEAK]
 *   OPERATION  sign, sign-batch, generate or decrypt
 *   LEAK       a leak on purpose: "bits" (some nanoseconds for each bit that is
 *              set) or "vartime" (a multiplication that is not constant-time)
 *
 * Prints the largest |t| over several crops of the measurements, since what
 * disturbs a machine makes the slow ones slower. Below about 4.5 there is
 * nothing to be seen; real leaks grow with the square root of the time spent.
 *
 * generate: the scalar is drawn, d*G and 1/(1+d) are computed. The signature
 * that checks a new pair is sign's business; verifying it is not constant-time
 * and sees public values only.
 */
#define _DEFAULT_SOURCE
#include "check.h"
#include "sm2_internal.h"

#include <math.h>
#include <time.h>

#define MOST 400000    /* measurements */
#define LEAST 200      /* of each class, for a crop to count */
#define RANDOM 512     /* secrets of the random class, made beforehand */
#define LANES 24       /* of sign-batch: more than take the way of a few */
#define MESSAGE 48

typedef struct {
    sm2_private key;
    uint8_t scalar[32], seed[SM2_SEED_SIZE];
    uint8_t cipher[MESSAGE + SM2_CIPHERTEXT_OVERHEAD];
} secret;

static secret fixed, varied[RANDOM], now; /* every measurement reads `now` */
static uint8_t digest[32 * LANES], out[64 * LANES];
static const sm2_private *key = &now.key;
static const char *leak = "";

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    uint32_t low, high;

    __asm__ __volatile__("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
#else
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
#endif
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The source of random bytes while time is taken. */
static int from_now(void *ctx, uint8_t *p, size_t n)
{
    (void)ctx;
    memcpy(p, n == SM2_SEED_SIZE ? now.seed : now.scalar, n);
    return 0;
}

static void stop(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void spoil(void)
{
    static volatile uint64_t sink;
    const sm2_point *q;
    sm2_point g;
    sm2_u256 k, x;
    uint8_t finite;

    sm2_u256_load(&k, now.scalar);
    if (strcmp(leak, "bits") == 0) {
        for (int i = 0; i < 256; i++) {
            if (k.v[i / 64] >> (i % 64) & 1) {
                sink = sink + 1;
            }
        }
    } else if (strcmp(leak, "vartime") == 0) {
        sm2_private_to_public(&g, key);
        q = &g;
        sm2_active_backend->mul2_many_vartime(&x, &finite, &k, &k, &q, 1);
    }
}

static void do_sign(void)
{
    if (sm2_sign_with_nonce(out, key, digest, now.scalar) != SM2_OK) {
        stop("signing fails");
    }
}

static void do_sign_batch(void)
{
    if (sm2_sign_many(out, &key, 0, digest, LANES) != SM2_OK) {
        stop("signing a batch fails");
    }
}

static void do_generate(void)
{
    sm2_private made;
    sm2_point q;
    sm2_u256 d;

    if (sm2_random_scalars(&d, 1) != SM2_OK) {
        stop("drawing fails");
    }
    sm2_u256_store(out, &d);
    if (sm2_private_import(&made, out) != SM2_OK) {
        stop("generating fails");
    }
    sm2_private_to_public(&q, &made);
}

static void do_decrypt(void)
{
    if (sm2_decrypt(out, key, now.cipher, sizeof now.cipher) != SM2_OK) {
        stop("decryption fails");
    }
}

/* A secret of either class: small numbers, or random ones. */
static void make(secret *s, int random)
{
    uint8_t message[MESSAGE] = {0}, d[32] = {0};
    sm2_point q;

    memset(s->scalar, 0, sizeof s->scalar);
    s->scalar[31] = 3;
    d[31] = 2;
    for (uint8_t i = 0; i < sizeof s->seed; i++) {
        s->seed[i] = i;
    }
    if (random) {
        check_random_bytes(s->scalar, sizeof s->scalar);
        check_random_bytes(s->seed, sizeof s->seed);
        check_random_bytes(d, sizeof d);
        s->scalar[0] &= 0x7F; /* in range, whatever the rest */
        d[0] &= 0x7F;
    }
    if (sm2_private_import(&s->key, d) != SM2_OK) {
        stop("import fails");
    }
    sm2_private_to_public(&q, &s->key);
    if (sm2_encrypt(s->cipher, &q, message, sizeof message) != SM2_OK) {
        stop("encryption fails");
    }
}

typedef struct {
    double time;
    int random;
} measurement;

static measurement taken[MOST];

static int by_time(const void *a, const void *b)
{
    double x = ((const measurement *)a)->time, y = ((const measurement *)b)->time;

    return (x > y) - (x < y);
}

/* |t| of the two classes among the n fastest measurements; 0 if one of them is too small. */
static double welch(size_t n)
{
    double mean[2] = {0, 0}, square[2] = {0, 0}, count[2] = {0, 0}, spread, t;

    for (size_t i = 0; i < n; i++) {
        int c = taken[i].random;
        double delta = taken[i].time - mean[c];

        count[c] += 1;
        mean[c] += delta / count[c];
        square[c] += delta * (taken[i].time - mean[c]);
    }
    if (count[0] < LEAST || count[1] < LEAST) {
        return 0;
    }
    spread = square[0] / (count[0] - 1) / count[0] + square[1] / (count[1] - 1) / count[1];
    t = mean[0] - mean[1];
    return spread > 0 ? fabs(t) / sqrt(spread) : t != 0 ? HUGE_VAL : 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } operations[] = {{"sign", do_sign},
                      {"sign-batch", do_sign_batch},
                      {"generate", do_generate},
                      {"decrypt", do_decrypt}};
    static const double crops[] = {0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98, 0.99, 1};
    void (*run)(void) = NULL;
    const sm2_backend *backend;
    double until, worst = 0;
    size_t n = 0;

    if (argc < 4 || sm2_backend_choose(&backend, argv[1]) != SM2_BACKEND_OK) {
        stop("usage: dudect BACKEND OPERATION SECONDS [LEAK]");
    }
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        run = strcmp(operations[i].name, argv[2]) == 0 ? operations[i].run : run;
    }
    if (run == NULL) {
        stop("no such operation");
    }
    sm2_use_backend(backend);
    make(&fixed, 0);
    for (size_t i = 0; i < RANDOM; i++) {
        make(&varied[i], 1);
    }
    leak = argc > 4 ? argv[4] : "";
    sm2_set_entropy(from_now, NULL);
    until = seconds() + strtod(argv[3], NULL);
    for (size_t i = 0; n < MOST && (n < 5 * LEAST || seconds() < until); i++) {
        int random = (int)(check_random() & 1);
        uint64_t begin;

        memcpy(&now, random ? &varied[check_random() % RANDOM] : &fixed, sizeof now);
        begin = ticks();
        run();
        spoil();
        if (i >= 100) { /* until then it warms up */
            taken[n].time = (double)(ticks() - begin);
            taken[n++].random = random;
        }
    }
    qsort(taken, n, sizeof taken[0], by_time);
    for (size_t i = 0; i < sizeof crops / sizeof crops[0]; i++) {
        double t = welch((size_t)(crops[i] * (double)n));

        worst = t > worst ? t : worst;
    }
    printf("%s %s: |t| %.2f over %zu measurements, median %.0f ticks\n", backend->name, argv[2],
           worst, n, taken[n / 2].time);
    return check_failures;
}
