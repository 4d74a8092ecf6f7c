/*
 * Sharing a secret among n so that any m of them have it and fewer have
 * nothing (Shamir 1979), octet by octet over GF(2^8) modulo
 * x^8+x^4+x^3+x+1. The arithmetic is done bit by bit: no table, no branch.
 */
#ifndef SHAMIR_H
#define SHAMIR_H

#include <stddef.h>
#include <stdint.h>

/*
 * y[i] := secret[i] + c[0][i]*x + c[1][i]*x^2 + ... for the m-1 rows of n
 * random octets in c. In: x != 0. CT: yes.
 */
void shamir_share(uint8_t *y, uint8_t x, const uint8_t *secret, const uint8_t *c, size_t n, size_t m);

/*
 * secret := what the m shares (x[j], n octets at y + j*n) were made of. In: the
 * x are distinct and not 0. CT: yes (in y; the x are public).
 */
void shamir_combine(uint8_t *secret, const uint8_t *x, const uint8_t *y, size_t n, size_t m);

#endif
