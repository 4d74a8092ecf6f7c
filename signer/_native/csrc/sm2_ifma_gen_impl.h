/*
 * Multiples of the base point, sixteen at once, by a comb of 37 windows of 7
 * bits: entry j of row i of the table is (2j+1)*2^(7i)*G.
 *
 * An odd k < 2^256 is a sum of d_i * 2^(7i), i < 37, where every d_i is odd,
 * |d_i| <= 127, and 0 < d_36 <= 15; an even k is replaced by n-k. The sum is
 * formed from window 36 down to window 0. The argument of sm2_comb_impl.h
 * holds with 7 for 6 (a sum without window 36 is < 2^252): only the last
 * addition, which brings in window 0, can meet two equal points, and it is
 * done by a function that allows it; none can meet opposite ones.
 *
 * The table is computed when the backend is chosen, since it follows from G.
 * It is kept twice: limb by limb, so that a lookup is a permutation of whole
 * rows that are all read; and a point a cache line, for public scalars.
 */
#ifndef SM2_IFMA_GEN_IMPL_H
#define SM2_IFMA_GEN_IMPL_H

#include "sm2_comb_impl.h"
#include "sm2_ifma_lane_impl.h"

#define SM2_IFMA_BITS 7
#define SM2_IFMA_WINDOWS 37
#define SM2_IFMA_ENTRIES 64
#define SM2_IFMA_ROWS (SM2_LANES_MAX / (8 * SM2_PAIR)) /* pairs of groups in a full call */

/* Below this many scalars, the lanes that stay empty cost more than vectors save. */
#define SM2_IFMA_GEN_MIN 2

typedef uint64_t sm2_ifma_comb[SM2_IFMA_WINDOWS][SM2_IFMA_ENTRIES][8];

static uint64_t sm2_ifma_limbs[SM2_IFMA_WINDOWS][10][SM2_IFMA_ENTRIES] SM2_ALIGNED;
static sm2_ifma_comb sm2_ifma_rows SM2_ALIGNED;

/* base[i] := 2^(7i)*q in lane i%8 of group i/8, affine. In: q on the curve. CT: no, public. */
static void sm2_ifma_comb_bases(sm2_av base[3], const sm2_point *q)
{
    sm2_jv a, at[3];
    sm2_av p;
    sm2_fv z[3 * SM2_PAIR], zi[3 * SM2_PAIR];
    int i, j;

    sm2_av_load(&p, &q, 1, 1);
    memcpy(a.X, p.x, sizeof a.X);
    memcpy(a.Y, p.y, sizeof a.Y);
    sm2_fw_set1(a.Z, sm2_ifma_one, 1);
    for (i = 0; i < 8 * 3 * SM2_PAIR; i++) {
        sm2_jv *to = &at[i / 16];
        int g = i / 8 % 2;
        sm2_lanes here = (sm2_lanes)(1 << i % 8);

        if (i % 8 == 0) { /* every lane is to hold something */
            to->X[g] = a.X[0], to->Y[g] = a.Y[0], to->Z[g] = a.Z[0];
        }
        sm2_fv_cmov(&to->X[g], &a.X[0], here);
        sm2_fv_cmov(&to->Y[g], &a.Y[0], here);
        sm2_fv_cmov(&to->Z[g], &a.Z[0], here);
        for (j = 0; j < SM2_IFMA_BITS && i < SM2_IFMA_WINDOWS - 1; j++) {
            sm2_jv_double(&a, 1);
        }
    }
    for (i = 0; i < 3; i++) {
        memcpy(z + SM2_PAIR * i, at[i].Z, sizeof at[i].Z);
    }
    sm2_fw_inv_many(zi, z, 3, SM2_PAIR);
    for (i = 0; i < 3; i++) {
        sm2_jv_to_affine(&base[i], &at[i], zi + SM2_PAIR * i, SM2_PAIR);
    }
}

/* table := the comb of q, coordinates in Montgomery form < p. In: q on the curve. CT: no, public. */
static void sm2_ifma_comb_build(sm2_ifma_comb table, const sm2_point *q)
{
    sm2_av base[3], odd[SM2_IFMA_ENTRIES];
    sm2_fv ratio[SM2_PAIR * SM2_IFMA_ENTRIES], last[SM2_PAIR], x, y;
    uint64_t *p[8];
    int i, g, j, lane, used;

    sm2_ifma_comb_bases(base, q);
    for (i = 0; i < 3; i++) {
        sm2_av_odd_multiples(odd, ratio, last, &base[i], SM2_IFMA_ENTRIES, SM2_PAIR);
        sm2_fw_inv(last, last, SM2_PAIR);
        sm2_av_odd_multiples_finish(odd, ratio, last, SM2_IFMA_ENTRIES, SM2_PAIR);
        for (g = 0; g < SM2_PAIR; g++) {
            used = SM2_IFMA_WINDOWS - 8 * (SM2_PAIR * i + g);
            for (j = 0; j < SM2_IFMA_ENTRIES && used > 0; j++) {
                for (lane = 0; lane < 8 && lane < used; lane++) {
                    p[lane] = table[8 * (SM2_PAIR * i + g) + lane][j];
                }
                sm2_fv_reduce(&x, &odd[j].x[g], sm2_ifma_p);
                sm2_fv_reduce(&y, &odd[j].y[g], sm2_ifma_p);
                sm2_fv_store_rows(p, &x, &y, used < 8 ? used : 8);
            }
        }
    }
}

/* Computes both forms of the table of G. To be run before any kernel. CT: no, public. */
static void sm2_ifma_prepare(void)
{
    static const sm2_point base = {
        {{UINT64_C(0x715A4589334C74C7), UINT64_C(0x8FE30BBFF2660BE1),
          UINT64_C(0x5F9904466A39C994), UINT64_C(0x32C4AE2C1F198119)}},
        {{UINT64_C(0x02DF32E52139F0A0), UINT64_C(0xD0A9877CC62A4740),
          UINT64_C(0x59BDCEE36B692153), UINT64_C(0xBC3736A2F4F6779C)}}};
    const uint64_t *p[8];
    sm2_fv x, y;
    int i, j, l;

    sm2_ifma_comb_build(sm2_ifma_rows, &base);
    for (i = 0; i < SM2_IFMA_WINDOWS; i++) {
        for (j = 0; j < SM2_IFMA_ENTRIES; j += 8) {
            for (l = 0; l < 8; l++) {
                p[l] = sm2_ifma_rows[i][j + l];
            }
            sm2_fv_load_rows(&x, &y, p);
            for (l = 0; l < 5; l++) {
                sm2_v_store(&sm2_ifma_limbs[i][l][j], x.l[l]);
                sm2_v_store(&sm2_ifma_limbs[i][l + 5][j], y.l[l]);
            }
        }
    }
}

/* returns word at[i] of the 64 at row, in each lane i; all are read. In: at < 64. CT: yes. */
SM2_INLINE sm2_v sm2_v_lookup64(const sm2_v row[8], sm2_v at, sm2_lanes bit4, sm2_lanes bit5)
{
    sm2_v a = sm2_v_permute2(row[0], at, row[1]), b = sm2_v_permute2(row[2], at, row[3]);
    sm2_v c = sm2_v_permute2(row[4], at, row[5]), d = sm2_v_permute2(row[6], at, row[7]);

    return sm2_v_select(sm2_v_select(a, b, bit4), sm2_v_select(c, d, bit4), bit5);
}

/* b := |d_i| * 2^(7i) * G, minus := where d_i < 0, for w groups. CT: yes. */
static void sm2_ifma_comb_point(sm2_av *b, sm2_lanes *minus, const sm2_kv *kv, int i, int w)
{
    sm2_v at[SM2_PAIR], row[8], x;
    sm2_lanes bit4[SM2_PAIR], bit5[SM2_PAIR];
    int g, j, l;

    for (g = 0; g < w; g++) {
        minus[g] = sm2_kv_digit(&at[g], kv->k[g], i, SM2_IFMA_BITS, SM2_IFMA_WINDOWS);
        bit4[g] = sm2_v_test(at[g], sm2_v_set1(16));
        bit5[g] = sm2_v_test(at[g], sm2_v_set1(32));
    }
    for (l = 0; l < 10; l++) {
        for (j = 0; j < 8; j++) {
            row[j] = sm2_v_load(&sm2_ifma_limbs[i][l][8 * j]);
        }
        for (g = 0; g < w; g++) {
            x = sm2_v_lookup64(row, at[g], bit4[g], bit5[g]);
            if (l < 5) {
                b->x[g].l[l] = x;
            } else {
                b->y[g].l[l - 5] = x;
            }
        }
    }
}

/* a := k*G for the odd scalars of kv, w groups. CT: yes. */
static void sm2_ifma_mulgen(sm2_jv *a, const sm2_kv *kv, int w)
{
    sm2_av b;
    sm2_lanes minus[SM2_PAIR];
    int i;

    sm2_ifma_comb_point(&b, minus, kv, SM2_IFMA_WINDOWS - 1, w); /* d_36 > 0 */
    memcpy(a->X, b.x, sizeof b.x);
    memcpy(a->Y, b.y, sizeof b.y);
    sm2_fw_set1(a->Z, sm2_ifma_one, w);
    for (i = SM2_IFMA_WINDOWS - 2; i > 0; i--) {
        sm2_ifma_comb_point(&b, minus, kv, i, w);
        sm2_jv_add_affine(a, &b, minus, w);
    }
    sm2_ifma_comb_point(&b, minus, kv, 0, w);
    sm2_jv_add_affine_or_double(a, &b, minus, w);
    sm2_wipe(&b, sizeof b);
    sm2_wipe(minus, sizeof minus);
}

/* How many of n lanes are in row i, a row being w groups; 0 past the last. */
SM2_INLINE size_t sm2_ifma_row(size_t n, size_t i, int w)
{
    size_t per = 8 * (size_t)w;

    return n <= per * i ? 0 : n - per * i < per ? n - per * i : per;
}

/* What is to become affine: points, and the signs they are to be given. */
typedef struct {
    sm2_jv sum[SM2_IFMA_ROWS];
    sm2_fv z[SM2_PAIR * SM2_IFMA_ROWS], inv[SM2_PAIR * SM2_IFMA_ROWS];
    sm2_lanes negate[SM2_IFMA_ROWS][SM2_PAIR];
} sm2_ifma_sums;

/* out[0..n) := the points of s, w groups a row, as integers. In: no Z is 0. CT: yes. */
static void sm2_ifma_finish(sm2_point *out, sm2_ifma_sums *s, size_t n, int w)
{
    size_t i, take;
    sm2_av b;
    int g;

    for (i = 0; sm2_ifma_row(n, i, w) > 0; i++) {
        memcpy(s->z + SM2_PAIR * i, s->sum[i].Z, sizeof s->sum[i].Z);
    }
    sm2_fw_inv_many(s->inv, s->z, i, w);
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_jv_to_affine(&b, &s->sum[i], s->inv + SM2_PAIR * i, w);
        for (g = 0; g < w; g++) {
            sm2_fv_cneg(&b.y[g], s->negate[i][g]);
        }
        sm2_av_store(out + 8 * (size_t)w * i, &b, take, w);
    }
    sm2_wipe(&b, sizeof b);
}

/* out[i] := k[i]*G for i < n. In, Out: see sm2_backend.h. CT: yes. */
static void sm2_ifma_mulgen_many(sm2_point *out, const sm2_u256 *k, size_t n)
{
    const int w = n > 8 ? SM2_PAIR : 1;
    sm2_ifma_sums s;
    sm2_kv kv;
    size_t i, take;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n < SM2_IFMA_GEN_MIN) {
        sm2_mulgen_many_impl(out, k, n);
        return;
    }
    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        sm2_kv_load(&kv, k + 8 * (size_t)w * i, take, w);
        memcpy(s.negate[i], kv.negate, sizeof kv.negate);
        sm2_ifma_mulgen(&s.sum[i], &kv, w);
    }
    sm2_ifma_finish(out, &s, n, w);
    sm2_wipe(&kv, sizeof kv);
    sm2_wipe(&s, sizeof s);
}

#endif
