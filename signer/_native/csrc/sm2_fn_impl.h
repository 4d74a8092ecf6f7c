/*
 * Arithmetic modulo n, the order of the base point (GB/T 32918.5).
 *
 * Scalars are ordinary integers < n unless a name says _mont; the product of a
 * Montgomery form and an ordinary integer is an ordinary integer, which is how
 * signing gets by with one multiplication.
 */
#ifndef SM2_FN_IMPL_H
#define SM2_FN_IMPL_H

#include "sm2_u256_impl.h"

SM2_UNUSED static const sm2_u256 sm2_n = {
    {UINT64_C(0x53BBF40939D54123), UINT64_C(0x7203DF6B21C6052B),
     UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0xFFFFFFFEFFFFFFFF)}};

/* n-1 */
SM2_UNUSED static const sm2_u256 sm2_n_minus_1 = {
    {UINT64_C(0x53BBF40939D54122), UINT64_C(0x7203DF6B21C6052B),
     UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0xFFFFFFFEFFFFFFFF)}};

/* 2^256 mod n and 2^512 mod n */
SM2_UNUSED static const sm2_u256 sm2_fn_one_mont = {
    {UINT64_C(0xAC440BF6C62ABEDD), UINT64_C(0x8DFC2094DE39FAD4),
     UINT64_C(0x0000000000000000), UINT64_C(0x0000000100000000)}};
SM2_UNUSED static const sm2_u256 sm2_fn_rr = {
    {UINT64_C(0x901192AF7C114F20), UINT64_C(0x3464504ADE6FA2FA),
     UINT64_C(0x620FC84C3AFFE0D4), UINT64_C(0x1EB5E412A22B3D3B)}};

/* -1/n mod 2^64 */
#define SM2_N_NEG_INV UINT64_C(0x327F9E8872350975)

/* z := x mod n. In: x any 256-bit integer (2^256 < 2n). Out: z < n. CT: yes. z may alias x. */
SM2_INLINE void sm2_fn_reduce(sm2_u256 *z, const sm2_u256 *x)
{
    sm2_u256_reduce_once(z, x, &sm2_n);
}

/* z := x+y mod n. In: x,y < n. Out: z < n. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fn_add(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 t, u;
    uint64_t carry = sm2_u256_add(&t, x, y);
    uint64_t borrow = sm2_u256_sub(&u, &t, &sm2_n);

    sm2_u256_cmov(&u, &t, borrow & (1 ^ carry));
    *z = u;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_n));
}

/* z := x-y mod n. In: x,y < n. Out: z < n. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fn_sub(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    sm2_u256 t, u;
    uint64_t borrow = sm2_u256_sub(&t, x, y);

    (void)sm2_u256_add(&u, &t, &sm2_n);
    sm2_u256_cmov(&t, &u, borrow);
    *z = t;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_n));
}

/* z := x*y/2^256 mod n. In: x*y < n*2^256 (x < n suffices). Out: z < n. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fn_mont_mul(sm2_u256 *z, const sm2_u256 *x, const sm2_u256 *y)
{
    uint64_t w[8], h, m, carry = 0, c;
    sm2_u256 t, u;
    int i;

    sm2_u256_mul_wide(w, x, y);
    for (i = 0; i < 4; i++) {
        m = w[i] * SM2_N_NEG_INV;
        (void)sm2_mac(m, sm2_n.v[0], w[i], 0, &h);
        w[i + 1] = sm2_mac(m, sm2_n.v[1], w[i + 1], h, &h);
        w[i + 2] = sm2_mac(m, sm2_n.v[2], w[i + 2], h, &h);
        w[i + 3] = sm2_mac(m, sm2_n.v[3], w[i + 3], h, &h);
        c = carry;
        w[i + 4] = sm2_adc(w[i + 4], h, &c);
        carry = c;
    }
    memcpy(t.v, w + 4, sizeof t.v);
    c = sm2_u256_sub(&u, &t, &sm2_n);
    sm2_u256_cmov(&u, &t, c & (1 ^ carry));
    *z = u;
    VERIFY_CHECK(sm2_u256_less(z, &sm2_n));
}

/* z := x*2^256 mod n. In: x any. Out: z < n. CT: yes. z may alias x. */
SM2_INLINE void sm2_fn_to_mont(sm2_u256 *z, const sm2_u256 *x)
{
    sm2_fn_mont_mul(z, x, &sm2_fn_rr);
}

/*
 * z := 1/x in Montgomery form; 0 for x = 0. In: x < n in Montgomery form.
 * Out: z < n. CT: yes (the exponent n-2 is public). z may alias x.
 */
SM2_UNUSED static void sm2_fn_inv_mont(sm2_u256 *z, const sm2_u256 *x)
{
    static const sm2_u256 n_minus_2 = {
        {UINT64_C(0x53BBF40939D54121), UINT64_C(0x7203DF6B21C6052B),
         UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0xFFFFFFFEFFFFFFFF)}};
    sm2_u256 power[16], t;
    int i, j;

    power[0] = sm2_fn_one_mont;
    for (i = 1; i < 16; i++) {
        sm2_fn_mont_mul(&power[i], &power[i - 1], x);
    }
    t = power[15];
    for (i = 62; i >= 0; i--) {
        for (j = 0; j < 4; j++) {
            sm2_fn_mont_mul(&t, &t, &t);
        }
        sm2_fn_mont_mul(&t, &t, &power[(n_minus_2.v[i / 16] >> (4 * (i % 16))) & 15]);
    }
    *z = t;
    sm2_wipe(power, sizeof power);
    sm2_wipe(&t, sizeof t);
}

/*
 * x[i] := 1/x[i] in Montgomery form for i < count, for the price of one
 * inversion. In: 0 < x[i] < n, ordinary integers; 1 <= count <= SM2_FN_INVERT_MAX. CT: yes.
 */
#define SM2_FN_INVERT_MAX 128
SM2_UNUSED static void sm2_fn_invert_many(sm2_u256 *x, size_t count)
{
    sm2_u256 product[SM2_FN_INVERT_MAX], u;
    size_t i;

    VERIFY_CHECK(count > 0 && count <= SM2_FN_INVERT_MAX);
    for (i = 0; i < count; i++) {
        sm2_fn_to_mont(&x[i], &x[i]);
        product[i] = x[i];
        if (i > 0) {
            sm2_fn_mont_mul(&product[i], &x[i], &product[i - 1]);
        }
    }
    sm2_fn_inv_mont(&u, &product[count - 1]);
    for (i = count - 1; i > 0; i--) {
        sm2_fn_mont_mul(&product[i], &u, &product[i - 1]);
        sm2_fn_mont_mul(&u, &u, &x[i]);
        x[i] = product[i];
    }
    x[0] = u;
    sm2_wipe(product, count * sizeof product[0]);
    sm2_wipe(&u, sizeof u);
}

/* 1 if 1 <= x <= n-1, else 0. CT: yes. */
SM2_INLINE uint64_t sm2_fn_is_valid(const sm2_u256 *x)
{
    return (1 ^ sm2_u256_is_zero(x)) & sm2_u256_less(x, &sm2_n);
}

#endif
