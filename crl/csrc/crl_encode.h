/*
 * Entries of a CRL (RFC 5280 section 5.1.2.6) as DER, and the merge that brings a sorted run of them up to date.
 *
 * The writer's side: crl_walk.c, which judges what is written here, shares nothing with it.
 */
#ifndef CRL_ENCODE_H
#define CRL_ENCODE_H

#include <stddef.h>
#include <stdint.h>

#define CRL_SERIAL_MAX 20 /* octets of an INTEGER's contents, RFC 5280 section 4.1.2.2 */
#define CRL_ENTRY_MAX 96
#define CRL_NO_TIME INT64_MIN

/* The fresh octets at p are about to be written whole: large pages, where there are any, save a fault for each 4 KiB. */
void crl_expect(void *p, size_t length);

/* A serial as the contents of its INTEGER: minimal, with a leading zero where the top bit is set. */
typedef struct {
    uint8_t octets[CRL_SERIAL_MAX];
    uint8_t length;
} crl_serial;

/* to := the serial whose big-endian magnitude is n octets at p. 0, or -1 where it is not positive or too long. */
int crl_serial_set(crl_serial *to, const uint8_t *p, size_t n);

/* <0, 0, >0 as a is below, is, or is past b. */
int crl_serial_compare(const crl_serial *a, const crl_serial *b);

/*
 * out := one entry; CRL_ENTRY_MAX octets of room. reason 0: no reasonCode; invalidity_s CRL_NO_TIME: no
 * invalidityDate. Returns its length, or 0 where a time is outside the years 1950 to 9999.
 */
size_t crl_entry(uint8_t *out, const crl_serial *serial, int64_t revoked_s, int reason, int64_t invalidity_s);

/* One serial's present state: entry_length 0 takes it off. end_s: notAfter of its certificate, rounded up. */
typedef struct {
    crl_serial serial;
    uint8_t entry_length;
    uint8_t entry[CRL_ENTRY_MAX];
    uint32_t end_s;
} crl_change;

/* Sorts by serial; of several with the same one the last in the array is kept. Returns how many remain. */
size_t crl_changes_sort(crl_change *changes, size_t n);

typedef struct {
    uint8_t *out;          /* where entries go */
    uint32_t *ends;        /* where their ends go */
    size_t length, count;  /* what was written so far */
    const crl_change *next, *last;
    uint32_t kept_from_s;  /* entries that end before are left out */
} crl_merge;

/* Appends the `count` entries in `length` octets at p, brought up to date; runs come in ascending order. */
void crl_merge_run(crl_merge *m, const uint8_t *p, size_t length, const uint32_t *ends, size_t count);

/* Appends the changes past the last run. */
void crl_merge_finish(crl_merge *m);

#endif
