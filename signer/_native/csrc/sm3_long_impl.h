/*
 * SM3 of one long message; compiled once for each kind of vector, after
 * sm3_lanes_impl.h.
 *
 * The blocks of one message follow upon each other, but their message
 * schedules do not: those of as many blocks as a vector has lanes are computed
 * together and put down, and the rounds then only add words from memory. What
 * bounds the rounds is the way from the word e of one round to that of the
 * next. e comes as the exclusive or of two halves, u (early by one step) and
 * v (early by two), and the selection that needs it first,
 *     sel(e, f, g) = g ^ (e & (f ^ g)) = (g ^ (v & (f ^ g))) ^ (u & (f ^ g)),
 * is made of the halves: six dependent instructions a round in place of seven.
 * SM3_PIN keeps the compiler from adding and xoring in another order.
 */
#ifndef SM3_LONG_IMPL_H
#define SM3_LONG_IMPL_H

#define SM3_PIN(x) __asm__("" : "+r"(x))

/* W_j and W'_j of as many blocks as there are lanes: words 64 + j are W'_j. */
typedef union {
    sm3_v v[128];
    uint32_t word[128 * SM3_V_LANES];
} sm3_long_schedule;

/* One round: ff and gg are made, fg is f ^ g, w the schedule in the block's lane. CT: yes. */
#define SM3_LONG_ROUND(a, b, c, d, e, f, g, h, j, ff, gg)                        \
    do {                                                                         \
        uint32_t a12_ = sm3_rol(a, 12), k_ = a12_ + sm3_t[j];                    \
        uint32_t hw_ = (h) + w[(j) * SM3_V_LANES];                               \
        uint32_t dx_ = (ff) + ((d) + w[(64 + (j)) * SM3_V_LANES]);               \
        uint32_t ss1_, gh_, tt2_;                                                \
        SM3_PIN(k_);                                                             \
        SM3_PIN(hw_);                                                            \
        SM3_PIN(dx_);                                                            \
        ss1_ = sm3_rol(k_ + (e), 7);                                             \
        gh_ = (gg) + hw_;                                                        \
        SM3_PIN(gh_);                                                            \
        (d) = dx_ + (ss1_ ^ a12_);                                               \
        tt2_ = gh_ + ss1_;                                                       \
        (b) = sm3_rol(b, 9);                                                     \
        (f) = sm3_rol(f, 19);                                                    \
        v = sm3_rol(tt2_, 17);                                                   \
        u = tt2_ ^ sm3_rol(tt2_, 9);                                             \
        SM3_PIN(u);                                                              \
        (h) = u ^ v;                                                             \
    } while (0)

#define SM3_LONG_EARLY(a, b, c, d, e, f, g, h, j)                                \
    do {                                                                         \
        uint32_t fg_ = (f) ^ (g);                                                \
        SM3_PIN(fg_);                                                            \
        SM3_LONG_ROUND(a, b, c, d, e, f, g, h, j, SM3_XOR3(a, b, c), (e) ^ fg_); \
    } while (0)

#define SM3_LONG_LATE(a, b, c, d, e, f, g, h, j)                                 \
    do {                                                                         \
        uint32_t fg_ = (f) ^ (g), some_, sel_;                                   \
        SM3_PIN(fg_);                                                            \
        some_ = (g) ^ (v & fg_);                                                 \
        SM3_PIN(some_);                                                          \
        sel_ = some_ ^ (u & fg_);                                                \
        SM3_PIN(sel_);                                                           \
        SM3_LONG_ROUND(a, b, c, d, e, f, g, h, j,                                \
                       ((b) & (c)) | ((a) & ((b) | (c))), sel_);                 \
    } while (0)

#define SM3_LONG_FOUR(STEP, j)                                                   \
    do {                                                                         \
        STEP(a, b, c, d, e, f, g, h, (j));                                       \
        STEP(d, a, b, c, h, e, f, g, (j) + 1);                                   \
        STEP(c, d, a, b, g, h, e, f, (j) + 2);                                   \
        STEP(b, c, d, a, f, g, h, e, (j) + 3);                                   \
    } while (0)

/* state := compress of the block whose schedule is at w, in steps of a vector. CT: yes. */
static __attribute__((noinline)) void sm3_long_rounds(uint32_t state[8], const uint32_t *w)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    uint32_t u, v;

    SM3_LONG_FOUR(SM3_LONG_EARLY, 0);
    SM3_LONG_FOUR(SM3_LONG_EARLY, 4);
    SM3_LONG_FOUR(SM3_LONG_EARLY, 8);
    SM3_LONG_FOUR(SM3_LONG_EARLY, 12);
    SM3_LONG_FOUR(SM3_LONG_LATE, 16);
    SM3_LONG_FOUR(SM3_LONG_LATE, 20);
    SM3_LONG_FOUR(SM3_LONG_LATE, 24);
    SM3_LONG_FOUR(SM3_LONG_LATE, 28);
    SM3_LONG_FOUR(SM3_LONG_LATE, 32);
    SM3_LONG_FOUR(SM3_LONG_LATE, 36);
    SM3_LONG_FOUR(SM3_LONG_LATE, 40);
    SM3_LONG_FOUR(SM3_LONG_LATE, 44);
    SM3_LONG_FOUR(SM3_LONG_LATE, 48);
    SM3_LONG_FOUR(SM3_LONG_LATE, 52);
    SM3_LONG_FOUR(SM3_LONG_LATE, 56);
    SM3_LONG_FOUR(SM3_LONG_LATE, 60);
    state[0] ^= a, state[1] ^= b, state[2] ^= c, state[3] ^= d;
    state[4] ^= e, state[5] ^= f, state[6] ^= g, state[7] ^= h;
}

/* s := the schedules of the SM3_V_LANES blocks at p. CT: yes. */
SM2_INLINE void sm3_long_expand(sm3_long_schedule *s, const uint8_t *p)
{
    const uint8_t *at[SM3_V_LANES];
    sm3_v w[16], before, x;
    int i, j;

    for (i = 0; i < SM3_V_LANES; i++) {
        at[i] = p + SM3_BLOCK_SIZE * i;
    }
    sm3_v_load(w, at);
#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        s->v[i] = w[i];
        if (i < 12) {
            s->v[64 + i] = sm3_v_xor(w[i], w[i + 4]);
        }
    }
    for (j = 16; j < 64; j += 16) {
#pragma GCC unroll 16
        for (i = 0; i < 16; i++) {
            before = w[(i + 12) & 15];
            x = sm3_v_expand(w, i);
            s->v[j + i] = x;
            s->v[64 + 12 + j - 16 + i] = sm3_v_xor(before, x);
        }
    }
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) { /* W_64 to W_67 are needed for W'_60 to W'_63 alone */
        before = w[(i + 12) & 15];
        s->v[64 + 60 + i] = sm3_v_xor(before, sm3_v_expand(w, i));
    }
    sm2_wipe(w, sizeof w);
}

/* state := compress of `blocks` blocks at p, one after the other. CT: yes. */
static void sm3_v_blocks(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    sm3_long_schedule s;
    size_t i;

    if (blocks >= SM3_V_LANES) {
        for (; blocks >= SM3_V_LANES; blocks -= SM3_V_LANES) {
            sm3_long_expand(&s, p);
            for (i = 0; i < SM3_V_LANES; i++) {
                sm3_long_rounds(state, s.word + i);
            }
            p += SM3_BLOCK_SIZE * SM3_V_LANES;
        }
        sm2_wipe(&s, sizeof s);
    }
    sm3_compress_impl(state, p, blocks);
}

#endif
