/*
 * Reads CRLs as an outsider: strict DER (X.690 section 10), RFC 5280 section 5. Shares nothing with crl_encode.c.
 *
 * Nothing here trusts a length; nothing is kept but where things are.
 */
#ifndef CRL_WALK_H
#define CRL_WALK_H

#include <stddef.h>
#include <stdint.h>

#define WALK_NO_TIME INT64_MIN

enum {
    WALK_OK = 0,
    WALK_SHORT = -1,    /* it ends early */
    WALK_TAG = -2,      /* another tag than belongs there */
    WALK_LENGTH = -3,   /* a length that is indefinite, too long or not minimal */
    WALK_INTEGER = -4,  /* an INTEGER that is empty, padded, negative or too long */
    WALK_TIME = -5,     /* no time of RFC 5280 section 4.1.2.5 */
    WALK_EXTENSION = -6, /* an extension that is malformed or there twice */
    WALK_TRAILING = -7  /* something follows */
};

typedef struct {
    const uint8_t *p, *end;
} walk_span;

/* Takes the next element off `in`, which must have `tag`; body := its contents. */
int walk_take(walk_span *in, uint8_t tag, walk_span *body);

/* Takes a Time (either form); form_wrong := 1 where RFC 5280 wants the other form. */
int walk_time(walk_span *in, int64_t *seconds, int *form_wrong);

/* Takes a non-negative INTEGER of at most 20 octets. */
int walk_integer(walk_span *in, walk_span *contents);

/* Flags of an entry. */
enum { ENTRY_CRITICAL = 1, ENTRY_TIME_FORM = 2 };

typedef struct {
    walk_span serial; /* the INTEGER's contents */
    int64_t revoked_s, invalidity_s;
    int reason; /* 0 where there is none */
    unsigned flags;
} walk_entry;

/* Takes the next entry of revokedCertificates off `in`. */
int walk_next(walk_span *in, walk_entry *entry);

/* By number. */
int walk_order(const walk_span *a, const walk_span *b);

enum { FACT_NONE = 0, FACT_LISTED = 1, FACT_RELEASED = 2 };
enum { STATE_NONE = 0, STATE_GOOD = 1, STATE_REVOKED = 2 };

/* What the store says of one serial. */
typedef struct {
    uint8_t serial[20];
    uint8_t length;
    uint8_t kind;    /* the last change that the CRL claims to reflect */
    uint8_t moving;  /* it changed again since */
    uint8_t state;   /* STATE_REVOKED also for held */
    uint8_t reason;
    uint8_t known;   /* state and what follows were read */
    int64_t seq;
    int64_t revoked_s, invalidity_s, not_after_ms;
} walk_fact;

/* Sorts by serial and seq and makes one of those with the same serial; returns how many there are then. */
size_t walk_facts_sort(walk_fact *facts, size_t n);

/* What a comparison finds at one serial. */
enum { FOUND_LOST, FOUND_MISSING, FOUND_WRONG, FOUND_UNKNOWN, FOUND_KINDS };

/* Called for each find; another value than 0 ends the comparison. */
typedef int (*walk_found)(void *context, int kind, const uint8_t *serial, size_t length);

/*
 * Compares a full CRL's entries with those of the one before it (empty where there is none) and with the facts, all
 * three in ascending order. kept_from_ms: entries whose certificate ended before may be gone.
 */
void walk_compare(walk_span now, walk_span before, const walk_fact *facts, size_t n, int64_t kept_from_ms,
                  walk_found found, void *context);

/* Compares a delta's entries with the full CRL's of the same number and with the facts since its base. */
void walk_compare_delta(walk_span delta, walk_span full, const walk_fact *facts, size_t n, int64_t kept_from_ms,
                        walk_found found, void *context);

/* FOUND_WRONG for entries of `delta` that contradict `full`; both ascending. */
void walk_contradictions(walk_span delta, walk_span full, walk_found found, void *context);

/* FOUND_WRONG for serials in both; both ascending. */
void walk_common(walk_span a, walk_span b, walk_found found, void *context);

#endif
