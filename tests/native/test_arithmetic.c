/*
 * Field and scalar arithmetic against long division, at the extremes of every
 * limb. Built once for each implementation of the field.
 *
 * Usage: test_arithmetic [STRIDE]   every STRIDE-th pair of operands only
 */
#include "check.h"
#include "sm2_fn_impl.h"
#include "sm2_point_impl.h"

#define MAX_EDGES 1500

/* r := w mod m by subtraction and shift; m has its top bit set. */
static void slow_mod(sm2_u256 *r, const uint64_t w[8], const sm2_u256 *m)
{
    sm2_u256 t = {{0, 0, 0, 0}}, u;

    for (int i = 511; i >= 0; i--) {
        uint64_t top = t.v[3] >> 63;

        for (int j = 3; j > 0; j--) {
            t.v[j] = t.v[j] << 1 | t.v[j - 1] >> 63;
        }
        t.v[0] = t.v[0] << 1 | (w[i / 64] >> (i % 64) & 1);
        if (sm2_u256_sub(&u, &t, m) == 0 || top) {
            t = u;
        }
    }
    *r = t;
}

/* w := x*y by halves of limbs. */
static void slow_mul(uint64_t w[8], const sm2_u256 *x, const sm2_u256 *y)
{
    uint32_t out[16] = {0};

    for (int i = 0; i < 8; i++) {
        uint64_t carry = 0, a = (uint32_t)(x->v[i / 2] >> (32 * (i % 2)));

        for (int j = 0; j < 8; j++) {
            carry += a * (uint32_t)(y->v[j / 2] >> (32 * (j % 2))) + out[i + j];
            out[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        out[i + 8] = (uint32_t)carry;
    }
    for (int i = 0; i < 8; i++) {
        w[i] = (uint64_t)out[2 * i + 1] << 32 | out[2 * i];
    }
}

/* r := x+y mod m. */
static void slow_sum(sm2_u256 *r, const sm2_u256 *x, const sm2_u256 *y, const sm2_u256 *m)
{
    uint64_t w[8] = {0};
    sm2_u256 t;

    w[4] = sm2_u256_add(&t, x, y);
    memcpy(w, t.v, sizeof t.v);
    slow_mod(r, w, m);
}

/* 1 if z*2^256 = x*y mod m. */
static int is_mont_product(const sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y,
                           const sm2_u256 *m)
{
    uint64_t w[8], up[8] = {0};
    sm2_u256 l, r;

    slow_mul(w, x, y);
    slow_mod(&r, w, m);
    memcpy(up + 4, z->v, sizeof z->v);
    slow_mod(&l, up, m);
    return (int)sm2_u256_equal(&l, &r) && sm2_u256_less(z, m);
}

/* Values < m: all combinations of extreme limbs, and both ends of the range. */
static int edges(sm2_u256 *out, const sm2_u256 *m)
{
    static const uint64_t limb[] = {0, 1, UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX << 32};
    int n = 0;

    for (int i = 0; i < 625; i++) {
        sm2_u256 x = {{limb[i % 5], limb[i / 5 % 5], limb[i / 25 % 5], limb[i / 125]}};

        if (sm2_u256_less(&x, m)) {
            out[n++] = x;
        }
    }
    for (uint64_t i = 1; i < 40; i++) {
        sm2_u256 small = {{i, 0, 0, 0}};

        (void)sm2_u256_sub(&out[n++], m, &small);
        out[n++] = small;
    }
    for (int i = 0; i < 60; i++) {
        sm2_u256 x = {{check_random(), check_random(), check_random(), check_random()}};

        sm2_u256_reduce_once(&out[n++], &x, m);
    }
    return n;
}

static void test_field_pair(const sm2_fe *x, const sm2_fe *y)
{
    sm2_u256 z, r;

    sm2_fe_mul(&z, x, y);
    CHECK(is_mont_product(&z, x, y, &sm2_p));
    sm2_fe_add(&z, x, y);
    slow_sum(&r, x, y, &sm2_p);
    CHECK(sm2_u256_equal(&z, &r));
    sm2_fe_sub(&r, &z, y);
    CHECK(sm2_u256_equal(&r, x));
    sm2_fe_sub(&z, x, y);
    sm2_fe_add(&r, &z, y);
    CHECK(sm2_u256_equal(&r, x) && sm2_u256_less(&z, &sm2_p));
    z = *x; /* aliasing */
    sm2_fe_mul(&z, &z, &z);
    CHECK(is_mont_product(&z, x, x, &sm2_p));
}

static void test_field_one(const sm2_fe *x)
{
    static const sm2_fe zero = {{0, 0, 0, 0}};
    sm2_fe z, r;

    sm2_fe_sqr(&z, x);
    CHECK(is_mont_product(&z, x, x, &sm2_p));
    CHECK(sm2_fe_sqrt(&r, &z) == 1);
    sm2_fe_sqr(&r, &r);
    CHECK(sm2_u256_equal(&r, &z));
    if (!sm2_u256_is_zero(x)) { /* p = 3 mod 4: exactly one of x and -x is a square */
        sm2_fe_neg(&z, x);
        CHECK(sm2_fe_sqrt(&r, x) + sm2_fe_sqrt(&r, &z) == 1);
        sm2_fe_inv(&z, x);
        sm2_fe_mul(&z, &z, x);
        CHECK(sm2_u256_equal(&z, &sm2_fe_one));
    }
    sm2_fe_inv(&z, &zero);
    CHECK(sm2_u256_is_zero(&z));
    sm2_fe_half(&z, x);
    sm2_fe_double(&z, &z);
    CHECK(sm2_u256_equal(&z, x));
    sm2_fe_neg(&z, x);
    sm2_fe_add(&z, &z, x);
    CHECK(sm2_u256_is_zero(&z));
    sm2_fe_to_mont(&z, x);
    sm2_fe_from_mont(&z, &z);
    CHECK(sm2_u256_equal(&z, x));
}

static void test_scalar_pair(const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 z, r;

    sm2_fn_mont_mul(&z, x, y);
    CHECK(is_mont_product(&z, x, y, &sm2_n));
    sm2_fn_add(&z, x, y);
    slow_sum(&r, x, y, &sm2_n);
    CHECK(sm2_u256_equal(&z, &r));
    sm2_fn_sub(&z, &z, y);
    CHECK(sm2_u256_equal(&z, x));
    sm2_fn_sub(&z, x, y);
    sm2_fn_add(&z, &z, y);
    CHECK(sm2_u256_equal(&z, x));
}

static void test_scalar_one(const sm2_u256 *x)
{
    sm2_u256 z, t;

    CHECK(sm2_fn_is_valid(x) == (1 ^ sm2_u256_is_zero(x)));
    if (!sm2_u256_is_zero(x)) {
        sm2_fn_to_mont(&t, x);
        sm2_fn_inv_mont(&z, &t);
        sm2_fn_mont_mul(&z, &z, &t);
        CHECK(sm2_u256_equal(&z, &sm2_fn_one_mont));
    }
}

/* Integers up to 2^256-1, which fields never see but hashes and coordinates give. */
static void test_above(void)
{
    static const sm2_u256 ones = {{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
    sm2_u256 z, d;

    CHECK(!sm2_fn_is_valid(&sm2_n));
    CHECK(!sm2_fn_is_valid(&sm2_p)); /* p > n */
    CHECK(!sm2_fn_is_valid(&ones));
    CHECK(sm2_fn_is_valid(&sm2_n_minus_1));
    sm2_fn_reduce(&z, &sm2_n);
    CHECK(sm2_u256_is_zero(&z));
    sm2_fn_reduce(&z, &ones);
    (void)sm2_u256_sub(&d, &ones, &sm2_n);
    CHECK(sm2_u256_equal(&z, &d));
    sm2_fn_to_mont(&z, &ones);
    sm2_fn_to_mont(&d, &d);
    CHECK(sm2_u256_equal(&z, &d));
}

/* One inversion for many: same as one for each. */
static void test_inverse_many(const sm2_fe *x, size_t n)
{
    static sm2_fe inv[MAX_EDGES], in[MAX_EDGES];
    size_t used = 0;
    sm2_fe one;

    for (size_t i = 0; i < n; i++) {
        if (!sm2_u256_is_zero(&x[i])) {
            in[used++] = x[i];
        }
    }
    for (size_t count = 1; count <= used; count += count < 20 ? 1 : 97) {
        sm2_fe_inv_many(inv, in, count);
        for (size_t i = 0; i < count; i++) {
            sm2_fe_mul(&one, &inv[i], &in[i]);
            CHECK(sm2_u256_equal(&one, &sm2_fe_one));
        }
    }
}

int main(int argc, char **argv)
{
    static sm2_u256 x[MAX_EDGES];
    int stride = argc > 1 ? atoi(argv[1]) : 1, n, i, j;

    n = edges(x, &sm2_p);
    for (i = 0; i < n; i++) {
        test_field_one(&x[i]);
        for (j = i % stride; j < n; j += stride) {
            test_field_pair(&x[i], &x[j]);
        }
    }
    test_inverse_many(x, (size_t)n);
    n = edges(x, &sm2_n);
    for (i = 0; i < n; i++) {
        test_scalar_one(&x[i]);
        for (j = i % stride; j < n; j += stride) {
            test_scalar_pair(&x[i], &x[j]);
        }
    }
    test_above();
    printf("%d edges, %d failures\n", n, check_failures);
    return check_failures != 0;
}
