/* See record.h. */
#include "record.h"

#include <stdlib.h>

int lt_record_open(struct lt_record *record, size_t kinds, size_t parts, uint64_t part_ns) {
    record->kinds = kinds;
    record->parts = parts;
    record->part_ns = part_ns;
    record->kind = calloc(kinds, sizeof *record->kind);
    record->part = calloc(kinds * parts, sizeof *record->part);
    return record->kind != NULL && record->part != NULL ? 0 : -1;
}

void lt_record_close(struct lt_record *record) {
    free(record->kind);
    free(record->part);
    record->kind = NULL;
    record->part = NULL;
}

static struct lt_part *part_at(struct lt_record *record, size_t kind, uint64_t at_ns) {
    uint64_t place = at_ns / record->part_ns;
    if (place >= record->parts) place = record->parts - 1;
    return &record->part[kind * record->parts + place];
}

void lt_offer(struct lt_record *record, size_t kind, uint64_t at_ns, uint64_t noticed_ns) {
    uint64_t lag = noticed_ns > at_ns ? noticed_ns - at_ns : 0;
    record->lag[lt_bucket(lag, LT_WHOLE_BITS)]++;
    if (lag > record->lag_max_ns) record->lag_max_ns = lag;
    part_at(record, kind, at_ns)->offered++;
}

void lt_follow(struct lt_record *record, size_t kind, uint64_t at_ns) { part_at(record, kind, at_ns)->offered++; }

void lt_finish(struct lt_record *record, size_t kind, uint64_t at_ns, uint64_t latency_ns, enum lt_error error,
               uint64_t bytes) {
    struct lt_kind *whole = &record->kind[kind];
    struct lt_part *part = part_at(record, kind, at_ns);
    whole->errors[error]++;
    whole->whole[lt_bucket(latency_ns, LT_WHOLE_BITS)]++;
    whole->sum_ns += latency_ns;
    whole->bytes += bytes;
    if (latency_ns > whole->max_ns) whole->max_ns = latency_ns;
    part->counts[lt_bucket(latency_ns, LT_PART_BITS)]++;
    if (error != LT_OK) part->errors++;
    if (error == LT_OK) part_at(record, kind, at_ns + latency_ns)->done++;
}
