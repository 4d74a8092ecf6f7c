/* Signatures in DER: what is accepted is the one encoding of r and s, both in range. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t rs[64], der[SM2_SIGNATURE_DER_MAX], back[64];
    int length;

    memset(rs, 0x5A, sizeof rs);
    if (sm2_signature_from_der(rs, data, n) == SM2_OK) {
        length = sm2_signature_to_der(der, rs);
        PROMISE(length > 0 && (size_t)length == n && memcmp(der, data, n) == 0);
    } else {
        PROMISE(rs[0] == 0x5A && rs[63] == 0x5A);
    }
    if (n >= 64) { /* the other way round: any r and s */
        length = sm2_signature_to_der(der, data);
        if (length > 0) {
            PROMISE(length <= SM2_SIGNATURE_DER_MAX);
            PROMISE(sm2_signature_from_der(back, der, (size_t)length) == SM2_OK);
            PROMISE(memcmp(back, data, 64) == 0);
        }
    }
    return 0;
}
