/* Random bytes and random scalars: the one place where nonces come from. */
#define _DEFAULT_SOURCE
#include "sm2_internal.h"

#include <errno.h>
#include <sys/types.h>
#if defined(__linux__)
#include <sys/random.h>
#else
#include <unistd.h>
#endif

/* out := n bytes from the operating system; 0, or -1 on failure. */
static int sm2_entropy_os(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
#if defined(__linux__)
    while (n > 0) {
        ssize_t got = getrandom(out, n, 0);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return -1;
        }
        out += got;
        n -= (size_t)got;
    }
#else
    while (n > 0) {
        size_t take = n < 256 ? n : 256;

        if (getentropy(out, take) != 0) {
            return -1;
        }
        out += take;
        n -= take;
    }
#endif
    return 0;
}

static sm2_entropy_fn sm2_entropy = sm2_entropy_os;
static void *sm2_entropy_ctx;

/* Replaces the source; NULL puts the operating system's back. */
void sm2_set_entropy(sm2_entropy_fn fn, void *ctx)
{
    sm2_entropy = fn != NULL ? fn : sm2_entropy_os;
    sm2_entropy_ctx = ctx;
}

/* out := n random bytes, or zeros and SM2_ERR_ENTROPY. CT: yes. */
int sm2_random(uint8_t *out, size_t n)
{
    if (sm2_entropy(sm2_entropy_ctx, out, n) != 0) {
        sm2_wipe(out, n);
        return SM2_ERR_ENTROPY;
    }
    return SM2_OK;
}

/* *k := the scalar in 32 random bytes; 1 if it is in [1, n-1]. CT: yes; the answer is public. */
static int sm2_scalar_from_bytes(sm2_u256 *k, const uint8_t b[32])
{
    sm2_u256_load(k, b);
    return sm2_declassify_bit(sm2_fn_is_valid(k));
}

/* k[i] := uniform in [1, n-1]. CT: yes, up to how many draws were rejected. */
int sm2_random_scalars(sm2_u256 *k, size_t lanes)
{
    uint8_t buffer[32 * SM2_LANES_MAX];
    int status, draws;
    size_t i;

    VERIFY_CHECK(lanes <= SM2_LANES_MAX);
    status = sm2_random(buffer, 32 * lanes);
    for (i = 0; i < lanes && status == SM2_OK; i++) {
        for (draws = 1; !sm2_scalar_from_bytes(&k[i], buffer + 32 * i); draws++) {
            status = draws < SM2_DRAWS_MAX ? sm2_random(buffer + 32 * i, 32) : SM2_ERR_ENTROPY;
            if (status != SM2_OK) {
                break;
            }
        }
    }
    sm2_wipe(buffer, 32 * lanes);
    if (status != SM2_OK) {
        sm2_wipe(k, lanes * sizeof *k);
    }
    return status;
}
