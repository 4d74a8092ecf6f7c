/*
 * The vector operations of sm2_ifma_vec_impl.h in plain C, for machines
 * without AVX-512 and for Memcheck, which has no AVX-512 either.
 *
 * No operation branches on, or indexes memory by, what is in a vector; so what
 * Memcheck says of this code it says of the backend's own logic.
 */
#ifndef SM2_SIMD_SHIM_H
#define SM2_SIMD_SHIM_H

typedef struct {
    uint64_t u[8];
} sm2_v;
typedef uint8_t sm2_lanes;

#define SM2_SHIM_EACH(expr)                                                      \
    do {                                                                         \
        sm2_v z_;                                                                \
        int i;                                                                   \
        for (i = 0; i < 8; i++) {                                                \
            z_.u[i] = (expr);                                                    \
        }                                                                        \
        return z_;                                                               \
    } while (0)

SM2_INLINE sm2_v sm2_v_set1(uint64_t x)
{
    SM2_SHIM_EACH(x);
}

SM2_INLINE sm2_v sm2_v_load(const uint64_t *p)
{
    VERIFY_CHECK((uintptr_t)p % 64 == 0);
    SM2_SHIM_EACH(p[i]);
}

SM2_INLINE sm2_v sm2_v_loadu(const uint64_t *p)
{
    SM2_SHIM_EACH(p[i]);
}

SM2_INLINE void sm2_v_store(uint64_t *p, sm2_v x)
{
    memcpy(p, x.u, sizeof x.u);
}

SM2_INLINE sm2_v sm2_v_add(sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(x.u[i] + y.u[i]);
}

SM2_INLINE sm2_v sm2_v_sub(sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(x.u[i] - y.u[i]);
}

SM2_INLINE sm2_v sm2_v_and(sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(x.u[i] & y.u[i]);
}

SM2_INLINE sm2_v sm2_v_or(sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(x.u[i] | y.u[i]);
}

SM2_INLINE sm2_v sm2_v_xor(sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(x.u[i] ^ y.u[i]);
}

SM2_INLINE sm2_v sm2_v_shl(sm2_v x, unsigned n)
{
    SM2_SHIM_EACH(n < 64 ? x.u[i] << n : 0);
}

SM2_INLINE sm2_v sm2_v_shr(sm2_v x, unsigned n)
{
    SM2_SHIM_EACH(n < 64 ? x.u[i] >> n : 0);
}

/* An arithmetic shift: the sign is put back by the exclusive or. */
SM2_INLINE sm2_v sm2_v_carry(sm2_v x)
{
    SM2_SHIM_EACH(((x.u[i] >> 52) ^ 0x800) - 0x800);
}

SM2_INLINE uint64_t sm2_shim_half(uint64_t x, uint64_t y, int high)
{
    const uint64_t mask = ((uint64_t)1 << 52) - 1;
    sm2_u128 t = (sm2_u128)(x & mask) * (y & mask);

    return (uint64_t)(t >> (high ? 52 : 0)) & mask;
}

SM2_INLINE sm2_v sm2_v_mulo(sm2_v a, sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(a.u[i] + sm2_shim_half(x.u[i], y.u[i], 0));
}

SM2_INLINE sm2_v sm2_v_muhi(sm2_v a, sm2_v x, sm2_v y)
{
    SM2_SHIM_EACH(a.u[i] + sm2_shim_half(x.u[i], y.u[i], 1));
}

SM2_INLINE uint64_t sm2_shim_pick(const sm2_v *x, uint64_t at, const sm2_v *y)
{
    uint64_t sum = 0, j;

    for (j = 0; j < 8; j++) {
        sum |= x->u[j] & sm2_mask(sm2_is_zero64((at & 15) ^ j));
        sum |= y->u[j] & sm2_mask(sm2_is_zero64((at & 15) ^ (j + 8)));
    }
    return sum;
}

SM2_INLINE sm2_v sm2_v_permute2(sm2_v x, sm2_v at, sm2_v y)
{
    SM2_SHIM_EACH(sm2_shim_pick(&x, at.u[i], &y));
}

SM2_INLINE sm2_v sm2_v_select(sm2_v x, sm2_v y, sm2_lanes m)
{
    SM2_SHIM_EACH(x.u[i] ^ (sm2_mask((uint64_t)(m >> i) & 1) & (x.u[i] ^ y.u[i])));
}

SM2_INLINE sm2_lanes sm2_v_test(sm2_v x, sm2_v y)
{
    unsigned m = 0;
    int i;

    for (i = 0; i < 8; i++) {
        m |= (unsigned)(1 ^ sm2_is_zero64(x.u[i] & y.u[i])) << i;
    }
    return (sm2_lanes)m;
}

#endif
