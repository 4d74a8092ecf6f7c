/* The digests that signatures are made of, many at once. */
#include "sm2_internal.h"

/* e := SM3(Z||M) of one message, in pieces. CT: yes (in the contents). */
static void sm2_digest_one(uint8_t e[32], const uint8_t z[32], const uint8_t *msg, size_t n)
{
    sm3_ctx c;

    sm3_init(&c);
    sm3_update(&c, z, 32);
    sm3_update(&c, msg, n);
    sm3_final(&c, e);
}

/* e[32*i] := SM3(Z||M). CT: yes (in the contents). */
void sm2_digest_many(uint8_t *e, const uint8_t *z, size_t z_step, const uint8_t *const *msg,
                     const size_t *len, size_t n, uint8_t *scratch, size_t scratch_size)
{
    const uint8_t *message[SM2_LANES_MAX];
    size_t length[SM2_LANES_MAX], done, take, used;

    for (done = 0; done < n; done += take) {
        used = 0;
        for (take = 0; take < SM2_LANES_MAX && take < n - done; take++) {
            size_t i = done + take;

            if (scratch_size - used < 32 || scratch_size - used - 32 < len[i]) {
                break;
            }
            message[take] = scratch + used;
            length[take] = 32 + len[i];
            memcpy(scratch + used, z + 32 * i * z_step, 32);
            if (len[i] > 0) {
                memcpy(scratch + used + 32, msg[i], len[i]);
            }
            used += length[take];
        }
        if (take > 1) {
            sm2_active_backend->sm3_many(e + 32 * done, message, length, take);
        } else {
            take = 1;
            sm2_digest_one(e + 32 * done, z + 32 * done * z_step, msg[done], len[done]);
        }
    }
}
