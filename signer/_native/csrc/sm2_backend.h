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
     * 1 if the sum of c[i]*q[i] is `want`, c[i] being 2^16 - 1 - 2*w[i]; 0 if
     * not, or if it cannot be said. NULL if this backend has no such kernel.
     * In: want, q[i] finite and on the curve; lanes <= SM2_LANES_MAX. CT: no,
     * public values only.
     */
    int (*combination_is_vartime)(const sm2_point *want, const uint16_t *w, const sm2_point *q,
                                  size_t lanes);

    /* out[32*i] := SM3 of the len[i] bytes at msg[i]. In: any number of lanes. CT: yes. */
    void (*sm3_many)(uint8_t *out, const uint8_t *const *msg, const size_t *len, size_t lanes);
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
