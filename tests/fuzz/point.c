/* Public keys: what is imported is on the curve, has two encodings and no other, and can be used. */
#include "fuzz.h"

static const sm2_u256 order = {{UINT64_C(0x53BBF40939D54123), UINT64_C(0x7203DF6B21C6052B),
                                UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0xFFFFFFFEFFFFFFFF)}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *in = exact(data, n), out[SM2_PUBLIC_SIZE], z[32];
    sm2_point q, again, made;
    const sm2_point *qs = &q;
    sm2_u256 k = order;

    ready();
    memset(&q, 0, sizeof q);
    if (sm2_public_import(&q, in, n) == SM2_OK) {
        PROMISE(sm2_point_is_valid(&q));
        sm2_public_export(out, &q);
        PROMISE(sm2_public_import(&again, out, SM2_PUBLIC_SIZE) == SM2_OK);
        PROMISE(memcmp(&q, &again, sizeof q) == 0);
        PROMISE(n == SM2_PUBLIC_SIZE ? memcmp(out, in, n) == 0 : memcmp(out + 1, in + 1, 32) == 0);
        out[0] = (uint8_t)(2 | (out[64] & 1));
        PROMISE(n == SM2_PUBLIC_SIZE || out[0] == in[0]);
        PROMISE(sm2_public_import(&again, out, SM2_PUBLIC_COMPRESSED_SIZE) == SM2_OK);
        PROMISE(memcmp(&q, &again, sizeof q) == 0);
        k.v[0] -= 1; /* (n-1)*q = -q */
        sm2_active_backend->mul_many(&made, &k, &qs, 1);
        PROMISE(sm2_u256_equal(&made.x, &q.x) && !sm2_u256_equal(&made.y, &q.y));
        PROMISE(sm2_z(z, in, n, &q) == SM2_OK);
    }
    free(in);
    return 0;
}
