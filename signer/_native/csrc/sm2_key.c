/* Keys: import, export, generation, and the hash Z that binds a key to its holder. */
#include "sm2_internal.h"

#define Z_ID_SHORT 64 /* bytes of an identifier for which Z is computed in lanes */
#define Z_STRIP 64    /* keys at once */

const sm2_backend *sm2_active_backend;

static const sm2_point sm2_minus_g = {
    {{UINT64_C(0x715A4589334C74C7), UINT64_C(0x8FE30BBFF2660BE1), UINT64_C(0x5F9904466A39C994),
      UINT64_C(0x32C4AE2C1F198119)}},
    {{UINT64_C(0xFD20CD1ADEC60F5F), UINT64_C(0x2F56788239D5B8C0), UINT64_C(0xA642311C9496DEAC),
      UINT64_C(0x43C8C95C0B098863)}},
};

/* Makes every operation of the front end use `backend`. */
void sm2_use_backend(const sm2_backend *backend)
{
    sm2_active_backend = backend;
    sm3_use(backend->sm3_blocks);
}

/* 1 if (x, y) are < p and on the curve, else 0. CT: yes. */
uint64_t sm2_point_is_valid(const sm2_point *q)
{
    sm2_affine a;
    uint64_t in_range = sm2_u256_less(&q->x, &sm2_p) & sm2_u256_less(&q->y, &sm2_p);

    sm2_u256_reduce_once(&a.x, &q->x, &sm2_p);
    sm2_u256_reduce_once(&a.y, &q->y, &sm2_p);
    sm2_fe_to_mont(&a.x, &a.x);
    sm2_fe_to_mont(&a.y, &a.y);
    return in_range & sm2_affine_on_curve(&a);
}

/* out := x||y. CT: yes. */
void sm2_point_store(uint8_t out[64], const sm2_point *q)
{
    sm2_u256_store(out, &q->x);
    sm2_u256_store(out + 32, &q->y);
}

/* key := d and 1/(1+d). SM2_ERR_KEY if d is not in [1, n-2]. CT: yes; the verdict is public. */
int sm2_private_import(sm2_private *key, const uint8_t d[SM2_PRIVATE_SIZE])
{
    static const sm2_u256 one = {{1, 0, 0, 0}};
    sm2_u256 t;
    uint64_t ok;

    sm2_u256_load(&key->d, d);
    ok = (1 ^ sm2_u256_is_zero(&key->d)) & sm2_u256_less(&key->d, &sm2_n_minus_1);
    if (!sm2_declassify_bit(ok)) {
        sm2_wipe(key, sizeof *key);
        return SM2_ERR_KEY;
    }
    sm2_fn_add(&t, &key->d, &one);
    sm2_fn_to_mont(&t, &t);
    sm2_fn_inv_mont(&key->inv_mont, &t);
    sm2_wipe(&t, sizeof t);
    return SM2_OK;
}

/* d := the key as 32 bytes. CT: yes. */
void sm2_private_export(uint8_t d[SM2_PRIVATE_SIZE], const sm2_private *key)
{
    sm2_u256_store(d, &key->d);
}

/* q := d*G, made public. CT: yes. */
void sm2_private_to_public(sm2_point *q, const sm2_private *key)
{
    sm2_active_backend->mulgen_many(q, &key->d, 1);
    sm2_declassify(q, sizeof *q);
}

/*
 * inv_mont := 1/(1+d) for every key, sharing inversions.
 * In: 1 <= d <= n-2, 1 <= n <= SM2_KEYS_MAX. CT: yes.
 */
static void sm2_private_invert_many(sm2_private *const *key, size_t n)
{
    static const sm2_u256 one = {{1, 0, 0, 0}};
    sm2_u256 plus[SM2_KEYS_MAX];
    const size_t full = (n + 15) / 16 * 16;
    size_t i, take;

    for (i = 0; i < n; i++) {
        sm2_fn_add(&plus[i], &key[i]->d, &one);
    }
    for (; i < full; i++) {
        plus[i] = one;
    }
    if (sm2_active_backend->order_invert_many != NULL && n > 1) {
        sm2_active_backend->order_invert_many(plus, full);
    } else {
        for (i = 0; i < n; i += take) {
            take = n - i < SM2_FN_INVERT_MAX ? n - i : SM2_FN_INVERT_MAX;
            sm2_fn_invert_many(plus + i, take);
        }
    }
    for (i = 0; i < n; i++) {
        key[i]->inv_mont = plus[i];
    }
    sm2_wipe(plus, full * sizeof plus[0]);
}

/* Up to SM2_LANES_MAX pairs, yet without inverses and untested. SM2_ERR_ENTROPY. CT: yes. */
static int sm2_generate_chunk(sm2_private *const *key, sm2_point *q, sm2_drbg *g, size_t n)
{
    sm2_u256 d[SM2_LANES_MAX];
    int status = sm2_batch_scalars(g, d, n), draws;
    size_t i;

    for (i = 0; i < n && status == SM2_OK; i++) {
        for (draws = 1; sm2_declassify_bit(sm2_u256_equal(&d[i], &sm2_n_minus_1)); draws++) {
            status = draws < SM2_DRAWS_MAX ? sm2_random_scalars(&d[i], 1) : SM2_ERR_ENTROPY;
            if (status != SM2_OK) {
                break;
            }
        }
        key[i]->d = d[i];
    }
    if (status == SM2_OK) {
        sm2_active_backend->mulgen_many(q, d, n);
        sm2_declassify(q, n * sizeof *q);
    }
    sm2_wipe(d, n * sizeof d[0]);
    return status;
}

/* Up to SM2_KEYS_MAX key pairs, tested together. Outputs, errors: as sm2_generate_many. CT: yes. */
static int sm2_generate_group(sm2_private *const *key, sm2_point *q, sm2_drbg *g, size_t n)
{
    int status = SM2_OK;
    size_t i, take;

    for (i = 0; i < n && status == SM2_OK; i += take) {
        take = n - i < SM2_LANES_MAX ? n - i : SM2_LANES_MAX;
        status = sm2_generate_chunk(key + i, q + i, g, take);
    }
    if (status == SM2_OK) {
        sm2_private_invert_many(key, n);
        if (!sm2_pairs_are_consistent(key, q, n, &status) && status == SM2_OK) {
            status = SM2_ERR_SELFTEST;
        }
    }
    return status;
}

/* n fresh, checked key pairs; on failure all keys are wiped. CT: yes. */
int sm2_generate_many(sm2_private *const *key, sm2_point *q, size_t n)
{
    sm2_drbg g = SM2_DRBG_UNSEEDED;
    int status = SM2_OK;
    size_t i, take;

    for (i = 0; i < n && status == SM2_OK; i += take) {
        take = n - i < SM2_KEYS_MAX ? n - i : SM2_KEYS_MAX;
        status = sm2_generate_group(key + i, q + i, &g, take);
    }
    sm2_wipe(&g, sizeof g);
    if (status != SM2_OK) {
        for (i = 0; i < n; i++) {
            sm2_wipe(key[i], sizeof *key[i]);
        }
    }
    return status;
}

/* y := the root of x^3-3x+b with the given parity; 1 if there is one. In: x < p. CT: yes. */
static uint64_t sm2_decompress(sm2_point *q, uint8_t parity)
{
    sm2_fe x, r, t;
    uint64_t found;

    sm2_fe_to_mont(&x, &q->x);
    sm2_fe_sqr(&r, &x);
    sm2_fe_mul(&r, &r, &x);
    sm2_fe_triple(&t, &x);
    sm2_fe_sub(&r, &r, &t);
    sm2_fe_add(&r, &r, &sm2_fe_b);
    found = sm2_fe_sqrt(&t, &r);
    sm2_fe_from_mont(&q->y, &t);
    (void)sm2_u256_sub(&t, &sm2_p, &q->y);
    sm2_u256_cmov(&q->y, &t, (q->y.v[0] ^ parity) & 1);
    return found;
}

/* q := the key in 65 or 33 bytes. Refusals: see sm2.h. CT: no, public. */
int sm2_public_import(sm2_point *q, const uint8_t *in, size_t n)
{
    sm2_point t;

    if (n == SM2_PUBLIC_SIZE && in[0] == 0x04) {
        sm2_u256_load(&t.x, in + 1);
        sm2_u256_load(&t.y, in + 33);
    } else if (n == SM2_PUBLIC_COMPRESSED_SIZE && (in[0] == 0x02 || in[0] == 0x03)) {
        sm2_u256_load(&t.x, in + 1);
        if (!sm2_u256_less(&t.x, &sm2_p) || !sm2_decompress(&t, in[0] & 1)) {
            return SM2_ERR_KEY;
        }
    } else {
        return SM2_ERR_KEY;
    }
    if (!sm2_point_is_valid(&t)) {
        return SM2_ERR_KEY;
    }
    if (sm2_u256_equal(&t.x, &sm2_minus_g.x) && sm2_u256_equal(&t.y, &sm2_minus_g.y)) {
        return SM2_ERR_KEY;
    }
    *q = t;
    return SM2_OK;
}

/* out := 04||x||y. CT: yes. */
void sm2_public_export(uint8_t out[SM2_PUBLIC_SIZE], const sm2_point *q)
{
    out[0] = 0x04;
    sm2_point_store(out + 1, q);
}

/* a||b||xG||yG of GB/T 32918.5. */
static const uint8_t sm2_curve[128] = {
    0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFC,
    0x28, 0xE9, 0xFA, 0x9E, 0x9D, 0x9F, 0x5E, 0x34, 0x4D, 0x5A, 0x9E, 0x4B, 0xCF, 0x65, 0x09, 0xA7,
    0xF3, 0x97, 0x89, 0xF5, 0x15, 0xAB, 0x8F, 0x92, 0xDD, 0xBC, 0xBD, 0x41, 0x4D, 0x94, 0x0E, 0x93,
    0x32, 0xC4, 0xAE, 0x2C, 0x1F, 0x19, 0x81, 0x19, 0x5F, 0x99, 0x04, 0x46, 0x6A, 0x39, 0xC9, 0x94,
    0x8F, 0xE3, 0x0B, 0xBF, 0xF2, 0x66, 0x0B, 0xE1, 0x71, 0x5A, 0x45, 0x89, 0x33, 0x4C, 0x74, 0xC7,
    0xBC, 0x37, 0x36, 0xA2, 0xF4, 0xF6, 0x77, 0x9C, 0x59, 0xBD, 0xCE, 0xE3, 0x6B, 0x69, 0x21, 0x53,
    0xD0, 0xA9, 0x87, 0x7C, 0xC6, 0x2A, 0x47, 0x40, 0x02, 0xDF, 0x32, 0xE5, 0x21, 0x39, 0xF0, 0xA0,
};

/* z := SM3(ENTL||ID||a||b||xG||yG||xA||yA). CT: no, public. */
int sm2_z(uint8_t z[SM2_DIGEST_SIZE], const uint8_t *id, size_t n, const sm2_point *q)
{
    uint8_t part[64];
    sm3_ctx c;

    if (n > SM2_ID_MAX) {
        return SM2_ERR_LENGTH;
    }
    part[0] = (uint8_t)(n >> 5); /* ENTL is a length in bits */
    part[1] = (uint8_t)(n << 3);
    sm3_init(&c);
    sm3_update(&c, part, 2);
    sm3_update(&c, id, n);
    sm3_update(&c, sm2_curve, sizeof sm2_curve);
    sm2_point_store(part, q);
    sm3_update(&c, part, 64);
    sm3_final(&c, z);
    return SM2_OK;
}

/* z[32*i] := Z of *q[i], for one identifier. CT: no, public. */
int sm2_z_many(uint8_t *z, const uint8_t *id, size_t n, const sm2_point *const *q, size_t keys)
{
    uint8_t in[Z_STRIP][2 + Z_ID_SHORT + sizeof sm2_curve + 64];
    const uint8_t *message[Z_STRIP];
    size_t length[Z_STRIP], i, j, take;

    if (n > SM2_ID_MAX) {
        return SM2_ERR_LENGTH;
    }
    if (n > Z_ID_SHORT) {
        for (i = 0; i < keys; i++) {
            (void)sm2_z(z + 32 * i, id, n, q[i]);
        }
        return SM2_OK;
    }
    for (i = 0; i < keys; i += take) {
        take = keys - i < Z_STRIP ? keys - i : Z_STRIP;
        for (j = 0; j < take; j++) {
            in[j][0] = (uint8_t)(n >> 5);
            in[j][1] = (uint8_t)(n << 3);
            if (n > 0) {
                memcpy(in[j] + 2, id, n);
            }
            memcpy(in[j] + 2 + n, sm2_curve, sizeof sm2_curve);
            sm2_point_store(in[j] + 2 + n + sizeof sm2_curve, q[i + j]);
            message[j] = in[j];
            length[j] = 2 + n + sizeof sm2_curve + 64;
        }
        sm2_active_backend->sm3_many(z + 32 * i, message, length, take);
    }
    return SM2_OK;
}
