/* SM3 with a context (see sm3.h). */
#include "sm3.h"

#include "sm3_impl.h"

static void (*sm3_long)(uint32_t state[8], const uint8_t *p, size_t blocks) = sm3_compress_impl;

/* What is long goes to `blocks`. CT: not applicable. */
void sm3_use(void (*blocks)(uint32_t state[8], const uint8_t *p, size_t blocks))
{
    sm3_long = blocks;
}

/* state := compress of `blocks` blocks at p. CT: yes. */
void sm3_compress(uint32_t state[8], const uint8_t *p, size_t blocks)
{
    if (blocks >= SM3_LONG_BLOCKS) {
        sm3_long(state, p, blocks);
        return;
    }
    sm3_compress_impl(state, p, blocks);
}

/* c := the empty message. CT: yes. */
void sm3_init(sm3_ctx *c)
{
    static const uint32_t iv[8] = SM3_IV;

    memset(c, 0, sizeof *c);
    memcpy(c->state, iv, sizeof iv);
}

/* Appends n bytes. CT: yes (in the contents). */
void sm3_update(sm3_ctx *c, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t have = (size_t)(c->length % SM3_BLOCK_SIZE), take;

    c->length += n;
    if (have > 0) {
        take = SM3_BLOCK_SIZE - have < n ? SM3_BLOCK_SIZE - have : n;
        if (take > 0) {
            memcpy(c->block + have, p, take);
        }
        if (have + take < SM3_BLOCK_SIZE) {
            return;
        }
        sm3_compress(c->state, c->block, 1);
        p += take;
        n -= take;
    }
    sm3_compress(c->state, p, n / SM3_BLOCK_SIZE);
    if (n % SM3_BLOCK_SIZE > 0) {
        memcpy(c->block, p + (n - n % SM3_BLOCK_SIZE), n % SM3_BLOCK_SIZE);
    }
}

/* out := the hash; c is wiped. CT: yes. */
void sm3_final(sm3_ctx *c, uint8_t out[SM3_DIGEST_SIZE])
{
    size_t have = (size_t)(c->length % SM3_BLOCK_SIZE);

    c->block[have++] = 0x80;
    memset(c->block + have, 0, SM3_BLOCK_SIZE - have);
    if (have > SM3_BLOCK_SIZE - 8) {
        sm3_compress(c->state, c->block, 1);
        memset(c->block, 0, SM3_BLOCK_SIZE);
    }
    sm2_store64_be(c->block + SM3_BLOCK_SIZE - 8, c->length << 3);
    sm3_compress(c->state, c->block, 1);
    sm3_store_state(out, c->state);
    sm2_wipe(c, sizeof *c);
}

/* out := the hash of n bytes. CT: yes (in the contents). */
void sm3_hash(uint8_t out[SM3_DIGEST_SIZE], const void *data, size_t n)
{
    sm3_ctx c;

    if (n < SM3_LONG_BLOCKS * SM3_BLOCK_SIZE) {
        sm3_hash_impl(out, data, n);
        return;
    }
    sm3_init(&c);
    sm3_update(&c, data, n);
    sm3_final(&c, out);
}
