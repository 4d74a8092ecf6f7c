/*
 * Batches to verify: whatever the lanes hold, each gets the verdict it gets
 * alone, on every backend. A lane is 129 bytes: how its key is made, digest,
 * signature, and what is to be signed with it so that some are valid.
 */
#include "fuzz.h"

#define LANE 129
#define MOST 20

/* A key pair by number, and sometimes a good signature spoilt by one byte. */
static void lane(sm2_point *q, uint8_t *e, uint8_t *rs, const uint8_t *p)
{
    uint8_t d[32] = {0};
    sm2_private key;

    d[31] = (uint8_t)(1 + (p[0] & 7));
    PROMISE(sm2_private_import(&key, d) == SM2_OK);
    sm2_private_to_public(q, &key);
    memcpy(e, p + 1, 32);
    memcpy(rs, p + 33, 64);
    if (p[0] & 8) { /* signed, with the last bytes as the nonce */
        (void)sm2_sign_with_nonce(rs, &key, e, p + 97);
        rs[p[33] & 63] ^= p[34];
        e[p[35] & 31] ^= p[36];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static sm2_point q[MOST];
    const sm2_point *qs[MOST];
    uint8_t e[32 * MOST], rs[64 * MOST], valid[MOST], one;
    size_t lanes = n / LANE < MOST ? n / LANE : MOST;
    const sm2_backend *backend;

    ready();
    for (size_t i = 0; i < lanes; i++) {
        lane(&q[i], e + 32 * i, rs + 64 * i, data + LANE * i);
        qs[i] = &q[i];
    }
    sm2_verify_many(valid, qs, 1, e, rs, lanes);
    for (size_t b = 0; sm2_backends[b] != NULL; b++) {
        if (sm2_backend_choose(&backend, sm2_backends[b]->name) != SM2_BACKEND_OK) {
            continue;
        }
        sm2_use_backend(backend);
        for (size_t i = 0; i < lanes; i++) {
            one = 7;
            sm2_verify_many(&one, &qs[i], 0, e + 32 * i, rs + 64 * i, 1);
            PROMISE(one == valid[i] && one <= 1);
        }
    }
    PROMISE(sm2_backend_choose(&backend, NULL) == SM2_BACKEND_OK);
    sm2_use_backend(backend);
    return 0;
}
