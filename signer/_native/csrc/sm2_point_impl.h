/*
 * The group law on y^2 = x^3 - 3x + b over the field modulo p.
 *
 * An affine point is (x,y); a Jacobian one (X:Y:Z) stands for (X/Z^2, Y/Z^3).
 * Coordinates are field elements in Montgomery form. The curve has prime order
 * (cofactor 1), so it has no point with y = 0.
 *
 * The functions without case distinctions state what they need. Those named
 * _vartime take any points and must be given public ones only.
 */
#ifndef SM2_POINT_IMPL_H
#define SM2_POINT_IMPL_H

#include "sm2_fe_pow_impl.h"

typedef struct {
    sm2_fe x, y;
} sm2_affine;

typedef struct {
    sm2_fe X, Y, Z;
} sm2_jacobian;

/* z := 3x mod p. In: x < p. Out: z < p. CT: yes. z must not alias x. */
SM2_INLINE void sm2_fe_triple(sm2_fe *z, const sm2_fe *x)
{
    sm2_fe_double(z, x);
    sm2_fe_add(z, z, x);
}

/* 1 if y^2 = x^3 - 3x + b, else 0. In: x,y < p. CT: yes. */
SM2_INLINE uint64_t sm2_affine_on_curve(const sm2_affine *a)
{
    sm2_fe l, r, t;

    sm2_fe_sqr(&l, &a->y);
    sm2_fe_sqr(&r, &a->x);
    sm2_fe_mul(&r, &r, &a->x);
    sm2_fe_triple(&t, &a->x);
    sm2_fe_sub(&r, &r, &t);
    sm2_fe_add(&r, &r, &sm2_fe_b);
    return sm2_u256_equal(&l, &r);
}

/* r := 2a. In: a on the curve; infinity (Z=0) gives infinity. CT: yes. r may alias a. 4M+4S */
SM2_INLINE void sm2_jacobian_double(sm2_jacobian *r, const sm2_jacobian *a)
{
    sm2_fe s, m, zz, t, y4;

    sm2_fe_double(&s, &a->Y);
    sm2_fe_sqr(&zz, &a->Z);
    sm2_fe_mul(&r->Z, &a->Z, &s);  /* Z' = 2YZ */
    sm2_fe_sqr(&s, &s);            /* 4Y^2 */
    sm2_fe_add(&m, &a->X, &zz);
    sm2_fe_sub(&zz, &a->X, &zz);
    sm2_fe_mul(&m, &m, &zz);
    sm2_fe_triple(&t, &m);         /* M = 3(X-Z^2)(X+Z^2) */
    sm2_fe_sqr(&y4, &s);
    sm2_fe_half(&y4, &y4);         /* 8Y^4 */
    sm2_fe_mul(&s, &s, &a->X);     /* S = 4XY^2 */
    sm2_fe_sqr(&m, &t);
    sm2_fe_sub(&m, &m, &s);
    sm2_fe_sub(&r->X, &m, &s);     /* X' = M^2 - 2S */
    sm2_fe_sub(&s, &s, &r->X);
    sm2_fe_mul(&s, &s, &t);
    sm2_fe_sub(&r->Y, &s, &y4);    /* Y' = M(S-X') - 8Y^4 */
}

/*
 * r := a+b for a given H = x_b*Z_a^2 - X_a and R = y_b*Z_a^3 - Y_a.
 * In: H != 0. CT: yes. r may alias a. 6M+2S
 */
SM2_INLINE void sm2_jacobian_add_tail(sm2_jacobian *r, const sm2_jacobian *a,
                                      const sm2_fe *H, const sm2_fe *R)
{
    sm2_fe hh, hhh, v, t, x;

    sm2_fe_mul(&r->Z, &a->Z, H);
    sm2_fe_sqr(&hh, H);
    sm2_fe_mul(&hhh, &hh, H);
    sm2_fe_mul(&v, &a->X, &hh);
    sm2_fe_sqr(&x, R);
    sm2_fe_sub(&x, &x, &hhh);
    sm2_fe_sub(&x, &x, &v);
    sm2_fe_sub(&x, &x, &v);
    sm2_fe_mul(&t, &a->Y, &hhh);
    sm2_fe_sub(&v, &v, &x);
    sm2_fe_mul(&v, &v, R);
    sm2_fe_sub(&r->Y, &v, &t);
    r->X = x;
}

/* H := x_b*Z_a^2 - X_a, R := y_b*Z_a^3 - Y_a. CT: yes. 3M+1S */
SM2_INLINE void sm2_jacobian_add_head(sm2_fe *H, sm2_fe *R, const sm2_jacobian *a,
                                      const sm2_affine *b)
{
    sm2_fe zz;

    sm2_fe_sqr(&zz, &a->Z);
    sm2_fe_mul(H, &b->x, &zz);
    sm2_fe_sub(H, H, &a->X);
    sm2_fe_mul(&zz, &zz, &a->Z);
    sm2_fe_mul(R, &b->y, &zz);
    sm2_fe_sub(R, R, &a->Y);
}

/* r := a+b. In: a, b finite and a != b, a != -b. CT: yes. r may alias a. 9M+3S */
SM2_INLINE void sm2_jacobian_add_affine(sm2_jacobian *r, const sm2_jacobian *a, const sm2_affine *b)
{
    sm2_fe H, R;

    sm2_jacobian_add_head(&H, &R, a, b);
    VERIFY_CHECK(!sm2_u256_is_zero(&H));
    sm2_jacobian_add_tail(r, a, &H, &R);
}

/* r := a+b, where a = b is allowed. In: a, b finite and a != -b. CT: yes. r may alias a. */
SM2_UNUSED static void sm2_jacobian_add_affine_or_double(sm2_jacobian *r,
                                                         const sm2_jacobian *a,
                                                         const sm2_affine *b)
{
    sm2_fe H, R;
    sm2_jacobian sum, twice;
    uint64_t same;

    sm2_jacobian_add_head(&H, &R, a, b);
    sm2_jacobian_add_tail(&sum, a, &H, &R);
    sm2_jacobian_double(&twice, a);
    same = sm2_u256_is_zero(&H);
    sm2_u256_cmov(&sum.X, &twice.X, same);
    sm2_u256_cmov(&sum.Y, &twice.Y, same);
    sm2_u256_cmov(&sum.Z, &twice.Z, same);
    *r = sum;
    sm2_wipe(&sum, sizeof sum);
    sm2_wipe(&twice, sizeof twice);
}

/* r := a+b for any a and any finite b. CT: no, public points only. r may alias a. */
SM2_UNUSED static void sm2_jacobian_add_affine_vartime(sm2_jacobian *r, const sm2_jacobian *a,
                                                       const sm2_affine *b)
{
    sm2_fe H, R;

    if (sm2_u256_is_zero(&a->Z)) {
        r->X = b->x;
        r->Y = b->y;
        r->Z = sm2_fe_one;
        return;
    }
    sm2_jacobian_add_head(&H, &R, a, b);
    if (sm2_u256_is_zero(&H)) {
        if (sm2_u256_is_zero(&R)) {
            sm2_jacobian_double(r, a);
        } else {
            memset(r, 0, sizeof *r);
        }
        return;
    }
    sm2_jacobian_add_tail(r, a, &H, &R);
}

/* y := -y if b = 1, unchanged if b = 0. In: y < p. Out: y < p. CT: yes. */
SM2_INLINE void sm2_fe_cneg(sm2_fe *y, uint64_t b)
{
    sm2_fe t;

    sm2_fe_neg(&t, y);
    sm2_u256_cmov(y, &t, b);
}

/*
 * inv[i] := 1/z[i] for i < n, at the price of one inversion and 3(n-1)
 * multiplications (Montgomery's trick). In: every z[i] != 0, n >= 1.
 * CT: yes. inv must not alias z.
 */
SM2_UNUSED static void sm2_fe_inv_many(sm2_fe *inv, const sm2_fe *z, size_t n)
{
    sm2_fe u;
    size_t i;

    inv[0] = z[0];
    for (i = 1; i < n; i++) {
        sm2_fe_mul(&inv[i], &inv[i - 1], &z[i]);
    }
    VERIFY_CHECK(!sm2_u256_is_zero(&inv[n - 1]));
    sm2_fe_inv(&u, &inv[n - 1]);
    for (i = n - 1; i > 0; i--) {
        sm2_fe_mul(&inv[i], &u, &inv[i - 1]);
        sm2_fe_mul(&u, &u, &z[i]);
    }
    inv[0] = u;
}

#endif
