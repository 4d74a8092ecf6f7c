/*
 * Random bytes and random scalars: the one place where nonces come from. A few
 * are drawn from the source itself; a batch seeds a generator and drops it.
 */
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

/* Lanes from which a generator is used, in place of a draw from the source for each lane. */
#define SM2_DRBG_FROM 16

/* g := a generator with a seed of its own. CT: yes. */
static int sm2_drbg_seed(sm2_drbg *g)
{
    uint8_t seed[SM2_SEED_SIZE];
    int status = sm2_random(seed, sizeof seed);

    if (status == SM2_OK && !sm2_blocks_differ(seed, 16, sizeof seed / 16)) {
        status = SM2_ERR_ENTROPY;
    }
    if (status == SM2_OK) {
        sm2_drbg_init(g, seed);
    }
    sm2_wipe(seed, sizeof seed);
    return status;
}

/*
 * out := n blocks of 32 random bytes, from the generator, or from the source
 * where there is none (g is NULL); none equals the one before it. CT: yes.
 */
static int sm2_draw(sm2_drbg *g, uint8_t *out, size_t n)
{
    int status;

    if (g != NULL) {
        return sm2_drbg_blocks(g, out, n) ? SM2_OK : SM2_ERR_ENTROPY;
    }
    status = sm2_random(out, 32 * n);
    if (status == SM2_OK && !sm2_blocks_differ(out, 32, n)) {
        status = SM2_ERR_ENTROPY;
    }
    return status;
}

/* k[i] := uniform in [1, n-1]. CT: yes, up to how many draws were rejected. */
int sm2_batch_scalars(sm2_drbg *g, sm2_u256 *k, size_t lanes)
{
    uint8_t buffer[32 * SM2_LANES_MAX];
    int status = SM2_OK, draws;
    size_t i;

    VERIFY_CHECK(lanes <= SM2_LANES_MAX);
    if (lanes < SM2_DRBG_FROM) {
        g = NULL;
    } else if (g->left < lanes) {
        status = sm2_drbg_seed(g);
    }
    if (status == SM2_OK) {
        status = sm2_draw(g, buffer, lanes);
    }
    for (i = 0; i < lanes && status == SM2_OK; i++) {
        for (draws = 1; !sm2_scalar_from_bytes(&k[i], buffer + 32 * i); draws++) {
            status = draws < SM2_DRAWS_MAX ? sm2_draw(NULL, buffer + 32 * i, 1) : SM2_ERR_ENTROPY;
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

/* The same, with a generator of its own. CT: yes, up to how many draws were rejected. */
int sm2_random_scalars(sm2_u256 *k, size_t lanes)
{
    sm2_drbg g = SM2_DRBG_UNSEEDED;
    int status = sm2_batch_scalars(&g, k, lanes);

    sm2_wipe(&g, sizeof g);
    return status;
}
