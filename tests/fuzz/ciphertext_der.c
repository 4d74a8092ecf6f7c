/* Ciphertexts in DER, and what decryption makes of whatever is well-formed. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint8_t d[32] = {0x42};
    static sm2_private key;
    uint8_t *raw, *der, *plain;
    long length, again;

    ready();
    if (key.d.v[3] == 0) {
        PROMISE(sm2_private_import(&key, d) == SM2_OK);
    }
    raw = malloc(n + SM2_CIPHERTEXT_OVERHEAD);
    PROMISE(raw != NULL);
    length = sm2_ciphertext_from_der(raw, data, n);
    if (length >= 0) {
        PROMISE((size_t)length > SM2_CIPHERTEXT_OVERHEAD && (size_t)length < n + SM2_CIPHERTEXT_OVERHEAD);
        der = malloc((size_t)length + 23);
        PROMISE(der != NULL);
        again = sm2_ciphertext_to_der(der, raw, (size_t)length);
        PROMISE(again >= 0 && (size_t)again == n && memcmp(der, data, n) == 0);
        free(der);
        plain = malloc((size_t)length);
        PROMISE(plain != NULL);
        memset(plain, 0x5A, (size_t)length);
        if (sm2_decrypt(plain, &key, raw, (size_t)length) != SM2_OK) {
            for (long i = 0; i < length; i++) {
                PROMISE(plain[i] == 0x5A); /* nothing is released */
            }
        }
        free(plain);
    }
    free(raw);
    if (n > SM2_CIPHERTEXT_OVERHEAD) { /* C1||C3||C2 as it comes */
        raw = exact(data, n);
        plain = malloc(n - SM2_CIPHERTEXT_OVERHEAD);
        PROMISE(plain != NULL);
        (void)sm2_decrypt(plain, &key, raw, n);
        free(plain);
        free(raw);
    }
    return 0;
}
