/* What a run measured: log-linear ("HDR") histograms of nanoseconds and counters, by kind of request and by interval.
 *
 * A value v < 2^bits has a bucket of its own; above that every power of two is divided into 2^bits buckets, so that a
 * bucket's edges differ by at most v / 2^bits. Two precisions: LT_WHOLE_BITS for the whole run (0.1 %), LT_PART_BITS for
 * an interval (1.6 %). Values past LT_MAX_NS are counted as LT_MAX_NS.
 */
#ifndef LOADTEST_RECORD_H
#define LOADTEST_RECORD_H

#include <stddef.h>
#include <stdint.h>

enum { LT_WHOLE_BITS = 10, LT_PART_BITS = 6, LT_TOP_BITS = 42 };
#define LT_MAX_NS ((UINT64_C(1) << LT_TOP_BITS) - 1)
#define LT_BUCKETS(bits) ((size_t)(LT_TOP_BITS - (bits) + 1) << (bits))

/* How an answer was wrong; LT_OK is none. The order is that of loadtest.record.ERRORS. */
enum lt_error {
    LT_OK,
    LT_STATUS,
    LT_SIZE,
    LT_CLOSED,
    LT_TIMEOUT,
    LT_PROTOCOL,
    LT_OVERFLOW,
    LT_WRONG,
    LT_ERRORS
};

struct lt_kind {
    uint64_t errors[LT_ERRORS]; /* by lt_error; [LT_OK]: answers without fault */
    uint64_t max_ns, sum_ns, bytes;
    uint64_t whole[LT_BUCKETS(LT_WHOLE_BITS)];
};

/* offered, errors, counts: by the moment a request was due; done: good answers, by the moment they came. */
struct lt_part {
    uint32_t offered, done, errors;
    uint32_t counts[LT_BUCKETS(LT_PART_BITS)];
};

struct lt_record {
    size_t kinds, parts;
    uint64_t part_ns;
    struct lt_kind *kind;
    struct lt_part *part; /* [kind * parts + interval] */
    uint64_t lag[LT_BUCKETS(LT_WHOLE_BITS)]; /* how late the generator itself was at an arrival */
    uint64_t lag_max_ns;
};

static inline size_t lt_bucket(uint64_t value, unsigned bits) {
    if (value > LT_MAX_NS) value = LT_MAX_NS;
    if (value < (UINT64_C(1) << bits)) return (size_t)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - bits;
    return ((size_t)(shift + 1) << bits) + (size_t)((value >> shift) - (UINT64_C(1) << bits));
}

/* The largest value that falls into the bucket. */
static inline uint64_t lt_bucket_top(size_t bucket, unsigned bits) {
    if (bucket < ((size_t)1 << bits)) return bucket;
    unsigned shift = (unsigned)(bucket >> bits) - 1u;
    uint64_t within = (bucket & (((size_t)1 << bits) - 1)) + (UINT64_C(1) << bits);
    return ((within + 1) << shift) - 1;
}

int lt_record_open(struct lt_record *record, size_t kinds, size_t parts, uint64_t part_ns);
void lt_record_close(struct lt_record *record);

/* An arrival at `at_ns` after the start that the generator noticed at `noticed_ns`. */
void lt_offer(struct lt_record *record, size_t kind, uint64_t at_ns, uint64_t noticed_ns);

/* A call that followed another, due when that had ended: nobody could be late for it. */
void lt_follow(struct lt_record *record, size_t kind, uint64_t at_ns);

/* Its end: `latency_ns` from the scheduled moment. A request that was given up counts with the time it had waited. */
void lt_finish(struct lt_record *record, size_t kind, uint64_t at_ns, uint64_t latency_ns, enum lt_error error,
               uint64_t bytes);

#endif
