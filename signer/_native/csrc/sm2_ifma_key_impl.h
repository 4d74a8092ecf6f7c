/*
 * s*G + t*q where q has a comb of its own, made before: 74 additions and no
 * doubling. What is said in sm2_ifma_mul_impl.h of lanes with Z = 0 holds.
 */
#ifndef SM2_IFMA_KEY_IMPL_H
#define SM2_IFMA_KEY_IMPL_H

#include "sm2_ifma_mul_impl.h"

/* table := the comb of q. In, Out: see sm2_backend.h. CT: no, public values only. */
static void sm2_ifma_key_table_build(void *table, const sm2_point *q)
{
    sm2_ifma_comb_build(table, q);
}

/* As sm2_ifma_mul2_prepared_many_vartime, with finite[i] = 0 for lanes to be looked at again as well. */
__attribute__((noinline)) static void sm2_ifma_prepared_try_vartime(sm2_u256 *x, uint8_t *finite,
                                                                    const sm2_u256 *s,
                                                                    const sm2_u256 *t,
                                                                    const void *const *table,
                                                                    size_t n)
{
    const int w = n > 8 ? SM2_PAIR : 1;
    const size_t per = 8 * (size_t)w;
    sm2_ifma_rows_at comb[8 * SM2_PAIR];
    sm2_ifma_sums sums;
    sm2_jv *a;
    sm2_lanes minus[SM2_PAIR];
    sm2_av b;
    sm2_kv kv;
    size_t i, j, take;
    int g;

    for (i = 0; (take = sm2_ifma_row(n, i, w)) > 0; i++) {
        a = &sums.sum[i];
        for (j = 0; j < per; j++) {
            comb[j] = (sm2_ifma_rows_at)table[per * i + (j < take ? j : 0)];
        }
        sm2_kv_load(&kv, t + per * i, take, w);
        sm2_ifma_comb_point_vartime(&b, minus, &kv, comb, SM2_IFMA_WINDOWS - 1, w);
        for (g = 0; g < w; g++) {
            a->X[g] = b.x[g];
            a->Y[g] = b.y[g];
            sm2_fv_cneg(&a->Y[g], minus[g]);
        }
        sm2_fw_set1(a->Z, sm2_ifma_one, w);
        sm2_ifma_add_comb_vartime(a, &kv, comb, SM2_IFMA_WINDOWS - 2, w);
        for (j = 0; j < per; j++) {
            comb[j] = (sm2_ifma_rows_at)sm2_ifma_rows;
        }
        sm2_kv_load(&kv, s + per * i, take, w);
        sm2_ifma_add_comb_vartime(a, &kv, comb, SM2_IFMA_WINDOWS - 1, w);
    }
    sm2_ifma_finish_x_vartime(x, finite, &sums, n, w);
}

/* x[i] := x of s[i]*G + t[i]*q[i] for i < n. In, Out: see sm2_backend.h. CT: no, public values only. */
static void sm2_ifma_mul2_prepared_many_vartime(sm2_u256 *x, uint8_t *finite, const sm2_u256 *s,
                                                const sm2_u256 *t, const sm2_point *const *q,
                                                const void *const *table, size_t n)
{
    size_t i;

    VERIFY_CHECK(n <= SM2_LANES_MAX);
    if (n == 0) {
        return;
    }
    sm2_ifma_prepared_try_vartime(x, finite, s, t, table, n);
    for (i = 0; i < n; i++) {
        if (!finite[i]) {
            sm2_mul2_many_vartime_impl(x + i, finite + i, s + i, t + i, q + i, 1);
        }
    }
}

#endif
