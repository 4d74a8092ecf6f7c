/* SM3: one message, and many in lanes. */
#ifndef OPERATIONS_HASH_H
#define OPERATIONS_HASH_H

#include "operations.h"
#include "sm2_cpu.h"
#include "sm3_many.h"

typedef void hash_blocks(uint32_t *, const uint8_t *, size_t);

/* One message of 0 to 70 blocks at any address, against one block after the other; the buffer is exact. */
static void test_hash_long(hash_blocks *blocks)
{
    for (size_t n = 0; n <= 70; n++) {
        size_t off = n % 7;
        uint8_t *data = malloc(64 * n + off + 1);
        uint32_t have[8], want[8];

        check_random_bytes(data, 64 * n + off + 1);
        for (int i = 0; i < 8; i++) {
            have[i] = want[i] = (uint32_t)check_random();
        }
        for (size_t i = 0; i < n; i++) {
            sm3_compress(want, data + off + 64 * i, 1);
        }
        blocks(have, data + off, n);
        CHECK(memcmp(have, want, sizeof want) == 0);
        free(data);
    }
}

static void test_hash(const sm2_backend *b)
{
    uint8_t data[400], whole[32], parts[32], many[3 * 32];
    sm3_ctx c;

    check_random_bytes(data, sizeof data);
    for (size_t n = 0; n <= sizeof data; n++) {
        const uint8_t *message[3] = {data, data, data + sizeof data - n};
        size_t length[3] = {n, n / 2, n}, cut = n > 0 ? check_random() % n : 0;

        sm3_hash(whole, data, n);
        sm3_init(&c);
        sm3_update(&c, data, cut);
        sm3_update(&c, data + cut, 0);
        sm3_update(&c, data + cut, n - cut);
        sm3_final(&c, parts);
        CHECK(memcmp(whole, parts, 32) == 0);
        b->sm3_many(many, message, length, 3);
        CHECK(memcmp(whole, many, 32) == 0);
        sm3_hash(whole, data, n / 2);
        CHECK(memcmp(whole, many + 32, 32) == 0);
        sm3_hash(whole, data + sizeof data - n, n);
        CHECK(memcmp(whole, many + 64, 32) == 0);
    }
    test_hash_long(b->sm3_blocks);
}

typedef void hash_many(uint8_t *, const uint8_t *const *, const size_t *, size_t);

/* The length of a message in a batch of the given kind. */
static size_t some_length(int kind, size_t usual, size_t i)
{
    switch (kind) {
    case 0:
        return usual;
    case 1:
        return (size_t)(check_random() % 301);
    case 2:
        return usual + (size_t)(check_random() % 3);
    case 3: /* a long one now and then */
        return (size_t)(check_random() % (check_random() % 20 ? 70 : 5000));
    case 4:
        return 64 * (size_t)(check_random() % 4);
    case 5:
        return i == 5 ? 3000 : usual;
    default:
        return 55 + (i & 1);
    }
}

/* Batches of every size, every length from 0 to 300, equal and mixed; buffers are exact. */
static void test_hash_lanes(hash_many *many)
{
    static uint8_t *message[100];
    static size_t length[100];
    static uint8_t out[32 * 101];
    uint8_t want[32];

    for (int round = 0; round < (quick ? 602 : 3010); round++) {
        size_t n = (size_t)(check_random() % (round % 5 == 0 ? 5 : 101));

        for (size_t i = 0; i < n; i++) {
            length[i] = some_length(round % 7, (size_t)round % 301, i);
            message[i] = length[i] > 0 ? malloc(length[i]) : NULL;
            check_random_bytes(message[i], length[i]);
        }
        memset(out, 0x5A, sizeof out);
        many(out, (const uint8_t *const *)message, length, n);
        for (size_t i = 0; i < n; i++) {
            sm3_hash(want, message[i], length[i]);
            CHECK(memcmp(want, out + 32 * i, 32) == 0);
            free(message[i]);
        }
        CHECK(out[32 * n] == 0x5A && out[32 * n + 31] == 0x5A);
    }
}

/* Digests of messages behind their Z, in scratch space of every kind of size. */
static void test_digests(void)
{
    enum { N = 150, MOST = 400 };
    static uint8_t data[MOST], e[32 * N], z[32 * N], id[100], scratch[N * (MOST + 32)];
    static const uint8_t *message[N];
    static size_t length[N];
    static sm2_point q[N];
    static const sm2_point *qs[N];
    static const size_t rooms[] = {0, 31, 32, 100, 431, 432, 5000, sizeof scratch};
    sm2_u256 k = {{1, 0, 0, 0}};
    uint8_t want[32];
    sm3_ctx c;

    check_random_bytes(data, sizeof data);
    check_random_bytes(id, sizeof id);
    for (size_t i = 0; i < N; i++) {
        k.v[0]++;
        CHECK(slow_multiply(&q[i], &k, &base));
        qs[i] = &q[i];
        length[i] = (size_t)(check_random() % (MOST + 1));
        message[i] = data + MOST - length[i];
    }
    for (size_t n = 0; n <= sizeof id; n += 4) {
        CHECK(sm2_z_many(z, id, n, qs, N) == SM2_OK);
        for (size_t i = 0; i < N; i++) {
            CHECK(sm2_z(want, id, n, qs[i]) == SM2_OK && memcmp(want, z + 32 * i, 32) == 0);
        }
    }
    CHECK(sm2_z_many(z, id, SM2_ID_MAX + 1, qs, N) == SM2_ERR_LENGTH);
    for (size_t s = 0; s < 2 * sizeof rooms / sizeof rooms[0]; s++) {
        size_t room = rooms[s / 2], step = s % 2;
        uint8_t *exact = malloc(room + 1);

        memset(e, 0, sizeof e);
        sm2_digest_many(e, z, step, message, length, N, exact, room);
        for (size_t i = 0; i < N; i++) {
            sm3_init(&c);
            sm3_update(&c, z + 32 * i * step, 32);
            sm3_update(&c, message[i], length[i]);
            sm3_final(&c, want);
            CHECK(memcmp(want, e + 32 * i, 32) == 0);
        }
        free(exact);
    }
}

/* Every kind of vector that this machine has, whichever of them the backends use. */
static void test_vectors(void)
{
#if defined(__x86_64__)
    sm2_cpu cpu;

    sm2_cpu_detect(&cpu);
    if (cpu.avx2 && cpu.bmi2) {
        test_hash_lanes(sm3_many_avx2);
        test_hash_long(sm3_blocks_avx2);
        puts("AVX2");
    }
    if (cpu.avx512f && cpu.avx512bw && cpu.bmi2) {
        test_hash_lanes(sm3_many_avx512);
        test_hash_long(sm3_blocks_avx512);
        puts("AVX-512");
    }
#endif
}

#endif
