/*
 * Strict DER of GM/T 0009: SM2Signature and SM2Cipher, nothing more general.
 *
 *   SM2Signature ::= SEQUENCE { r INTEGER, s INTEGER }
 *   SM2Cipher    ::= SEQUENCE { x INTEGER, y INTEGER,
 *                               hash OCTET STRING (SIZE(32)), cipher OCTET STRING }
 *
 * What DER allows in one way only is accepted in that way only. All of it is
 * public; nothing here is constant-time.
 */
#include "sm2_internal.h"

#define DER_INTEGER 0x02
#define DER_OCTET_STRING 0x04
#define DER_SEQUENCE 0x30

/* The bytes not read yet. */
typedef struct {
    const uint8_t *p;
    size_t n;
} sm2_der_in;

/*
 * *out := the contents of the next value, which must have tag `tag`, and steps
 * over it. Returns 1, or 0 if the tag, the length or its form is wrong. CT: no.
 */
static int sm2_der_read(sm2_der_in *out, sm2_der_in *in, uint8_t tag)
{
    size_t length, bytes, i;

    if (in->n < 2 || in->p[0] != tag) {
        return 0;
    }
    length = in->p[1];
    bytes = 0;
    if (length >= 0x80) {
        bytes = length & 0x7F;
        if (bytes < 1 || bytes > 4 || in->n < 2 + bytes || in->p[2] == 0) {
            return 0;
        }
        for (length = 0, i = 0; i < bytes; i++) {
            length = length << 8 | in->p[2 + i];
        }
        if (length < 0x80) {
            return 0;
        }
    }
    if (in->n - 2 - bytes < length) {
        return 0;
    }
    out->p = in->p + 2 + bytes;
    out->n = length;
    in->p = out->p + length;
    in->n -= 2 + bytes + length;
    return 1;
}

/* out := the next value, a minimal INTEGER in [0, 2^256), as 32 bytes. 1 or 0. CT: no. */
static int sm2_der_read_integer(uint8_t out[32], sm2_der_in *in)
{
    sm2_der_in v;

    if (!sm2_der_read(&v, in, DER_INTEGER) || v.n == 0 || (v.p[0] & 0x80) != 0) {
        return 0;
    }
    if (v.p[0] == 0 && v.n > 1) {
        if ((v.p[1] & 0x80) == 0) {
            return 0;
        }
        v.p++;
        v.n--;
    }
    if (v.n > 32) {
        return 0;
    }
    memset(out, 0, 32 - v.n);
    memcpy(out + 32 - v.n, v.p, v.n);
    return 1;
}

/* How many bytes the contents of the INTEGER x take. CT: no. */
static size_t sm2_der_integer_size(const uint8_t x[32])
{
    size_t skip = 0;

    while (skip < 31 && x[skip] == 0) {
        skip++;
    }
    return 32 - skip + (x[skip] >> 7);
}

/* How many bytes the tag and length of a value of n bytes take. CT: no. */
static size_t sm2_der_head_size(size_t n)
{
    size_t size = 2;

    if (n >= 0x80) {
        for (; n > 0; n >>= 8) {
            size++;
        }
    }
    return size;
}

/* Writes tag and length; returns what follows them. CT: no. */
static uint8_t *sm2_der_write_head(uint8_t *p, uint8_t tag, size_t n)
{
    size_t bytes = sm2_der_head_size(n) - 2, i;

    *p++ = tag;
    if (bytes == 0) {
        *p++ = (uint8_t)n;
        return p;
    }
    *p++ = (uint8_t)(0x80 | bytes);
    for (i = bytes; i-- > 0;) {
        *p++ = (uint8_t)(n >> (8 * i));
    }
    return p;
}

/* Writes the INTEGER x; returns what follows it. CT: no. */
static uint8_t *sm2_der_write_integer(uint8_t *p, const uint8_t x[32])
{
    size_t size = sm2_der_integer_size(x);

    p = sm2_der_write_head(p, DER_INTEGER, size);
    if (size == 33) {
        *p++ = 0;
        size = 32;
    }
    memcpy(p, x + 32 - size, size);
    return p + size;
}

/* 1 if r and s, 32 bytes each, are both in [1, n-1]. CT: no. */
static int sm2_signature_in_range(const uint8_t signature[64])
{
    sm2_u256 r, s;

    sm2_u256_load(&r, signature);
    sm2_u256_load(&s, signature + 32);
    return sm2_fn_is_valid(&r) && sm2_fn_is_valid(&s);
}

/* The length of the DER of r||s, written to out. CT: no. */
int sm2_signature_to_der(uint8_t *out, const uint8_t signature[SM2_SIGNATURE_SIZE])
{
    size_t body = 4 + sm2_der_integer_size(signature) + sm2_der_integer_size(signature + 32);
    uint8_t *p;

    if (!sm2_signature_in_range(signature)) {
        return SM2_ERR_SIGNATURE;
    }
    p = sm2_der_write_head(out, DER_SEQUENCE, body);
    p = sm2_der_write_integer(p, signature);
    p = sm2_der_write_integer(p, signature + 32);
    return (int)(p - out);
}

/* out := r||s, which are in [1, n-1]. CT: no. */
int sm2_signature_from_der(uint8_t out[SM2_SIGNATURE_SIZE], const uint8_t *der, size_t n)
{
    sm2_der_in in = {der, n}, body;
    uint8_t t[64];

    if (!sm2_der_read(&body, &in, DER_SEQUENCE) || in.n != 0 || !sm2_der_read_integer(t, &body) ||
        !sm2_der_read_integer(t + 32, &body) || body.n != 0 || !sm2_signature_in_range(t)) {
        return SM2_ERR_ENCODING;
    }
    memcpy(out, t, sizeof t);
    return SM2_OK;
}

/* The length of the DER of C1||C3||C2, written to out. CT: no. */
long sm2_ciphertext_to_der(uint8_t *out, const uint8_t *c1c3c2, size_t n)
{
    const uint8_t *x = c1c3c2 + 1, *y = c1c3c2 + 33;
    size_t length, body;
    uint8_t *p;

    if (n <= SM2_CIPHERTEXT_OVERHEAD || n - SM2_CIPHERTEXT_OVERHEAD > SM2_PLAINTEXT_MAX ||
        c1c3c2[0] != 0x04) {
        return SM2_ERR_ENCODING;
    }
    length = n - SM2_CIPHERTEXT_OVERHEAD;
    body = 2 + sm2_der_integer_size(x) + 2 + sm2_der_integer_size(y) + 34 +
           sm2_der_head_size(length) + length;
    p = sm2_der_write_head(out, DER_SEQUENCE, body);
    p = sm2_der_write_integer(p, x);
    p = sm2_der_write_integer(p, y);
    p = sm2_der_write_head(p, DER_OCTET_STRING, 32);
    memcpy(p, c1c3c2 + 65, 32);
    p = sm2_der_write_head(p + 32, DER_OCTET_STRING, length);
    memcpy(p, c1c3c2 + SM2_CIPHERTEXT_OVERHEAD, length);
    return (long)(p - out) + (long)length;
}

/* out := C1||C3||C2; returns its length. Coordinates are < p. CT: no. */
long sm2_ciphertext_from_der(uint8_t *out, const uint8_t *der, size_t n)
{
    sm2_der_in in = {der, n}, body, c3, c2;
    uint8_t xy[64];
    sm2_u256 x, y;

    if (!sm2_der_read(&body, &in, DER_SEQUENCE) || in.n != 0 || !sm2_der_read_integer(xy, &body) ||
        !sm2_der_read_integer(xy + 32, &body) || !sm2_der_read(&c3, &body, DER_OCTET_STRING) ||
        !sm2_der_read(&c2, &body, DER_OCTET_STRING) || body.n != 0 || c3.n != 32 || c2.n == 0 ||
        c2.n > SM2_PLAINTEXT_MAX) {
        return SM2_ERR_ENCODING;
    }
    sm2_u256_load(&x, xy);
    sm2_u256_load(&y, xy + 32);
    if (!sm2_u256_less(&x, &sm2_p) || !sm2_u256_less(&y, &sm2_p)) {
        return SM2_ERR_ENCODING;
    }
    out[0] = 0x04;
    memcpy(out + 1, xy, 64);
    memcpy(out + 65, c3.p, 32);
    memcpy(out + SM2_CIPHERTEXT_OVERHEAD, c2.p, c2.n);
    return (long)(SM2_CIPHERTEXT_OVERHEAD + c2.n);
}
