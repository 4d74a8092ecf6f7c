/* What the files of test_operations.c share: slow but sure arithmetic, and inputs worth trying. */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "check.h"
#include "sm2_internal.h"

static int quick;

static const sm2_point base = {
    {{UINT64_C(0x715A4589334C74C7), UINT64_C(0x8FE30BBFF2660BE1), UINT64_C(0x5F9904466A39C994),
      UINT64_C(0x32C4AE2C1F198119)}},
    {{UINT64_C(0x02DF32E52139F0A0), UINT64_C(0xD0A9877CC62A4740), UINT64_C(0x59BDCEE36B692153),
      UINT64_C(0xBC3736A2F4F6779C)}},
};

static const sm2_u256 halves_meet = {
    {UINT64_C(0xAC440BF6C62ABEDD), UINT64_C(0x7203DF6B21C6052C), UINT64_C(0x000000000000001F),
     UINT64_C(0xFFFFFFFEFFFFFF80)}};

/* *r := k*q by double-and-add with every case distinguished; 0 if infinity. */
static int slow_multiply(sm2_point *r, const sm2_u256 *k, const sm2_point *q)
{
    sm2_jacobian a;
    sm2_affine p;
    sm2_fe z, t;

    memset(&a, 0, sizeof a);
    sm2_fe_to_mont(&p.x, &q->x);
    sm2_fe_to_mont(&p.y, &q->y);
    for (int i = 255; i >= 0; i--) {
        sm2_jacobian_double(&a, &a);
        if (k->v[i / 64] >> (i % 64) & 1) {
            sm2_jacobian_add_affine_vartime(&a, &a, &p);
        }
    }
    if (sm2_u256_is_zero(&a.Z)) {
        return 0;
    }
    sm2_fe_inv(&z, &a.Z);
    sm2_fe_sqr(&t, &z);
    sm2_fe_mul(&a.X, &a.X, &t);
    sm2_fe_mul(&t, &t, &z);
    sm2_fe_mul(&a.Y, &a.Y, &t);
    sm2_fe_from_mont(&r->x, &a.X);
    sm2_fe_from_mont(&r->y, &a.Y);
    return 1;
}

static int same_point(const sm2_point *a, const sm2_point *b)
{
    return (int)(sm2_u256_equal(&a->x, &b->x) & sm2_u256_equal(&a->y, &b->y));
}

/* z := x*y mod n. */
static void scalar_mul(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 t;

    sm2_fn_to_mont(&t, x);
    sm2_fn_mont_mul(z, &t, y);
}

/* The batch sizes to try, one after the other: all small ones, and those around full ones. */
static size_t next_size(size_t size)
{
    if (quick) {
        return size < 5 ? size + 3 : size < 17 ? size + 4 : size < 40 ? 40 : size < 128 ? 128 : 129;
    }
    return size < 40 ? size + 1 : size < 127 ? 127 : size + 1;
}

/* Scalars worth trying: both ends, single bits, and those where the last addition doubles. */
static size_t scalars(sm2_u256 *k)
{
    size_t n = 0;

    for (uint64_t i = 1; i <= 70; i++) {
        sm2_u256 small = {{i, 0, 0, 0}};

        k[n++] = small;
        (void)sm2_u256_sub(&k[n++], &sm2_n, &small);
    }
    for (int i = 7; i < 256; i++) {
        memset(&k[n], 0, sizeof k[n]);
        k[n++].v[i / 64] = (uint64_t)1 << (i % 64);
    }
    /*
     * n with the signs of the digits of windows 0..10 and 22..32 turned: the two
     * halves that the comb adds last differ by n, so they are the same point
     */
    k[n++] = halves_meet;
    (void)sm2_u256_sub(&k[n++], &sm2_n, &halves_meet);
    for (int low = -63; low <= 63; low += 2) {
        /* k = acc + low where acc - low = n, so that the last digit meets its equal */
        sm2_u256 d = {{(uint64_t)(low < 0 ? -2 * low : 2 * low), 0, 0, 0}};

        if (low < 0) {
            (void)sm2_u256_sub(&d, &sm2_n, &d);
        }
        k[n++] = d;
    }
    for (int i = 0; i < 40; i++) {
        sm2_u256 x = {{check_random(), check_random(), check_random(), check_random()}};

        sm2_fn_reduce(&k[n], &x);
        n += sm2_fn_is_valid(&k[n]);
    }
    return n;
}

static int all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++) {
        any |= p[i];
    }
    return any == 0;
}

#endif
