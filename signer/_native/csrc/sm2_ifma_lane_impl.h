/*
 * Between the lanes of vectors and the integers of the backend line: points
 * and scalars in and out, and the digits of scalars.
 *
 * A group of fewer than eight is filled up with copies of its first lane.
 */
#ifndef SM2_IFMA_LANE_IMPL_H
#define SM2_IFMA_LANE_IMPL_H

#include "sm2_backend.h"
#include "sm2_ifma_point_impl.h"

static const uint64_t sm2_ifma_turn[6][8] SM2_ALIGNED = {
    {0, 8, 2, 10, 4, 12, 6, 14}, {1, 9, 3, 11, 5, 13, 7, 15},
    {0, 1, 8, 9, 4, 5, 12, 13},  {2, 3, 10, 11, 6, 7, 14, 15},
    {0, 1, 2, 3, 8, 9, 10, 11},  {4, 5, 6, 7, 12, 13, 14, 15}};

/* Word j of r[i] and word i of r[j] change places, for all i, j < 8. CT: yes. */
SM2_INLINE void sm2_v_transpose(sm2_v r[8])
{
    sm2_v t;
    int step, n, i, s = 1;

    for (step = 0; step < 3; step++, s *= 2) {
        const sm2_v lo = sm2_v_load(sm2_ifma_turn[2 * step]);
        const sm2_v hi = sm2_v_load(sm2_ifma_turn[2 * step + 1]);

        for (n = 0; n < 4; n++) {
            i = (n & -s) << 1 | (n & (s - 1)); /* the rows without bit s */
            t = sm2_v_permute2(r[i], lo, r[i + s]);
            r[i + s] = sm2_v_permute2(r[i], hi, r[i + s]);
            r[i] = t;
        }
    }
}

/* (x, y) := the integers of the eight points at p[0..7], unpacked only. CT: yes. */
SM2_INLINE void sm2_fv_load_rows(sm2_fv *x, sm2_fv *y, const uint64_t *const p[8])
{
    sm2_v r[8];
    int i;

    for (i = 0; i < 8; i++) {
        r[i] = sm2_v_loadu(p[i]);
    }
    sm2_v_transpose(r);
    sm2_fv_unpack(x, r);
    sm2_fv_unpack(y, r + 4);
}

/* p[i], eight words, := point i of (x, y) for i < n <= 8. In: x, y < 2^256. CT: yes. */
SM2_INLINE void sm2_fv_store_rows(uint64_t *const p[8], const sm2_fv *x, const sm2_fv *y, int n)
{
    sm2_v r[8];
    int i;

    sm2_fv_pack(r, x);
    sm2_fv_pack(r + 4, y);
    sm2_v_transpose(r);
    for (i = 0; i < n; i++) {
        sm2_v_store(p[i], r[i]);
    }
}

/* a := q[0..n) in Montgomery form, w groups. In: 1 <= n <= 8w. Out: x, y < 2p. CT: yes. */
static void sm2_av_load(sm2_av *a, const sm2_point *const *q, size_t n, int w)
{
    const uint64_t *p[8];
    sm2_fv rr[SM2_PAIR];
    size_t i;
    int g;

    for (g = 0; g < w; g++) {
        for (i = 0; i < 8; i++) {
            p[i] = q[8 * (size_t)g + i < n ? 8 * (size_t)g + i : 0]->x.v;
        }
        sm2_fv_load_rows(&a->x[g], &a->y[g], p);
    }
    sm2_fw_set1(rr, sm2_ifma_rr, w);
    sm2_fw_mul(a->x, a->x, rr, w);
    sm2_fw_mul(a->y, a->y, rr, w);
}

/* out[0..n) := a, as integers < p. In: 1 <= n <= 8w; a < 16p. CT: yes. */
static void sm2_av_store(sm2_point *out, const sm2_av *a, size_t n, int w)
{
    sm2_point spare[8];
    uint64_t *p[8];
    sm2_fv x, y;
    size_t i;
    int g;

    for (g = 0; g < w; g++) {
        for (i = 0; i < 8; i++) {
            p[i] = (8 * (size_t)g + i < n ? &out[8 * (size_t)g + i] : &spare[i])->x.v;
        }
        sm2_fv_from_mont(&x, &a->x[g]);
        sm2_fv_from_mont(&y, &a->y[g]);
        sm2_fv_store_rows(p, &x, &y, 8);
    }
    sm2_wipe(spare, sizeof spare);
}

/* The words of 8w odd scalars, and the lanes in which n-k stands for k. */
typedef struct {
    sm2_v k[SM2_PAIR][4];
    sm2_lanes negate[SM2_PAIR];
} sm2_kv;

/* kv := k[0..n), each made odd. In: 0 < k[i] < n (the order); 1 <= n <= 8w. CT: yes. */
static void sm2_kv_load(sm2_kv *kv, const sm2_u256 *k, size_t n, int w)
{
    uint64_t words[4][8] SM2_ALIGNED;
    sm2_u256 odd;
    size_t i, at;
    unsigned negate;
    int g, j;

    for (g = 0; g < w; g++) {
        for (negate = 0, i = 0; i < 8; i++) {
            at = 8 * (size_t)g + i < n ? 8 * (size_t)g + i : 0;
            VERIFY_CHECK(sm2_fn_is_valid(&k[at]));
            negate |= (unsigned)sm2_make_odd(&odd, &k[at]) << i;
            for (j = 0; j < 4; j++) {
                words[j][i] = odd.v[j];
            }
        }
        kv->negate[g] = (sm2_lanes)negate;
        for (j = 0; j < 4; j++) {
            kv->k[g][j] = sm2_v_load(words[j]);
        }
    }
    sm2_wipe(words, sizeof words);
    sm2_wipe(&odd, sizeof odd);
}

/*
 * The odd digit of window i of eight odd k: *index := (|d|-1)/2 in each lane;
 * returns the lanes in which d < 0. `bits` a window, `windows` in all. CT: yes.
 */
SM2_INLINE sm2_lanes sm2_kv_digit(sm2_v *index, const sm2_v k[4], int i, int bits, int windows)
{
    int at = i * bits, limb = at / 64, shift = at % 64;
    const sm2_v mask = sm2_v_set1((UINT64_C(1) << bits) - 1);
    const sm2_v sign = sm2_v_set1(UINT64_C(1) << bits), one = sm2_v_set1(1);
    sm2_v v = sm2_v_shr(k[limb], (unsigned)shift);
    sm2_lanes plus;

    if (shift > 63 - bits && limb < 3) {
        v = sm2_v_or(v, sm2_v_shl(k[limb + 1], (unsigned)(64 - shift)));
    }
    v = sm2_v_or(v, i == windows - 1 ? sm2_v_or(one, sign) : one);
    plus = sm2_v_test(v, sign);
    v = sm2_v_select(sm2_v_xor(v, mask), v, plus);
    *index = sm2_v_shr(sm2_v_and(v, mask), 1);
    return (sm2_lanes)~plus;
}

#endif
