/*
 * Arithmetic modulo n, the order of the base point, eight integers at once:
 * the inverses and the sums of products that fresh keys need.
 *
 * Five limbs of 52 bits as in sm2_ifma_fe_impl.h, but of ordinary integers:
 * the product of x < an and y < bn is x*y/2^260 < (ab/16 + 1)n. n has no form
 * that saves anything, so a step of the reduction takes eleven multiplications.
 */
#ifndef SM2_IFMA_ORDER_IMPL_H
#define SM2_IFMA_ORDER_IMPL_H

#include "sm2_ifma_lane_impl.h"

/* -1/n mod 2^52 */
#define SM2_IFMA_N_NEG_INV (SM2_N_NEG_INV & SM2_MASK52)

/* The limbs of n, of 2^520 mod n, and of 1/2^4 mod n. */
static const uint64_t sm2_ifma_n[5] = {
    UINT64_C(0xBF40939D54123), UINT64_C(0x6B21C6052B53B), UINT64_C(0xFFFFFFF7203DF),
    UINT64_C(0xFFFFFFFFFFFFF), UINT64_C(0x0FFFFFFFEFFFF)};
static const uint64_t sm2_ifma_n_rr[5] = {
    UINT64_C(0xC16674A517DE6), UINT64_C(0x507A6E5F7C418), UINT64_C(0xFE0D44507DC1C),
    UINT64_C(0x3B620FC84C3AF), UINT64_C(0x0B5E412C02B3D)};
static const uint64_t sm2_ifma_n_sixteenth[5] = {
    UINT64_C(0xABC42E212A45B), UINT64_C(0xD17A8DE19D8A2), UINT64_C(0xFFFFFFFD3A135),
    UINT64_C(0xFFFFFFFFFFFFF), UINT64_C(0x04FFFFFFFAFFF)};

/* z := w/2^260 mod n. In: w < 2^260*an, limbs < 2^63. Out: z < (a+1)n, and that < 16n. CT: yes. */
SM2_INLINE void sm2_nv_redc(sm2_fv *z, sm2_v w[10])
{
    const sm2_v neg_inv = sm2_v_set1(SM2_IFMA_N_NEG_INV), mask = sm2_v_set1(SM2_MASK52);
    sm2_v m;
    int i, j;

SM2_UNROLL
    for (i = 0; i < 5; i++) {
        m = sm2_v_and(sm2_v_mulo(sm2_v_set1(0), w[i], neg_inv), mask);
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], m, sm2_v_set1(sm2_ifma_n[j]));
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], m, sm2_v_set1(sm2_ifma_n[j]));
        }
        w[i + 1] = sm2_v_add(w[i + 1], sm2_v_shr(w[i], 52));
    }
    sm2_fv_carry(z, w + 5);
}

/* w := w + x*y, not carried. In: x, y < 2^260. CT: yes. */
SM2_INLINE void sm2_nv_add_product(sm2_v w[10], const sm2_fv *x, const sm2_fv *y)
{
    int i, j;

SM2_UNROLL
    for (i = 0; i < 5; i++) {
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], x->l[j], y->l[i]);
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], x->l[j], y->l[i]);
        }
    }
}

/* z := x*y/2^260 mod n for a pair. In: x < an, y < bn. Out: z < (ab/16+1)n. CT: yes. z may alias x, y. */
__attribute__((noinline)) static void sm2_nw_mul(sm2_fv *z, const sm2_fv *x, const sm2_fv *y)
{
    sm2_v w[10];
    int g, i;

    for (g = 0; g < SM2_PAIR; g++) {
SM2_UNROLL
        for (i = 0; i < 10; i++) {
            w[i] = sm2_v_set1(0);
        }
        sm2_nv_add_product(w, &x[g], &y[g]);
        sm2_nv_redc(&z[g], w);
    }
}

/* The words of sixteen integers: 2i and 2i+1 are lane i of the two groups. */
static void sm2_nw_load(sm2_fv *z, const sm2_u256 *x)
{
    const uint64_t *p[8];
    int i;

    for (i = 0; i < 8; i++) {
        p[i] = x[2 * i].v;
    }
    sm2_fv_load_rows(&z[0], &z[1], p);
}

/* x[0..15] := z mod n, in the order of sm2_nw_load. In: z < 2n. CT: yes. */
static void sm2_nw_store(sm2_u256 *x, const sm2_fv *z)
{
    uint64_t *p[8];
    sm2_fv t[SM2_PAIR];
    int i;

    for (i = 0; i < SM2_PAIR; i++) {
        sm2_fv_reduce(&t[i], &z[i], sm2_ifma_n);
    }
    for (i = 0; i < 8; i++) {
        p[i] = x[2 * i].v;
    }
    sm2_fv_store_rows(p, &t[0], &t[1], 8);
    sm2_wipe(t, sizeof t);
}

/*
 * x[i] := 2^256/x[i] mod n for i < n. In: see sm2_backend.h. CT: yes.
 *
 * Products of the rows so far are kept, P_r = P_(r-1)*x_r/2^260; the sixteen
 * of the last row are inverted by the scalar code, U = 2^256/P_r; and
 * U*P_(r-1)/2^260 is 2^256/x_r, U*x_r/2^260 is 2^256/P_(r-1).
 */
static void sm2_ifma_order_invert_many(sm2_u256 *x, size_t n)
{
    sm2_fv product[SM2_KEYS_MAX / 16][SM2_PAIR], u[SM2_PAIR], t[SM2_PAIR];
    sm2_u256 last[16];
    size_t rows = n / 16, i;

    VERIFY_CHECK(n > 0 && n % 16 == 0 && n <= SM2_KEYS_MAX);
    sm2_nw_load(product[0], x);
    for (i = 1; i < rows; i++) {
        sm2_nw_load(t, x + 16 * i);
        sm2_nw_mul(product[i], product[i - 1], t);
    }
    sm2_nw_store(last, product[rows - 1]);
    sm2_fn_invert_many(last, 16);
    sm2_nw_load(u, last);
    for (i = rows - 1; i > 0; i--) {
        sm2_nw_mul(t, u, product[i - 1]);
        sm2_nw_load(product[i], x + 16 * i);
        sm2_nw_mul(u, u, product[i]);
        sm2_nw_store(x + 16 * i, t);
    }
    sm2_nw_store(x, u);
    sm2_wipe(product, rows * sizeof product[0]);
    sm2_wipe(u, sizeof u);
    sm2_wipe(t, sizeof t);
    sm2_wipe(last, sizeof last);
}

/* 1 if inv[i]*x[i] = 2^256 mod n for i < n, else 0. In: see sm2_backend.h. CT: yes. */
static int sm2_ifma_order_inverses_are(const sm2_u256 *inv, const sm2_u256 *x, size_t n)
{
    sm2_fv a[SM2_PAIR], b[SM2_PAIR];
    sm2_v differ = sm2_v_set1(0);
    size_t i;
    int g, j;

    VERIFY_CHECK(n % 16 == 0);
    for (i = 0; i < n; i += 16) {
        sm2_nw_load(a, inv + i);
        sm2_nw_load(b, x + i);
        sm2_nw_mul(a, a, b); /* 2^256/2^260 */
        for (g = 0; g < SM2_PAIR; g++) {
            sm2_fv_reduce(&a[g], &a[g], sm2_ifma_n);
            for (j = 0; j < 5; j++) {
                differ = sm2_v_or(differ, sm2_v_xor(a[g].l[j], sm2_v_set1(sm2_ifma_n_sixteenth[j])));
            }
        }
    }
    sm2_wipe(a, sizeof a);
    sm2_wipe(b, sizeof b);
    return (int)sm2_is_zero64(sm2_v_test(differ, differ));
}

#endif
