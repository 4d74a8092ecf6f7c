/*
 * SM3 of many messages: whatever their lengths, each has the hash it has
 * alone. Two bytes of input are the length of a message.
 */
#include "fuzz.h"

#define MOST 80

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *message[MOST];
    uint8_t *exactly[MOST], out[32 * MOST], want[32];
    size_t length[MOST], lanes = n / 2 < MOST ? n / 2 : MOST;
    const sm2_backend *backend;

    for (size_t i = 0; i < lanes; i++) {
        length[i] = (size_t)(data[2 * i] | data[2 * i + 1] << 8) % 700;
        exactly[i] = malloc(length[i] + 1);
        PROMISE(exactly[i] != NULL);
        memset(exactly[i], (int)(i + data[2 * i]), length[i] + 1);
        message[i] = exactly[i] + 1; /* its end is the end of what was asked for */
    }
    for (size_t b = 0; sm2_backends[b] != NULL; b++) {
        if (sm2_backend_choose(&backend, sm2_backends[b]->name) != SM2_BACKEND_OK) {
            continue;
        }
        backend->sm3_many(out, message, length, lanes);
        for (size_t i = 0; i < lanes; i++) {
            sm3_hash(want, message[i], length[i]);
            PROMISE(memcmp(want, out + 32 * i, 32) == 0);
        }
    }
    for (size_t i = 0; i < lanes; i++) {
        free(exactly[i]);
    }
    return 0;
}
