/*
 * Arithmetic modulo p = 2^256 - 2^224 - 2^96 + 2^64 - 1, eight elements at once.
 *
 * An element is held as x*2^260 mod p, not reduced, in five limbs of 52 bits:
 * limb j of element i is lane i of l[j]. Between functions every limb is in
 * [0, 2^52), for the multiplier reads 52 bits and no more, and the value is
 * bounded by a multiple of p that the function states ("< 2p"). 2^260 > 16p,
 * so there are four spare bits, and no comparison with p is made before the
 * very end:
 *
 *   mul, sqr   x < ap, y < bp, ab <= 16:  the product is < (ab/16 + 1)p <= 2p,
 *              since it is (xy + Mp)/2^260 with M < 2^260
 *   weak       any sum >= 0 and < 2^11 p:  < 2^256 + 2^235 < 2p ("weakly reduced")
 *
 * p = -1 mod 2^52, so the Montgomery quotient of each step is the lowest limb
 * itself. (p+1)/2^52 = C4*2^156 - 2^52 + C1 with C1 = 2^52 - 2^44 + 2^12 and
 * C4 = 2^48 - 2^16; a step thus takes four multiplications and a subtraction.
 * Limbs are signed while a function works on them and stay below 2^60.
 */
#ifndef SM2_IFMA_FE_IMPL_H
#define SM2_IFMA_FE_IMPL_H

#include "sm2_ifma_vec_impl.h"

typedef struct {
    sm2_v l[5];
} SM2_ALIGNED sm2_fv;

#if defined(SM2_SIMD_SHIM)
#define SM2_UNROLL /* simulated vectors are loops of their own: compilers would take minutes */
#elif defined(__clang__)
#define SM2_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SM2_UNROLL _Pragma("GCC unroll 10")
#endif

#define SM2_MASK52 UINT64_C(0xFFFFFFFFFFFFF)
#define SM2_IFMA_C1 UINT64_C(0xFF00000001000)
#define SM2_IFMA_C4 UINT64_C(0x0FFFFFFFF0000)

/* The limbs of p and of 2^520 mod p, and 2^260 mod p (one). */
static const uint64_t sm2_ifma_p[5] = {
    UINT64_C(0xFFFFFFFFFFFFF), UINT64_C(0xFF00000000FFF), UINT64_C(0xFFFFFFFFFFFFF),
    UINT64_C(0xFFFFFFFFFFFFF), UINT64_C(0x0FFFFFFFEFFFF)};
static const uint64_t sm2_ifma_rr[5] = {
    UINT64_C(0x0020000000300), UINT64_C(0xFFFFFFFF00000), UINT64_C(0x0000100000002),
    UINT64_C(0x0200000001000), UINT64_C(0x0000004000000)};
static const uint64_t sm2_ifma_one[5] = {
    UINT64_C(0x0000000000010), UINT64_C(0x0FFFFFFFF0000), UINT64_C(0x0000000000000),
    UINT64_C(0x0000000000000), UINT64_C(0x0000000100000)};
static const uint64_t sm2_ifma_b[5] = {
    UINT64_C(0x30632BC0DD422), UINT64_C(0xB09B537AB70D2), UINT64_C(0xA51C3C71CF379),
    UINT64_C(0x2C8527981505E), UINT64_C(0x040FE188DA20E)};

/* k times limb j of p. */
SM2_INLINE sm2_v sm2_v_kp(uint64_t k, int j)
{
    return sm2_v_set1(k * sm2_ifma_p[j]);
}

/* Every lane := the element whose limbs are at p. CT: yes. */
SM2_INLINE void sm2_fv_set1(sm2_fv *z, const uint64_t p[5])
{
    int j;

    for (j = 0; j < 5; j++) {
        z->l[j] = sm2_v_set1(p[j]);
    }
}

/* 1 if in every lane the limbs are < 2^52 and the value is < k*2^256. For VERIFY_CHECK. */
SM2_UNUSED static int sm2_fv_is_below(const sm2_fv *x, uint64_t k)
{
    uint64_t w[8];
    int i, j;

    for (j = 0; j < 5; j++) {
        sm2_v_store(w, x->l[j]);
        for (i = 0; i < 8; i++) {
            if (w[i] > SM2_MASK52 || (j == 4 && w[i] >> 48 >= k)) {
                return 0;
            }
        }
    }
    return 1;
}

/* z := t with each limb's excess carried into the next. In: 0 <= t < 2^260. CT: yes. */
SM2_INLINE void sm2_fv_carry(sm2_fv *z, const sm2_v t[5])
{
    const sm2_v mask = sm2_v_set1(SM2_MASK52);
    sm2_v u = t[0];
    int j;

    for (j = 0; j < 4; j++) {
        z->l[j] = sm2_v_and(u, mask);
        u = sm2_v_add(t[j + 1], sm2_v_carry(u));
    }
    z->l[4] = u;
    VERIFY_CHECK(sm2_fv_is_below(z, 16));
}

/*
 * z := t mod p, weakly reduced: t = q*2^256 + rest becomes rest + q*(2^256-p).
 * In: 0 <= t < 2^11 p, signed limbs. Out: z < 2^256 + 2^235. CT: yes.
 */
SM2_INLINE void sm2_fv_weak(sm2_fv *z, const sm2_v t[5])
{
    sm2_v q = sm2_v_shr(t[4], 48), u[5];

    u[0] = sm2_v_add(t[0], q);
    u[1] = sm2_v_sub(sm2_v_add(t[1], sm2_v_shl(q, 44)), sm2_v_shl(q, 12));
    u[2] = t[2];
    u[3] = t[3];
    u[4] = sm2_v_and(t[4], sm2_v_set1((UINT64_C(1) << 48) - 1));
    u[4] = sm2_v_add(u[4], sm2_v_shl(q, 16));
    sm2_fv_carry(z, u);
    VERIFY_CHECK(sm2_fv_is_below(z, 2));
}

/* z := x+y. In: x+y < 16p. Out: z < the sum of their bounds. CT: yes. */
SM2_INLINE void sm2_fv_add(sm2_fv *z, const sm2_fv *x, const sm2_fv *y)
{
    sm2_v t[5];
    int j;

    for (j = 0; j < 5; j++) {
        t[j] = sm2_v_add(x->l[j], y->l[j]);
    }
    sm2_fv_carry(z, t);
}

/* z := x-y+2p. In: x < 14p, y < 2p. Out: z < (bound of x) + 2p. CT: yes. */
SM2_INLINE void sm2_fv_sub(sm2_fv *z, const sm2_fv *x, const sm2_fv *y)
{
    sm2_v t[5];
    int j;

    for (j = 0; j < 5; j++) {
        t[j] = sm2_v_add(sm2_v_sub(x->l[j], y->l[j]), sm2_v_kp(2, j));
    }
    sm2_fv_carry(z, t);
}

/* z := (w[0..9])/2^260 mod p. In: w < 2^260*16p, limbs < 2^57. Out: z < 2p if w < 16p^2. CT: yes. */
SM2_INLINE void sm2_fv_redc(sm2_fv *z, sm2_v w[10])
{
    const sm2_v c1 = sm2_v_set1(SM2_IFMA_C1), c4 = sm2_v_set1(SM2_IFMA_C4);
    const sm2_v mask = sm2_v_set1(SM2_MASK52);
    int i;

SM2_UNROLL
    for (i = 0; i < 5; i++) {
        w[i + 1] = sm2_v_add(w[i + 1], sm2_v_carry(w[i]));
        w[i + 1] = sm2_v_mulo(w[i + 1], w[i], c1);
        w[i + 2] = sm2_v_sub(w[i + 2], sm2_v_and(w[i], mask));
        w[i + 2] = sm2_v_muhi(w[i + 2], w[i], c1);
        w[i + 4] = sm2_v_mulo(w[i + 4], w[i], c4);
        w[i + 5] = sm2_v_muhi(w[i + 5], w[i], c4);
    }
    sm2_fv_carry(z, w + 5);
}

/* z := x*y/2^260 mod p. In: x < ap, y < bp. Out: z < (ab/16+1)p. CT: yes. z may alias x, y. */
SM2_INLINE void sm2_fv_mul_one(sm2_fv *z, const sm2_fv *x, const sm2_fv *y)
{
    sm2_v w[10];
    int i, j;

SM2_UNROLL
    for (i = 0; i < 10; i++) {
        w[i] = sm2_v_set1(0);
    }
SM2_UNROLL
    for (i = 0; i < 5; i++) {
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], x->l[j], y->l[i]);
        }
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], x->l[j], y->l[i]);
        }
    }
    sm2_fv_redc(z, w);
}

/* z := (x*y + u*v)/2^260 mod p. In: x*y + u*v < cp^2, c <= 32. Out: z < (c/16+1)p. CT: yes. Aliases are fine. */
SM2_INLINE void sm2_fv_mul_two(sm2_fv *z, const sm2_fv *x, const sm2_fv *y, const sm2_fv *u,
                               const sm2_fv *v)
{
    sm2_v w[10];
    int i, j;

SM2_UNROLL
    for (i = 0; i < 10; i++) {
        w[i] = sm2_v_set1(0);
    }
SM2_UNROLL
    for (i = 0; i < 5; i++) {
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], x->l[j], y->l[i]);
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], x->l[j], y->l[i]);
        }
SM2_UNROLL
        for (j = 0; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], u->l[j], v->l[i]);
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], u->l[j], v->l[i]);
        }
    }
    sm2_fv_redc(z, w);
}

/* z := x*x/2^260 mod p. In: x < ap. Out: z < (a^2/16+1)p. CT: yes. z may alias x. */
SM2_INLINE void sm2_fv_sqr_one(sm2_fv *z, const sm2_fv *x)
{
    sm2_v w[10];
    int i, j;

SM2_UNROLL
    for (i = 0; i < 10; i++) {
        w[i] = sm2_v_set1(0);
    }
SM2_UNROLL
    for (i = 0; i < 5; i++) {
SM2_UNROLL
        for (j = i + 1; j < 5; j++) {
            w[i + j] = sm2_v_mulo(w[i + j], x->l[j], x->l[i]);
            w[i + j + 1] = sm2_v_muhi(w[i + j + 1], x->l[j], x->l[i]);
        }
    }
SM2_UNROLL
    for (i = 0; i < 10; i++) {
        w[i] = sm2_v_add(w[i], w[i]);
    }
SM2_UNROLL
    for (i = 0; i < 5; i++) {
        w[2 * i] = sm2_v_mulo(w[2 * i], x->l[i], x->l[i]);
        w[2 * i + 1] = sm2_v_muhi(w[2 * i + 1], x->l[i], x->l[i]);
    }
    sm2_fv_redc(z, w);
}

/*
 * The same for w groups of eight. Two independent groups side by side hide
 * the latency of each other's chains: a pair is the unit of nearly all below.
 */
#define SM2_PAIR 2
__attribute__((noinline, unused)) static void sm2_fw_mul(sm2_fv *z, const sm2_fv *x,
                                                         const sm2_fv *y, int w)
{
    int g;

    for (g = 0; g < w; g++) {
        sm2_fv_mul_one(&z[g], &x[g], &y[g]);
    }
}

__attribute__((noinline, unused)) static void sm2_fw_mul_two(sm2_fv *z, const sm2_fv *x,
                                                             const sm2_fv *y, const sm2_fv *u,
                                                             const sm2_fv *v, int w)
{
    int g;

    for (g = 0; g < w; g++) {
        sm2_fv_mul_two(&z[g], &x[g], &y[g], &u[g], &v[g]);
    }
}

__attribute__((noinline, unused)) static void sm2_fw_sqr(sm2_fv *z, const sm2_fv *x, int w)
{
    int g;

    for (g = 0; g < w; g++) {
        sm2_fv_sqr_one(&z[g], &x[g]);
    }
}

#endif
