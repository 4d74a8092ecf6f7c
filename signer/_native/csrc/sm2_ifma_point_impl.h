/*
 * Points of the curve, w groups of eight at once, in Jacobian coordinates
 * (x = X/Z^2, y = Y/Z^3; Z = 0 is infinity, or a sum that met a case the
 * formulas do not cover: once 0, Z stays 0).
 *
 * Between functions X, Y < 2p (weakly reduced) and Z < 4p; affine points have
 * x, y < 2p.
 */
#ifndef SM2_IFMA_POINT_IMPL_H
#define SM2_IFMA_POINT_IMPL_H

#include "sm2_ifma_pow_impl.h"

typedef struct {
    sm2_fv X[SM2_PAIR], Y[SM2_PAIR], Z[SM2_PAIR];
} sm2_jv;

typedef struct {
    sm2_fv x[SM2_PAIR], y[SM2_PAIR];
} sm2_av;

/*
 * The limb-wise sum of a[j] times small factors plus k*p, ready to be carried:
 * what a chain of additions and subtractions comes to when it is carried once.
 */
#define SM2_FV_SUM(t, j_, expr)                                                  \
    do {                                                                         \
        int j_;                                                                  \
        SM2_UNROLL                                                               \
        for (j_ = 0; j_ < 5; j_++) {                                             \
            (t)[j_] = (expr);                                                    \
        }                                                                        \
    } while (0)

SM2_INLINE sm2_v sm2_v_x2(sm2_v x)
{
    return sm2_v_add(x, x);
}

/* a := 2a. In, Out: as above. CT: yes. 3M+5S */
static void sm2_jv_double(sm2_jv *a, int w)
{
    sm2_fv delta[SM2_PAIR], gamma[SM2_PAIR], beta[SM2_PAIR], alpha[SM2_PAIR], s[SM2_PAIR];
    sm2_v t[5];
    int g;

    sm2_fw_sqr(delta, a->Z, w); /* < 2p */
    sm2_fw_sqr(gamma, a->Y, w);
    for (g = 0; g < w; g++) { /* alpha = 3(X-delta)(X+delta); Y+Z < 6p */
        SM2_FV_SUM(t, j, sm2_v_add(a->X[g].l[j], delta[g].l[j]));
        SM2_FV_SUM(t, j, sm2_v_add(t[j], sm2_v_x2(t[j])));
        sm2_fv_weak(&s[g], t);
        sm2_fv_sub(&alpha[g], &a->X[g], &delta[g]);
        SM2_FV_SUM(t, j, sm2_v_add(a->Y[g].l[j], a->Z[g].l[j]));
        sm2_fv_carry(&a->Z[g], t);
    }
    sm2_fw_mul(alpha, alpha, s, w);     /* 4p*2p */
    sm2_fw_mul(beta, a->X, gamma, w);   /* 2p*2p */
    sm2_fw_sqr(a->Z, a->Z, w);          /* 6p: < 3.25p */
    sm2_fw_sqr(s, alpha, w);
    for (g = 0; g < w; g++) {
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(a->Z[g].l[j], sm2_v_kp(4, j)),
                                   sm2_v_add(gamma[g].l[j], delta[g].l[j])));
        sm2_fv_weak(&a->Z[g], t);       /* 2YZ */
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(s[g].l[j], sm2_v_kp(16, j)),
                                   sm2_v_shl(beta[g].l[j], 3)));
        sm2_fv_weak(&a->X[g], t);       /* alpha^2 - 8 beta */
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(sm2_v_shl(beta[g].l[j], 2), sm2_v_kp(2, j)),
                                   a->X[g].l[j]));
        sm2_fv_weak(&beta[g], t);       /* 4 beta - X */
    }
    sm2_fw_sqr(gamma, gamma, w);
    sm2_fw_mul(alpha, alpha, beta, w);
    for (g = 0; g < w; g++) {
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(alpha[g].l[j], sm2_v_kp(16, j)),
                                   sm2_v_shl(gamma[g].l[j], 3)));
        sm2_fv_weak(&a->Y[g], t);
    }
}

/*
 * a := a+b, or a-b in the lanes of minus[g]. Where a = +-b or a is infinity
 * the result has Z = 0. In, Out: as above. CT: yes. 8M+3S
 */
static void sm2_jv_add_affine(sm2_jv *a, const sm2_av *b, const sm2_lanes *minus, int w)
{
    sm2_fv zz[SM2_PAIR], u[SM2_PAIR], r[SM2_PAIR], h[SM2_PAIR], v[SM2_PAIR];
    sm2_v t[5];
    int g;

    sm2_fw_sqr(zz, a->Z, w);
    sm2_fw_mul(r, a->Z, b->y, w);
    sm2_fw_mul(u, zz, b->x, w);
    sm2_fw_mul(r, r, zz, w);
    for (g = 0; g < w; g++) { /* h = x2 zz - X < 4p; r = +-y2 z^3 - Y < 4p */
        sm2_fv_sub(&h[g], &u[g], &a->X[g]);
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_select(r[g].l[j], sm2_v_sub(sm2_v_kp(2, j), r[g].l[j]),
                                                minus[g]),
                                   sm2_v_sub(a->Y[g].l[j], sm2_v_kp(2, j))));
        sm2_fv_carry(&r[g], t);
    }
    sm2_fw_mul(a->Z, a->Z, h, w); /* 4p*4p: < 2p */
    sm2_fw_sqr(zz, h, w);
    sm2_fw_mul(v, a->X, zz, w);
    sm2_fw_mul(h, h, zz, w);
    sm2_fw_sqr(u, r, w);
    for (g = 0; g < w; g++) {
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(u[g].l[j], sm2_v_kp(6, j)),
                                   sm2_v_add(h[g].l[j], sm2_v_x2(v[g].l[j]))));
        sm2_fv_weak(&a->X[g], t);
        sm2_fv_sub(&v[g], &v[g], &a->X[g]);
        SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_kp(2, j), a->Y[g].l[j]));
        sm2_fv_carry(&a->Y[g], t);
    }
    sm2_fw_mul_two(a->Y, r, v, h, a->Y, w); /* 4p*4p + 2p*2p: < 2.25p */
    for (g = 0; g < w; g++) {
        sm2_fv_weak(&a->Y[g], a->Y[g].l);
    }
}

/* As sm2_jv_add_affine, but right for a = b as well (never for a = -b). CT: yes. */
static void sm2_jv_add_affine_or_double(sm2_jv *a, const sm2_av *b, const sm2_lanes *minus, int w)
{
    sm2_jv twice = *a;
    sm2_lanes same;
    int g;

    sm2_jv_double(&twice, w);
    sm2_jv_add_affine(a, b, minus, w);
    for (g = 0; g < w; g++) {
        same = sm2_fv_is_zero(&a->Z[g]);
        sm2_fv_cmov(&a->X[g], &twice.X[g], same);
        sm2_fv_cmov(&a->Y[g], &twice.Y[g], same);
        sm2_fv_cmov(&a->Z[g], &twice.Z[g], same);
    }
    sm2_wipe(&twice, sizeof twice);
}

/*
 * b := the affine form of a, given zi = 1/Z < 2p; b may share a's memory only
 * whole. Out: x, y < 2p. CT: yes. 3M+1S
 */
SM2_INLINE void sm2_jv_to_affine(sm2_av *b, const sm2_jv *a, const sm2_fv *zi, int w)
{
    sm2_fv t[SM2_PAIR];

    sm2_fw_sqr(t, zi, w);
    sm2_fw_mul(b->x, a->X, t, w);
    sm2_fw_mul(t, t, zi, w);
    sm2_fw_mul(b->y, a->Y, t, w);
}

/*
 * table[i] := (2i+1)q over a Z of its own; ratio[i] := Z_i/Z_(i-1), Z_(-1)
 * being 1; last := the last Z < 2p. The method is that of sm2_mul_impl.h.
 * In: q < 2p. Out: x, y < 2p, ratio < 4p. CT: yes. 6M+2S (and 1M) an entry
 */
static void sm2_av_odd_multiples(sm2_av *table, sm2_fv *ratio, sm2_fv *last,
                                 const sm2_av *q, int n, int w)
{
    sm2_jv twice;
    sm2_av sum;
    sm2_fv c[SM2_PAIR], e[SM2_PAIR], w2[SM2_PAIR];
    sm2_v t[5];
    int g, i;

    memcpy(twice.X, q->x, sizeof twice.X);
    memcpy(twice.Y, q->y, sizeof twice.Y);
    sm2_fw_set1(twice.Z, sm2_ifma_one, w);
    sm2_jv_double(&twice, w); /* Z = 2y, weakly reduced */
    memcpy(ratio, twice.Z, sizeof twice.Z);
    memcpy(last, twice.Z, sizeof twice.Z);
    sm2_fw_sqr(c, twice.Z, w);
    sm2_fw_mul(sum.x, q->x, c, w); /* q itself over Z = 2y */
    sm2_fw_mul(c, c, twice.Z, w);
    sm2_fw_mul(sum.y, q->y, c, w);
    table[0] = sum;
    for (i = 1; i < n; i++) { /* sum += twice, and twice moves to the new Z as well */
        for (g = 0; g < w; g++) {
            sm2_fv_sub(&ratio[SM2_PAIR * i + g], &twice.X[g], &sum.x[g]);
            sm2_fv_sub(&e[g], &twice.Y[g], &sum.y[g]);
        }
        sm2_fw_sqr(c, ratio + SM2_PAIR * i, w);
        sm2_fw_mul(last, last, ratio + SM2_PAIR * i, w);
        sm2_fw_mul(twice.X, twice.X, c, w);
        sm2_fw_mul(w2, sum.x, c, w);
        sm2_fw_sqr(c, e, w);
        for (g = 0; g < w; g++) {
            SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(c[g].l[j], sm2_v_kp(4, j)),
                                       sm2_v_add(twice.X[g].l[j], w2[g].l[j])));
            sm2_fv_weak(&sum.x[g], t);
            sm2_fv_sub(&w2[g], &twice.X[g], &w2[g]);
            sm2_fv_sub(&c[g], &twice.X[g], &sum.x[g]);
        }
        sm2_fw_mul(twice.Y, twice.Y, w2, w);
        sm2_fw_mul(c, c, e, w);
        for (g = 0; g < w; g++) {
            SM2_FV_SUM(t, j, sm2_v_sub(sm2_v_add(c[g].l[j], sm2_v_kp(2, j)), twice.Y[g].l[j]));
            sm2_fv_weak(&sum.y[g], t);
        }
        table[i] = sum;
    }
}

/* Makes the table affine, given inv = 1/Z of its last entry. CT: yes. 4M+1S an entry */
static void sm2_av_odd_multiples_finish(sm2_av *table, const sm2_fv *ratio,
                                        const sm2_fv *inv, int n, int w)
{
    sm2_fv zi[SM2_PAIR], t[SM2_PAIR];
    int i;

    memcpy(zi, inv, sizeof zi);
    for (i = n - 1; i >= 0; i--) {
        sm2_fw_sqr(t, zi, w);
        sm2_fw_mul(table[i].x, table[i].x, t, w);
        sm2_fw_mul(t, t, zi, w);
        sm2_fw_mul(table[i].y, table[i].y, t, w);
        sm2_fw_mul(zi, zi, ratio + SM2_PAIR * i, w);
    }
}

#endif
