/*
 * The line between what the service needs (front end) and who computes it
 * (backend).
 *
 * A backend is one table of kernels over many lanes. Front-end code owns every
 * rule of the standards: ranges, retries, encodings, nonces. A kernel owns
 * arithmetic only, so a new backend can be wrong, but cannot forget a check.
 * Integers cross this line as ordinary 256-bit integers, never in a backend's
 * own representation.
 */
#ifndef SM2_BACKEND_H
#define SM2_BACKEND_H

#include "sm2_common.h"

/* Most lanes a kernel is handed at once. */
#define SM2_LANES_MAX 128

/* Most fresh keys that are inverted and tested together. */
#define SM2_KEYS_MAX 1024

/*
 * How a random coefficient of the test of fresh pairs is made: a term +-2^((m+1)k + p)
 * for each window k < windows, p < positions = m. There are (2m)^windows >= 2^32
 * of them, all different: the lowest bit says what p is in the lowest window, and
 * the bit above it, which belongs to no other term, the sign. Few keys have few positions, for every
 * position of every window costs a doubling and an addition.
 *
 * Key 16r + 2l + h is in combination l with coefficient 0 of row 2r + h, and
 * in combination 8 + l with coefficient 1. Term k of coefficient c of row i is
 * made of word windows*(2i + c) + k: minus if it is odd, p = (word/2)*m >> 15.
 */
typedef struct {
    uint16_t windows, positions;
} sm2_pairs_shape;

#define SM2_PAIRS_POSITIONS 21 /* most of them; windows*(positions + 1) < 255 */

SM2_INLINE const sm2_pairs_shape *sm2_pairs_shape_of(size_t n)
{
    static const sm2_pairs_shape shape[4] = {{16, 2}, {11, 4}, {8, 8}, {6, 21}};

    return &shape[(n >= 48) + (n >= 112) + (n >= 448)];
}

/* The random 16-bit words that n keys take, n a multiple of 16: one for each term. */
SM2_INLINE size_t sm2_pairs_words(size_t n)
{
    return n / 8 * 2 * sm2_pairs_shape_of(n)->windows;
}

/* The most that sm2_pairs_words() can say. */
#define SM2_PAIRS_WORDS_MAX (SM2_KEYS_MAX / 8 * 2 * 8)

/* An affine point, coordinates as ordinary integers < p. Infinity has no such form. */
typedef struct {
    sm2_u256 x, y;
} sm2_point;

typedef struct {
    const char *name;

    /* 1 if this machine can run it. CT: not applicable. */
    int (*is_supported)(void);

    /*
     * Computes what the kernels need and does not follow at compile time, or
     * NULL. Run by sm2_backend_choose() before a backend is handed out; running
     * it again changes nothing. CT: not applicable.
     */
    void (*prepare)(void);

    /* out[i] := k[i]*G. In: 0 < k[i] < n, lanes <= SM2_LANES_MAX. CT: yes. */
    void (*mulgen_many)(sm2_point *out, const sm2_u256 *k, size_t lanes);

    /*
     * out[i] := k[i]*q[i]. In: 0 < k[i] < n; q[i] finite and on the curve;
     * lanes <= SM2_LANES_MAX. CT: yes (in k and q).
     */
    void (*mul_many)(sm2_point *out, const sm2_u256 *k, const sm2_point *const *q, size_t lanes);

    /*
     * x[i] := x-coordinate of s[i]*G + t[i]*q[i] and finite[i] := 1, or
     * finite[i] := 0 (and x[i] := 0) where that is the point at infinity.
     * In: 0 < s[i],t[i] < n; q[i] finite and on the curve; lanes <=
     * SM2_LANES_MAX. CT: no, public values only.
     */
    void (*mul2_many_vartime)(sm2_u256 *x, uint8_t *finite, const sm2_u256 *s,
                              const sm2_u256 *t, const sm2_point *const *q, size_t lanes);

    /*
     * Keys prepared for mul2_prepared_many_vartime: bytes of the table of one
     * key, a multiple of 64; 0 (and the two functions NULL) if this backend has
     * no such kernel.
     */
    size_t key_table_size;

    /* The key_table_size bytes at table, a multiple of 64, := the table of q. In: as below. CT: no. */
    void (*key_table_build)(void *table, const sm2_point *q);

    /* As mul2_many_vartime; table[i] is the table of q[i]. CT: no, public values only. */
    void (*mul2_prepared_many_vartime)(sm2_u256 *x, uint8_t *finite, const sm2_u256 *s,
                                       const sm2_u256 *t, const sm2_point *const *q,
                                       const void *const *table, size_t lanes);

    /*
     * x[i] := 2^256/x[i] mod n; and 1 if each inv[i] is that of x[i], else 0.
     * In: 0 < x[i] < n, inv[i] < n; lanes a multiple of 16 and <= SM2_KEYS_MAX.
     * NULL, both, if this backend has no such kernels. CT: yes.
     */
    void (*order_invert_many)(sm2_u256 *x, size_t lanes);
    int (*order_inverses_are)(const sm2_u256 *inv, const sm2_u256 *x, size_t lanes);

    /*
     * t[i] := combination i of the integers d mod n, i < 16, and 1 if those of
     * the points q are want[0..15] (0 if not, or if it cannot be said). A
     * combination has the coefficients that follow from w (as many words as
     * sm2_pairs_words says) and is of an eighth of the keys; each key is in two.
     * In: d[i] < n, q[i] and want[i] finite and on the curve; lanes a multiple
     * of 16 and <= SM2_KEYS_MAX. NULL, both, if this backend has no such
     * kernels. CT: yes in d; no in q and want, public values only.
     */
    void (*combine)(sm2_u256 *t, const uint16_t *w, const sm2_u256 *d, size_t lanes);
    int (*combinations_are_vartime)(const sm2_point *want, const uint16_t *w,
                                    const sm2_point *const *q, size_t lanes);

    /* out[32*i] := SM3 of the len[i] bytes at msg[i]. In: any number of lanes. CT: yes. */
    void (*sm3_many)(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes);

    /* state := SM3 compress of `blocks` blocks at p, one after the other; for long messages. CT: yes. */
    void (*sm3_blocks)(uint32_t state[8], const uint8_t *p, size_t blocks);
} sm2_backend;

/* Every backend of this build, best first, ended by NULL; the last one always runs. */
extern const sm2_backend *const sm2_backends[];

/* Why a backend could not be had. */
#define SM2_BACKEND_OK 0
#define SM2_BACKEND_UNKNOWN 1
#define SM2_BACKEND_UNSUPPORTED 2

/*
 * *chosen := the backend called `name`, or the best this machine can run if
 * name is NULL or empty. Returns SM2_BACKEND_OK or why there is none.
 */
int sm2_backend_choose(const sm2_backend **chosen, const char *name);

#endif
