/* Sharing a secret over GF(2^8); see shamir.h. */
#include "shamir.h"

#include "sm2_common.h"

/* x*y in GF(2^8). CT: yes. */
static uint8_t shamir_mul(uint8_t x, uint8_t y)
{
    uint64_t a = x, b = y, z = 0;
    int i;

    for (i = 0; i < 8; i++) {
        z ^= a & sm2_mask(b & 1);
        a = (a << 1) ^ (0x11B & sm2_mask(a >> 7));
        b >>= 1;
    }
    return (uint8_t)z;
}

/* 1/x in GF(2^8) as x^254; 0 for 0. CT: yes. */
static uint8_t shamir_inv(uint8_t x)
{
    uint8_t power = x, z = 1;
    int i;

    for (i = 1; i < 8; i++) { /* 254 = 2 + 4 + ... + 128 */
        power = shamir_mul(power, power);
        z = shamir_mul(z, power);
    }
    return z;
}

/* One share: the polynomial at x, by Horner's rule. CT: yes. */
void shamir_share(uint8_t *y, uint8_t x, const uint8_t *secret, const uint8_t *c, size_t n, size_t m)
{
    size_t i, row;
    uint8_t sum;

    VERIFY_CHECK(x != 0 && m >= 1);
    for (i = 0; i < n; i++) {
        sum = 0;
        for (row = m - 1; row > 0; row--) {
            sum = shamir_mul((uint8_t)(sum ^ c[(row - 1) * n + i]), x);
        }
        y[i] = (uint8_t)(sum ^ secret[i]);
    }
}

/* The polynomial at 0, by Lagrange's formula. CT: yes (in y; the x are public). */
void shamir_combine(uint8_t *secret, const uint8_t *x, const uint8_t *y, size_t n, size_t m)
{
    size_t i, j, k;
    uint8_t weight;

    memset(secret, 0, n);
    for (j = 0; j < m; j++) {
        weight = 1;
        for (k = 0; k < m; k++) {
            if (k != j) {
                weight = shamir_mul(weight, shamir_mul(x[k], shamir_inv((uint8_t)(x[k] ^ x[j]))));
            }
        }
        for (i = 0; i < n; i++) {
            secret[i] = (uint8_t)(secret[i] ^ shamir_mul(weight, y[j * n + i]));
        }
    }
}
