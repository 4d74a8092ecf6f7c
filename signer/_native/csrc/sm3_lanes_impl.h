/*
 * SM3 of many messages, one in each lane of a vector; compiled once for each
 * kind of vector, after the header that says what one is (sm3_avx512_impl.h,
 * sm3_avx2_impl.h).
 *
 * Two vectors of lanes are worked on in turn, so that one computes while the
 * other waits for its results. A lane reads its message where it lies, up to
 * the last whole block, then its tail: the bytes left over and the padding, in
 * a buffer of the lane's own. Lanes without a message follow one that has one.
 * What is done depends on the lengths of the messages, never on their contents.
 */
#ifndef SM3_LANES_IMPL_H
#define SM3_LANES_IMPL_H

#define SM3_LANES (2 * SM3_V_LANES)
#define SM3_TAIL_SIZE (2 * SM3_BLOCK_SIZE)

typedef union {
    uint32_t word[8][SM3_V_LANES];
    sm3_v v[8];
} sm3_v_state;

/* W_(j+16), as sm3_expand. CT: yes. */
SM2_INLINE sm3_v sm3_v_expand(sm3_v w[16], int j)
{
    sm3_v x = sm3_v_xor3(w[j & 15], w[(j + 7) & 15], sm3_v_rol(w[(j + 13) & 15], 15));

    x = sm3_v_xor3(sm3_v_p1(x), sm3_v_rol(w[(j + 3) & 15], 7), w[(j + 10) & 15]);
    w[j & 15] = x;
    return x;
}

/* One round in every lane, as SM3_ROUND; what needs the newest word, e, is added last. CT: yes. */
#define SM3_V_ROUND(a, b, c, d, e, f, g, h, j, ff, gg, wj, wx)                   \
    do {                                                                         \
        sm3_v a12_ = sm3_v_rol(a, 12);                                           \
        sm3_v ss1_ = sm3_v_add(sm3_v_add(a12_, sm3_v_all(t[j])), e);             \
        sm3_v tt1_ = sm3_v_add(ff, sm3_v_add(d, wx));                            \
        sm3_v tt2_ = sm3_v_add(gg, sm3_v_add(h, wj));                            \
        ss1_ = sm3_v_rol(ss1_, 7);                                               \
        tt2_ = sm3_v_add(tt2_, ss1_);                                            \
        (b) = sm3_v_rol(b, 9);                                                   \
        (d) = sm3_v_add(tt1_, sm3_v_xor(ss1_, a12_));                            \
        (f) = sm3_v_rol(f, 19);                                                  \
        (h) = sm3_v_p0(tt2_);                                                    \
    } while (0)

#define SM3_V_STEP(s, w, a, b, c, d, e, f, g, h, j, FF, GG)                      \
    do {                                                                         \
        sm3_v wj_ = w[(j) & 15];                                                 \
        sm3_v w4_ = (j) < 12 ? w[((j) + 4) & 15] : sm3_v_expand(w, (j) - 12);    \
        SM3_V_ROUND(s[a], s[b], s[c], s[d], s[e], s[f], s[g], s[h], j,           \
                    FF(s[a], s[b], s[c]), GG(s[e], s[f], s[g]), wj_,             \
                    sm3_v_xor(wj_, w4_));                                        \
    } while (0)

#define SM3_V_STEPS(a, b, c, d, e, f, g, h, j, FF, GG)                           \
    do {                                                                         \
        SM3_V_STEP(x0, w0, a, b, c, d, e, f, g, h, j, FF, GG);                   \
        if (two) {                                                               \
            SM3_V_STEP(x1, w1, a, b, c, d, e, f, g, h, j, FF, GG);               \
        }                                                                        \
    } while (0)

#define SM3_V_FOUR(j, FF, GG)                                                    \
    do {                                                                         \
        SM3_V_STEPS(0, 1, 2, 3, 4, 5, 6, 7, (j), FF, GG);                        \
        SM3_V_STEPS(3, 0, 1, 2, 7, 4, 5, 6, (j) + 1, FF, GG);                    \
        SM3_V_STEPS(2, 3, 0, 1, 6, 7, 4, 5, (j) + 2, FF, GG);                    \
        SM3_V_STEPS(1, 2, 3, 0, 5, 6, 7, 4, (j) + 3, FF, GG);                    \
    } while (0)

/*
 * state[0], and state[1] if there are two, := compress of `blocks` blocks from
 * p[i] on in lane i; every p[i] steps over them. CT: yes.
 */
SM2_INLINE void sm3_v_compress(sm3_v_state *state, const uint8_t **p, size_t blocks, int two)
{
    const uint32_t *t = sm3_t;
    sm3_v w0[16], w1[16], x0[8], x1[8];
    int i;

    __asm__("" : "+r"(t)); /* constants are to be taken from memory, spread over the lanes */
    while (blocks-- > 0) {
        sm3_v_load(w0, p);
        if (two) {
            sm3_v_load(w1, p + SM3_V_LANES);
        }
#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            x0[i] = state[0].v[i];
            x1[i] = state[two].v[i];
        }
        SM3_V_FOUR(0, sm3_v_xor3, sm3_v_xor3);
        SM3_V_FOUR(4, sm3_v_xor3, sm3_v_xor3);
        SM3_V_FOUR(8, sm3_v_xor3, sm3_v_xor3);
        SM3_V_FOUR(12, sm3_v_xor3, sm3_v_xor3);
        for (i = 16; i < 64; i += 16) {
            SM3_V_FOUR(i, sm3_v_maj, sm3_v_sel);
            SM3_V_FOUR(i + 4, sm3_v_maj, sm3_v_sel);
            SM3_V_FOUR(i + 8, sm3_v_maj, sm3_v_sel);
            SM3_V_FOUR(i + 12, sm3_v_maj, sm3_v_sel);
        }
#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            state[0].v[i] = sm3_v_xor(state[0].v[i], x0[i]);
            if (two) {
                state[1].v[i] = sm3_v_xor(state[1].v[i], x1[i]);
            }
        }
    }
    sm2_wipe(w0, sizeof w0);
    if (two) {
        sm2_wipe(w1, sizeof w1);
    }
}

/* As sm3_v_compress, on one vector of lanes. CT: yes. */
static __attribute__((noinline)) void sm3_v_compress_one(sm3_v_state *state, const uint8_t **p,
                                                         size_t blocks)
{
    sm3_v_compress(state, p, blocks, 0);
}

/* As sm3_v_compress, on two vectors of lanes. CT: yes. */
static __attribute__((noinline)) void sm3_v_compress_two(sm3_v_state *state, const uint8_t **p,
                                                         size_t blocks)
{
    sm3_v_compress(state, p, blocks, 1);
}

#define SM3_V_SAME_STEP(a, b, c, d, e, f, g, h, j, FF, GG)                       \
    do {                                                                         \
        SM3_V_ROUND(x0[a], x0[b], x0[c], x0[d], x0[e], x0[f], x0[g], x0[h], j,   \
                    FF(x0[a], x0[b], x0[c]), GG(x0[e], x0[f], x0[g]),            \
                    sm3_v_all(w[j]), sm3_v_all(w[64 + (j)]));                     \
        SM3_V_ROUND(x1[a], x1[b], x1[c], x1[d], x1[e], x1[f], x1[g], x1[h], j,   \
                    FF(x1[a], x1[b], x1[c]), GG(x1[e], x1[f], x1[g]),            \
                    sm3_v_all(w[j]), sm3_v_all(w[64 + (j)]));                     \
    } while (0)

#define SM3_V_SAME_FOUR(j, FF, GG)                                               \
    do {                                                                         \
        SM3_V_SAME_STEP(0, 1, 2, 3, 4, 5, 6, 7, (j), FF, GG);                    \
        SM3_V_SAME_STEP(3, 0, 1, 2, 7, 4, 5, 6, (j) + 1, FF, GG);                \
        SM3_V_SAME_STEP(2, 3, 0, 1, 6, 7, 4, 5, (j) + 2, FF, GG);                \
        SM3_V_SAME_STEP(1, 2, 3, 0, 5, 6, 7, 4, (j) + 3, FF, GG);                \
    } while (0)

/*
 * Both vectors of states := compress of one block, the same in every lane,
 * whose words are w: W_0..W_63, W'_0..W'_63. CT: yes (in the states).
 */
static __attribute__((noinline)) void sm3_v_compress_same(sm3_v_state *state,
                                                          const uint32_t w[128])
{
    const uint32_t *t = sm3_t;
    sm3_v x0[8], x1[8];
    int i;

    __asm__("" : "+r"(t));
#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        x0[i] = state[0].v[i];
        x1[i] = state[1].v[i];
    }
    for (i = 0; i < 16; i += 4) {
        SM3_V_SAME_FOUR(i, sm3_v_xor3, sm3_v_xor3);
    }
    for (; i < 64; i += 4) {
        SM3_V_SAME_FOUR(i, sm3_v_maj, sm3_v_sel);
    }
#pragma GCC unroll 8
    for (i = 0; i < 8; i++) {
        state[0].v[i] = sm3_v_xor(state[0].v[i], x0[i]);
        state[1].v[i] = sm3_v_xor(state[1].v[i], x1[i]);
    }
}

/* A lane at work: where it reads, how many blocks are left there, and whose message it is. */
typedef struct {
    size_t left[SM3_LANES], index[SM3_LANES];
    const uint8_t *p[SM3_LANES];
    uint8_t in_tail[SM3_LANES];
    uint8_t tail_blocks[SM3_LANES];
    uint8_t tail[SM3_LANES][SM3_TAIL_SIZE];
    sm3_v_state state[2];
    uint8_t digest[SM3_LANES][SM3_DIGEST_SIZE];
    size_t padded;        /* the length, of whole blocks, that `padding` belongs to */
    uint32_t padding[128]; /* the words W and W' of the block of padding after that many bytes */
} sm3_v_work;

/* How many blocks the tail of a message takes. CT: no (lengths are public). */
SM2_INLINE size_t sm3_v_tail_blocks(size_t n)
{
    return n % SM3_BLOCK_SIZE < SM3_BLOCK_SIZE - 8 ? 1 : 2;
}

/* work->tail[lane] := the tail of the n bytes at msg. CT: yes (in the contents). */
SM2_INLINE void sm3_v_set_tail(sm3_v_work *work, size_t lane, const uint8_t *msg, size_t n)
{
    size_t rest = n % SM3_BLOCK_SIZE;

    sm3_v_tail(work->tail[lane], rest > 0 ? msg + (n - rest) : msg, rest, n);
}

/*
 * Closes messages of n bytes each, n a multiple of 64: what is left then is a
 * block of padding without a byte of theirs, and its words are needed once. CT: yes.
 */
static void sm3_v_pad(sm3_v_work *work, size_t n)
{
    uint32_t *w = work->padding;
    uint64_t bits = (uint64_t)n << 3;
    int j;

    if (work->padded != n) {
        work->padded = n;
        memset(w, 0, 14 * sizeof w[0]);
        w[0] = 0x80000000;
        w[14] = (uint32_t)(bits >> 32);
        w[15] = (uint32_t)bits;
        for (j = 16; j < 68; j++) { /* the last four are overwritten when they have served */
            w[j] = sm3_p1(w[j - 16] ^ w[j - 9] ^ sm3_rol(w[j - 3], 15)) ^
                   sm3_rol(w[j - 13], 7) ^ w[j - 6];
        }
        for (j = 63; j >= 0; j--) {
            w[64 + j] = w[j] ^ w[j + 4];
        }
    }
    sm3_v_compress_same(work->state, w);
}

/* work->digest := the hash in every lane. CT: yes. */
static void sm3_v_get_digests(sm3_v_work *work)
{
    sm3_v_digests(work->digest[0], work->state[0].v, work->state[1].v);
}

/* Every lane := the initial value. CT: yes. */
static void sm3_v_init(sm3_v_state *state)
{
    static const uint32_t iv[8] = SM3_IV;
    int i;

    for (i = 0; i < 8; i++) {
        state[0].v[i] = state[1].v[i] = sm3_v_all(iv[i]);
    }
}

/*
 * The hashes of n messages, all of as many blocks and tail blocks as the first.
 * In: 1 <= n <= SM3_LANES. CT: yes (in the contents).
 */
static void sm3_v_even(sm3_v_work *work, uint8_t *out, const uint8_t *const *msg,
                       const size_t *len, size_t n)
{
    void (*compress)(sm3_v_state *, const uint8_t **, size_t) =
        n > SM3_V_LANES ? sm3_v_compress_two : sm3_v_compress_one;
    size_t lane, any = 0;

    sm3_v_init(work->state);
    for (lane = 0; lane < n; lane++) {
        work->p[lane] = msg[lane];
        any |= len[lane] % SM3_BLOCK_SIZE;
    }
    for (; lane < SM3_LANES; lane++) {
        work->p[lane] = msg[0];
    }
    if (len[0] >= SM3_BLOCK_SIZE) {
        compress(work->state, work->p, len[0] / SM3_BLOCK_SIZE);
    }
    if (any == 0 && n > SM3_V_LANES) {
        sm3_v_pad(work, len[0]);
    } else {
        for (lane = 0; lane < SM3_LANES; lane++) {
            work->p[lane] = work->tail[lane < n ? lane : 0];
            if (lane < n) {
                sm3_v_set_tail(work, lane, msg[lane], len[lane]);
            }
        }
        compress(work->state, work->p, sm3_v_tail_blocks(len[0]));
    }
    if (n == SM3_LANES) {
        sm3_v_digests(out, work->state[0].v, work->state[1].v);
    } else {
        sm3_v_get_digests(work);
        memcpy(out, work->digest, SM3_DIGEST_SIZE * n);
    }
}

/* 1 if sm3_v_even can take n messages at once. CT: no (lengths are public). */
SM2_INLINE int sm3_v_are_even(const size_t *len, size_t n)
{
    size_t i, differ = 0;

    for (i = 1; i < n; i++) { /* the length of the padded message in blocks, and its whole blocks */
        differ |= ((len[i] + 8) ^ (len[0] + 8)) | (len[i] ^ len[0]);
    }
    return differ < SM3_BLOCK_SIZE;
}

/* The lane starts on message `index`. CT: yes (in the contents). */
static void sm3_v_take(sm3_v_work *work, size_t lane, size_t index, const uint8_t *msg, size_t n)
{
    static const uint32_t iv[8] = SM3_IV;
    int i;

    sm3_v_set_tail(work, lane, msg, n);
    work->index[lane] = index;
    work->tail_blocks[lane] = (uint8_t)sm3_v_tail_blocks(n);
    work->in_tail[lane] = n < SM3_BLOCK_SIZE;
    work->p[lane] = n < SM3_BLOCK_SIZE ? work->tail[lane] : msg;
    work->left[lane] = n < SM3_BLOCK_SIZE ? work->tail_blocks[lane] : n / SM3_BLOCK_SIZE;
    for (i = 0; i < 8; i++) {
        work->state[lane / SM3_V_LANES].word[i][lane % SM3_V_LANES] = iv[i];
    }
}

/* Lane `to` goes on with what lane `from` was at. CT: yes. */
static void sm3_v_move(sm3_v_work *work, size_t to, size_t from)
{
    int i;

    work->index[to] = work->index[from];
    work->left[to] = work->left[from];
    work->in_tail[to] = work->in_tail[from];
    work->tail_blocks[to] = work->tail_blocks[from];
    work->p[to] = work->in_tail[from] ? work->tail[to] + (work->p[from] - work->tail[from])
                                      : work->p[from];
    memcpy(work->tail[to], work->tail[from], SM3_TAIL_SIZE);
    for (i = 0; i < 8; i++) {
        work->state[to / SM3_V_LANES].word[i][to % SM3_V_LANES] =
            work->state[from / SM3_V_LANES].word[i][from % SM3_V_LANES];
    }
}

/* The last message at work, in lane 0, to its end, alone. CT: yes (in the contents). */
static void sm3_v_finish_alone(sm3_v_work *work, uint8_t *out)
{
    uint32_t state[8];
    int i;

    for (i = 0; i < 8; i++) {
        state[i] = work->state[0].word[i][0];
    }
    sm3_compress_impl(state, work->p[0], work->left[0]);
    if (!work->in_tail[0]) {
        sm3_compress_impl(state, work->tail[0], work->tail_blocks[0]);
    }
    sm3_store_state(out + SM3_DIGEST_SIZE * work->index[0], state);
    sm2_wipe(state, sizeof state);
}

/*
 * The hashes of n messages of any lengths. The lanes in use are always the
 * first ones: a lane that is done takes the next message, or the place of the
 * last lane. CT: yes (in the contents).
 */
static void sm3_v_uneven(sm3_v_work *work, uint8_t *out, const uint8_t *const *msg,
                         const size_t *len, size_t n)
{
    size_t used = n < SM3_LANES ? n : SM3_LANES, next = used, lane, step;
    int extracted;

    for (lane = 0; lane < used; lane++) {
        sm3_v_take(work, lane, lane, msg[lane], len[lane]);
    }
    while (used > 1) {
        for (step = work->left[0], lane = 1; lane < used; lane++) {
            step = work->left[lane] < step ? work->left[lane] : step;
        }
        for (lane = used; lane < SM3_LANES; lane++) {
            work->p[lane] = work->p[0];
        }
        (used > SM3_V_LANES ? sm3_v_compress_two : sm3_v_compress_one)(work->state, work->p, step);
        extracted = 0;
        for (lane = used; lane-- > 0;) {
            work->left[lane] -= step;
            if (work->left[lane] > 0) {
                continue;
            }
            if (!work->in_tail[lane]) {
                work->in_tail[lane] = 1;
                work->p[lane] = work->tail[lane];
                work->left[lane] = work->tail_blocks[lane];
                continue;
            }
            if (!extracted) {
                sm3_v_get_digests(work);
                extracted = 1;
            }
            memcpy(out + SM3_DIGEST_SIZE * work->index[lane], work->digest[lane],
                   SM3_DIGEST_SIZE);
            if (next < n) {
                sm3_v_take(work, lane, next, msg[next], len[next]);
                next++;
            } else if (lane != --used) {
                sm3_v_move(work, lane, used);
            }
        }
    }
    if (used == 1) {
        sm3_v_finish_alone(work, out);
    }
}

/* out[32*i] := SM3 of the len[i] bytes at msg[i]. CT: yes (in the contents). */
static void sm3_v_many(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t n)
{
    sm3_v_work work;
    size_t i, take;

    work.padded = 1; /* no multiple of 64 */
    for (i = 0; i < n; i += take) {
        take = n - i < SM3_LANES ? n - i : SM3_LANES;
        if (take == 1) {
            sm3_hash_impl(out + SM3_DIGEST_SIZE * i, msg[i], len[i]);
            break;
        }
        if (!sm3_v_are_even(len + i, take)) {
            sm3_v_uneven(&work, out + SM3_DIGEST_SIZE * i, msg + i, len + i, n - i);
            break;
        }
        sm3_v_even(&work, out + SM3_DIGEST_SIZE * i, msg + i, len + i, take);
    }
    if (n > 1) {
        sm2_wipe(work.state, sizeof work.state);
        sm2_wipe(work.tail, (n < SM3_LANES ? n : SM3_LANES) * SM3_TAIL_SIZE);
    }
}

#endif
