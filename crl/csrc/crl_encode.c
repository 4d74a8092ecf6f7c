#define _DEFAULT_SOURCE /* madvise */
#include "crl_encode.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void crl_expect(void *p, size_t length)
{
    const uintptr_t page = 4096;
    uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1), to = ((uintptr_t)p + length) & ~(page - 1);

    if (to > from && to - from >= (uintptr_t)4 << 20)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE); /* advice: what fails is as slow as without it */
}

int crl_serial_set(crl_serial *to, const uint8_t *p, size_t n)
{
    size_t pad;

    while (n > 0 && *p == 0) {
        p++;
        n--;
    }
    if (n == 0)
        return -1;
    pad = *p >> 7;
    if (n + pad > CRL_SERIAL_MAX)
        return -1;
    to->octets[0] = 0;
    memcpy(to->octets + pad, p, n);
    to->length = (uint8_t)(n + pad);
    return 0;
}

int crl_serial_compare(const crl_serial *a, const crl_serial *b)
{
    /* Minimal contents of positive numbers: the longer one is the larger one. */
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return memcmp(a->octets, b->octets, a->length);
}

static void two(uint8_t *out, unsigned value)
{
    out[0] = (uint8_t)('0' + value / 10);
    out[1] = (uint8_t)('0' + value % 10);
}

/* out := UTCTime or, from 2050 or where `general`, GeneralizedTime, with its header. Returns its length, 0 if none. */
static size_t put_time(uint8_t *out, int64_t seconds, int general)
{
    /* Days to a date of the Gregorian calendar, by eras of 400 years counted from 0000-03-01. */
    int64_t days = seconds / 86400, second = seconds % 86400, era, year;
    unsigned day_of_era, year_of_era, day_of_year, month, day;
    uint8_t *p = out + 2;

    if (second < 0) {
        second += 86400;
        days--;
    }
    days += 719468;
    if (days < 0)
        return 0;
    era = days / 146097;
    day_of_era = (unsigned)(days - era * 146097);
    year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    month = (5 * day_of_year + 2) / 153;
    day = day_of_year - (153 * month + 2) / 5 + 1;
    year = (int64_t)year_of_era + era * 400 + (month >= 10);
    month = month < 10 ? month + 3 : month - 9;
    if (year < (general ? 1 : 1950) || year > 9999)
        return 0;
    if (general || year >= 2050) {
        two(p, (unsigned)year / 100);
        p += 2;
        general = 1;
    }
    two(p, (unsigned)year % 100);
    two(p + 2, month);
    two(p + 4, day);
    two(p + 6, (unsigned)second / 3600);
    two(p + 8, (unsigned)second / 60 % 60);
    two(p + 10, (unsigned)second % 60);
    p[12] = 'Z';
    out[0] = general ? 0x18 : 0x17;
    out[1] = general ? 15 : 13;
    return general ? 17 : 15;
}

size_t crl_entry(uint8_t *out, const crl_serial *serial, int64_t revoked_s, int reason, int64_t invalidity_s)
{
    static const uint8_t REASON[] = {0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x15, 0x04, 0x03, 0x0a, 0x01};
    static const uint8_t INVALIDITY[] = {0x30, 0x18, 0x06, 0x03, 0x55, 0x1d, 0x18, 0x04, 0x11};
    uint8_t *p = out + 2, *extensions;
    size_t n;

    *p++ = 0x02;
    *p++ = serial->length;
    memcpy(p, serial->octets, serial->length);
    p += serial->length;
    n = put_time(p, revoked_s, 0);
    if (n == 0)
        return 0;
    p += n;
    extensions = p;
    if (reason || invalidity_s != CRL_NO_TIME) {
        p += 2;
        if (reason) {
            memcpy(p, REASON, sizeof REASON);
            p += sizeof REASON;
            *p++ = (uint8_t)reason;
        }
        if (invalidity_s != CRL_NO_TIME) {
            memcpy(p, INVALIDITY, sizeof INVALIDITY);
            p += sizeof INVALIDITY;
            n = put_time(p, invalidity_s, 1);
            if (n == 0)
                return 0;
            p += n;
        }
        extensions[0] = 0x30;
        extensions[1] = (uint8_t)(p - extensions - 2);
    }
    /* At most 22 + 17 + 2 + 12 + 26 octets: every length here is one octet. */
    out[0] = 0x30;
    out[1] = (uint8_t)(p - out - 2);
    return (size_t)(p - out);
}

/* By serial, and by place in the array where that is the same: places are by address while none has moved. */
static int by_serial(const void *a, const void *b)
{
    const crl_change *const *x = a, *const *y = b;
    int order = crl_serial_compare(&(*x)->serial, &(*y)->serial);

    if (order)
        return order;
    return *x < *y ? -1 : 1;
}

size_t crl_changes_sort(crl_change *changes, size_t n)
{
    crl_change **order, *sorted;
    size_t i, kept = 0;

    if (n < 2)
        return n;
    order = malloc(n * sizeof *order);
    sorted = malloc(n * sizeof *sorted);
    if (order == NULL || sorted == NULL) {
        free(order);
        free(sorted);
        return SIZE_MAX;
    }
    for (i = 0; i < n; i++)
        order[i] = changes + i;
    qsort(order, n, sizeof *order, by_serial);
    for (i = 0; i < n; i++) {
        if (i + 1 < n && crl_serial_compare(&order[i]->serial, &order[i + 1]->serial) == 0)
            continue;
        sorted[kept++] = *order[i];
    }
    memcpy(changes, sorted, kept * sizeof *sorted);
    free(order);
    free(sorted);
    return kept;
}

static void put_change(crl_merge *m)
{
    const crl_change *change = m->next++;

    if (change->entry_length == 0 || change->end_s < m->kept_from_s)
        return;
    memcpy(m->out + m->length, change->entry, change->entry_length);
    m->length += change->entry_length;
    m->ends[m->count++] = change->end_s;
}

static uint64_t first_eight(const uint8_t *p)
{
    uint64_t x;

    memcpy(&x, p, sizeof x);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

/* The order of the entry at p, as this file wrote it, and the next change. Asked a million times where few differ. */
static int entry_order(const uint8_t *p, const crl_change *change)
{
    if (p[3] != change->serial.length)
        return p[3] < change->serial.length ? -1 : 1;
    if (p[3] >= 8) {
        uint64_t x = first_eight(p + 4), y = first_eight(change->serial.octets);

        if (x != y)
            return x < y ? -1 : 1;
    }
    return memcmp(p + 4, change->serial.octets, p[3]);
}

static void put_run(crl_merge *m, const uint8_t *p, const uint8_t *end, const uint32_t *ends, size_t count)
{
    if (count == 0)
        return;
    memcpy(m->out + m->length, p, (size_t)(end - p));
    memcpy(m->ends + m->count, ends, count * sizeof *ends);
    m->length += (size_t)(end - p);
    m->count += count;
}

void crl_merge_run(crl_merge *m, const uint8_t *p, size_t length, const uint32_t *ends, size_t count)
{
    const uint8_t *run = p;
    size_t i, from = 0;
    uint32_t first = UINT32_MAX;
    int order;

    for (i = 0; i < count; i++)
        first = ends[i] < first ? ends[i] : first;
    if (m->next == m->last && first >= m->kept_from_s) {
        put_run(m, p, p + length, ends, count);
        return;
    }
    for (i = 0; i < count; i++, p += p[1] + 2) {
        order = -1;
        while (m->next < m->last && (order = entry_order(p, m->next)) > 0) {
            put_run(m, run, p, ends + from, i - from);
            run = p;
            from = i;
            put_change(m);
        }
        if (m->next == m->last)
            order = -1;
        if (order != 0 && ends[i] >= m->kept_from_s)
            continue;
        put_run(m, run, p, ends + from, i - from);
        run = p + p[1] + 2;
        from = i + 1;
        if (order == 0)
            put_change(m);
    }
    put_run(m, run, p, ends + from, count - from);
}

void crl_merge_finish(crl_merge *m)
{
    while (m->next < m->last)
        put_change(m);
}
