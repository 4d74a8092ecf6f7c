/*
 * SM3 of one long message; compiled once for each kind of vector, after
 * sm3_lanes_impl.h.
 *
 * The blocks of one message follow upon each other, but their message
 * schedules do not: those of as many blocks as a vector has lanes are computed
 * together and put down, and the rounds then only add words from memory. Those
 * of the next blocks are made a few words at a time, between the blocks before:
 * the rounds leave the vector units, and most places for instructions, free.
 * What bounds the rounds is the way from the word e of one round to that of the
 * next. e comes as the exclusive or of two halves, u (early by one step) and
 * v (early by two), and the selection that needs it first,
 *     sel(e, f, g) = g ^ (e & (f ^ g)) = (g ^ (v & (f ^ g))) ^ (u & (f ^ g)),
 * is made of the halves: six dependent instructions a round in place of seven.
 * SM3_PIN keeps the compiler from adding and xoring in another order.
 */
#ifndef SM3_LONG_IMPL_H
#define SM3_LONG_IMPL_H

#define SM3_PIN(x) __asm__("" : "+r"(x))

/* W_j of as many blocks as there are lanes, and W'_j = W_j ^ W_(j+4). */
#define SM3_LONG_WORDS 68
typedef union {
    sm3_v v[SM3_LONG_WORDS + 64];
    uint32_t word[(SM3_LONG_WORDS + 64) * SM3_V_LANES];
} sm3_long_schedule;

/* After the first block's rounds, words 16 to 67 of the next schedule are made over those of the others. */
#define SM3_LONG_SHARE ((SM3_LONG_WORDS - 16 + SM3_V_LANES - 2) / (SM3_V_LANES - 1))

/* One round: ff and gg are made, fg is f ^ g, w the schedule in the block's lane. CT: yes. */
#define SM3_LONG_ROUND(a, b, c, d, e, f, g, h, j, ff, gg)                        \
    do {                                                                         \
        uint32_t a12_ = sm3_rol(a, 12), k_ = a12_ + sm3_t[j];                    \
        uint32_t hw_ = (h) + w[(j) * SM3_V_LANES];                               \
        uint32_t dx_ = (ff) + ((d) + w[(SM3_LONG_WORDS + (j)) * SM3_V_LANES]);               \
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
SM2_INLINE void sm3_long_rounds(uint32_t state[8], const uint32_t *w)
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

/* The first sixteen words of the SM3_V_LANES blocks at p. CT: yes. */
SM2_INLINE void sm3_long_load(sm3_long_schedule *s, const uint8_t *p)
{
    const uint8_t *at[SM3_V_LANES];
    sm3_v w[16];
    int i;

    for (i = 0; i < SM3_V_LANES; i++) {
        at[i] = p + SM3_BLOCK_SIZE * i;
    }
    sm3_v_load(w, at);
#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        s->v[i] = w[i];
        if (i < 12) {
            s->v[SM3_LONG_WORDS + i] = sm3_v_xor(w[i], w[i + 4]);
        }
    }
    sm2_wipe(w, sizeof w);
}

/* Words `from` to `to` - 1 of the schedules, from the sixteen before each. In: 16 <= from. CT: yes. */
SM2_INLINE void sm3_long_expand(sm3_long_schedule *s, int from, int to)
{
    int j;

    for (j = from; j < to && j < SM3_LONG_WORDS; j++) {
        sm3_v *v = s->v + j;
        sm3_v x = sm3_v_xor3(v[-16], v[-9], sm3_v_rol(v[-3], 15));

        x = sm3_v_xor3(sm3_v_p1(x), sm3_v_rol(v[-13], 7), v[-6]);
        v[0] = x;
        v[SM3_LONG_WORDS - 4] = sm3_v_xor(v[-4], x);
    }
}

/* state := compress of `blocks` blocks at p, one after the other. CT: yes. */
static void sm3_v_blocks(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    sm3_long_schedule s[2], *now = s, *next = s + 1, *other;
    int i, more;

    if (blocks >= SM3_V_LANES) {
        sm3_long_load(now, p);
        sm3_long_expand(now, 16, SM3_LONG_WORDS);
        do {
            p += SM3_BLOCK_SIZE * SM3_V_LANES;
            blocks -= SM3_V_LANES;
            more = blocks >= SM3_V_LANES;
            for (i = 0; i < SM3_V_LANES; i++) {
                if (more && i == 0) {
                    sm3_long_load(next, p);
                } else if (more) {
                    sm3_long_expand(next, 16 + SM3_LONG_SHARE * (i - 1), 16 + SM3_LONG_SHARE * i);
                }
                sm3_long_rounds(state, now->word + i);
            }
            other = now, now = next, next = other;
        } while (more);
        sm2_wipe(s, sizeof s);
    }
    sm3_compress_impl(state, p, blocks);
}

#endif
