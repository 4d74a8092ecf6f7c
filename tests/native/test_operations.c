/*
 * Every backend this machine can run, against double-and-add, and the rules of
 * the front end: retries, failing random sources, lanes that are wrong, DER.
 *
 * Usage: test_operations [quick]   fewer batch sizes, for builds that run slowly
 */
#include "operations_front.h"
#include "operations_hash.h"
#include "operations_kernels.h"
#include "operations_lanes.h"
#include "operations_nonces.h"
#include "operations_pairs.h"

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    for (size_t i = 0; sm2_backends[i] != NULL; i++) {
        const sm2_backend *b = sm2_backends[i], *chosen = NULL;

        if (!b->is_supported()) {
            CHECK(sm2_backend_choose(&chosen, b->name) == SM2_BACKEND_UNSUPPORTED);
            continue;
        }
        CHECK(sm2_backend_choose(&chosen, b->name) == SM2_BACKEND_OK && chosen == b);
        CHECK(sm2_selftest(b) == SM2_OK);
        test_multiples(b);
        test_sums(b);
        test_prepared(b);
        test_combinations(b);
        test_order(b);
        test_pairs();
        test_hash(b);
        test_hash_lanes(b->sm3_many);
        test_digests();
        test_generator();
        test_retries_in_a_batch();
        test_retries();
        test_entropy_failures();
        test_bad_lanes();
        test_lane_positions();
        test_universal_forgery();
        test_encryption();
        printf("%s: %d failures\n", b->name, check_failures);
    }
    CHECK(sm2_backend_choose(&(const sm2_backend *){NULL}, "nonesuch") == SM2_BACKEND_UNKNOWN);
    test_vectors();
    test_keys();
    test_der();
    test_locked_slots();
    return check_failures != 0;
}
