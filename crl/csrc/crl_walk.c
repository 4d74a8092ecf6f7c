#include "crl_walk.h"

#include <stdlib.h>
#include <string.h>

int walk_take(walk_span *in, uint8_t tag, walk_span *body)
{
    const uint8_t *p = in->p;
    size_t left = (size_t)(in->end - p), length, octets, i;

    if (left < 2)
        return WALK_SHORT;
    if (p[0] != tag)
        return WALK_TAG;
    length = p[1];
    p += 2;
    left -= 2;
    if (length >= 0x80) {
        octets = length & 0x7f;
        if (octets < 1 || octets > 4)
            return WALK_LENGTH;
        if (octets > left)
            return WALK_SHORT;
        if (p[0] == 0)
            return WALK_LENGTH;
        for (length = 0, i = 0; i < octets; i++)
            length = length << 8 | p[i];
        if (length < 0x80)
            return WALK_LENGTH;
        p += octets;
        left -= octets;
    }
    if (length > left)
        return WALK_SHORT;
    body->p = p;
    body->end = p + length;
    in->p = body->end;
    return WALK_OK;
}

int walk_integer(walk_span *in, walk_span *contents)
{
    int error = walk_take(in, 0x02, contents);
    size_t n;

    if (error)
        return error;
    n = (size_t)(contents->end - contents->p);
    if (n < 1 || n > 20 || contents->p[0] & 0x80 || (n > 1 && contents->p[0] == 0 && !(contents->p[1] & 0x80)))
        return WALK_INTEGER;
    return WALK_OK;
}

static int64_t days_before(int year, int month)
{
    static const int BEFORE[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t y = year - 1, days = y * 365 + y / 4 - y / 100 + y / 400 + BEFORE[month - 1];

    return days + (month > 2 && (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))) - 719162;
}

static int digits_to_time(const uint8_t *p, size_t n, int64_t *seconds)
{
    static const int DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int field[7], count = (int)(n / 2), i, year, month, day, leap;

    if (n != 13 && n != 15)
        return WALK_TIME;
    if (p[n - 1] != 'Z')
        return WALK_TIME;
    for (i = 0; i < count; i++) {
        if (p[2 * i] < '0' || p[2 * i] > '9' || p[2 * i + 1] < '0' || p[2 * i + 1] > '9')
            return WALK_TIME;
        field[i] = (p[2 * i] - '0') * 10 + p[2 * i + 1] - '0';
    }
    if (n == 13)
        year = field[0] + (field[0] >= 50 ? 1900 : 2000);
    else
        year = field[0] * 100 + field[1];
    i = count - 5;
    month = field[i];
    day = field[i + 1];
    if (year < 1 || month < 1 || month > 12)
        return WALK_TIME;
    leap = month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day < 1 || day > DAYS[month - 1] + leap || field[i + 2] > 23 || field[i + 3] > 59 || field[i + 4] > 59)
        return WALK_TIME;
    *seconds = (days_before(year, month) + day - 1) * 86400 + field[i + 2] * 3600 + field[i + 3] * 60 + field[i + 4];
    return WALK_OK;
}

int walk_time(walk_span *in, int64_t *seconds, int *form_wrong)
{
    static const int64_t Y2050 = 2524608000;
    walk_span body;
    int general = in->p < in->end && *in->p == 0x18;
    int error = walk_take(in, general ? 0x18 : 0x17, &body);

    if (error)
        return error;
    if ((body.end - body.p) != (general ? 15 : 13))
        return WALK_TIME;
    error = digits_to_time(body.p, (size_t)(body.end - body.p), seconds);
    *form_wrong = !error && general != (*seconds >= Y2050);
    return error;
}

/* One crlEntryExtension (RFC 5280 section 5.3); seen: bits of those that were there. */
static int entry_extension(walk_span *in, walk_entry *entry, unsigned *seen)
{
    static const uint8_t REASON[] = {0x55, 0x1d, 0x15}, INVALIDITY[] = {0x55, 0x1d, 0x18};
    walk_span extension, oid, flag, value, inner;
    unsigned bit = 0;
    int error;

    if ((error = walk_take(in, 0x30, &extension)) || (error = walk_take(&extension, 0x06, &oid)))
        return error;
    if (extension.p < extension.end && *extension.p == 0x01) {
        if ((error = walk_take(&extension, 0x01, &flag)))
            return error;
        if (flag.end - flag.p != 1 || *flag.p != 0xff)
            return WALK_EXTENSION;
        entry->flags |= ENTRY_CRITICAL;
    }
    if ((error = walk_take(&extension, 0x04, &value)))
        return error;
    if (extension.p != extension.end)
        return WALK_TRAILING;
    if (oid.end - oid.p == 3 && memcmp(oid.p, REASON, 3) == 0) {
        bit = 1;
        if ((error = walk_take(&value, 0x0a, &inner)))
            return error;
        if (inner.end - inner.p != 1 || *inner.p == 7 || *inner.p > 10 || value.p != value.end)
            return WALK_EXTENSION;
        entry->reason = *inner.p;
    } else if (oid.end - oid.p == 3 && memcmp(oid.p, INVALIDITY, 3) == 0) {
        bit = 2;
        if ((error = walk_take(&value, 0x18, &inner)))
            return error;
        if (inner.end - inner.p != 15 || value.p != value.end)
            return WALK_TIME;
        if ((error = digits_to_time(inner.p, 15, &entry->invalidity_s)))
            return error;
    }
    if (*seen & bit)
        return WALK_EXTENSION;
    *seen |= bit;
    return WALK_OK;
}

int walk_next(walk_span *in, walk_entry *entry)
{
    walk_span body, extensions;
    unsigned seen = 0;
    int error, form_wrong;

    if ((error = walk_take(in, 0x30, &body)) || (error = walk_integer(&body, &entry->serial)))
        return error;
    entry->reason = 0;
    entry->flags = 0;
    entry->invalidity_s = WALK_NO_TIME;
    if ((error = walk_time(&body, &entry->revoked_s, &form_wrong)))
        return error;
    if (form_wrong)
        entry->flags |= ENTRY_TIME_FORM;
    if (body.p == body.end)
        return WALK_OK;
    if ((error = walk_take(&body, 0x30, &extensions)))
        return error;
    if (body.p != body.end)
        return WALK_TRAILING;
    if (extensions.p == extensions.end)
        return WALK_EXTENSION; /* SIZE (1..MAX) */
    while (extensions.p < extensions.end)
        if ((error = entry_extension(&extensions, entry, &seen)))
            return error;
    return WALK_OK;
}

static int number_order(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length)
{
    if (a_length != b_length)
        return a_length < b_length ? -1 : 1;
    return memcmp(a, b, a_length);
}

int walk_order(const walk_span *a, const walk_span *b)
{
    return number_order(a->p, (size_t)(a->end - a->p), b->p, (size_t)(b->end - b->p));
}

static int fact_order(const void *a, const void *b)
{
    const walk_fact *x = a, *y = b;
    int order = number_order(x->serial, x->length, y->serial, y->length);

    if (order)
        return order;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

size_t walk_facts_sort(walk_fact *facts, size_t n)
{
    walk_fact *to = facts;
    size_t i;

    if (n == 0)
        return 0;
    qsort(facts, n, sizeof *facts, fact_order);
    for (i = 1; i < n; i++) {
        const walk_fact *from = facts + i;
        if (number_order(to->serial, to->length, from->serial, from->length) != 0) {
            *++to = *from;
            continue;
        }
        /* The last change that is reflected counts; one that is not marks the serial as moving. A state alone has
         * position 0: it comes first, and what it says of the certificate stays. */
        if (from->kind != FACT_NONE)
            to->kind = from->kind;
        to->moving |= from->moving;
        to->seq = from->seq;
    }
    return (size_t)(to - facts) + 1;
}

/* A run of entries with its next one at hand. */
typedef struct {
    walk_span left;
    walk_entry entry;
    int there;
} cursor;

static void advance(cursor *c)
{
    /* What cannot be read was refused before any comparison. */
    c->there = c->left.p < c->left.end && walk_next(&c->left, &c->entry) == WALK_OK;
}

static cursor begin(walk_span entries)
{
    cursor c;

    memset(&c, 0, sizeof c);
    c.left = entries;
    advance(&c);
    return c;
}

static int same_entry(const walk_entry *a, const walk_entry *b)
{
    return a->revoked_s == b->revoked_s && a->reason == b->reason && a->invalidity_s == b->invalidity_s;
}

static int agrees(const walk_entry *entry, const walk_fact *fact)
{
    return fact->state == STATE_REVOKED && entry->revoked_s == fact->revoked_s && entry->reason == fact->reason &&
           entry->invalidity_s == fact->invalidity_s;
}

/* What is found at one serial, or -1. */
static int judge(const walk_entry *now, const walk_entry *before, const walk_fact *fact, int64_t kept_from_ms)
{
    int lapsed = fact && fact->known && fact->not_after_ms < kept_from_ms;

    if (!now && before) {
        if (fact && fact->kind == FACT_RELEASED)
            return -1;
        if (!fact || !fact->known)
            return FOUND_UNKNOWN;
        return lapsed ? -1 : FOUND_LOST;
    }
    if (now && !before) {
        if (fact && fact->moving)
            return -1;
        if (!fact || !fact->known)
            return FOUND_UNKNOWN;
        return agrees(now, fact) ? -1 : FOUND_WRONG;
    }
    if (now) {
        if (!fact)
            return same_entry(now, before) ? -1 : FOUND_WRONG;
        return fact->moving || agrees(now, fact) ? -1 : FOUND_WRONG;
    }
    return fact && fact->kind == FACT_LISTED && !lapsed ? FOUND_MISSING : -1;
}

static walk_span fact_serial(const walk_fact *fact)
{
    walk_span serial = {fact->serial, fact->serial + fact->length};

    return serial;
}

/* The lowest serial of those that are there; 0 where none is. */
static int lowest(walk_span *to, const cursor *a, const cursor *b, const walk_fact *fact)
{
    int found = 0;

    if (a->there) {
        *to = a->entry.serial;
        found = 1;
    }
    if (b->there && (!found || walk_order(&b->entry.serial, to) < 0)) {
        *to = b->entry.serial;
        found = 1;
    }
    if (fact) {
        walk_span serial = fact_serial(fact);
        if (!found || walk_order(&serial, to) < 0) {
            *to = serial;
            found = 1;
        }
    }
    return found;
}

static int is_at(const cursor *c, const walk_span *serial)
{
    return c->there && walk_order(&c->entry.serial, serial) == 0;
}

typedef int (*judge_fn)(const walk_entry *, const walk_entry *, const walk_fact *, int64_t);

static void three_ways(walk_span first, walk_span second, const walk_fact *facts, size_t n, int64_t kept_from_ms,
                       judge_fn decide, walk_found found, void *context)
{
    cursor a = begin(first), b = begin(second);
    const walk_fact *fact = facts, *last = facts + n;
    walk_span serial = {NULL, NULL};

    while (lowest(&serial, &a, &b, fact < last ? fact : NULL)) {
        walk_span of_fact = fact < last ? fact_serial(fact) : serial;
        int in_a = is_at(&a, &serial), in_b = is_at(&b, &serial);
        int has = fact < last && walk_order(&of_fact, &serial) == 0;
        int what = decide(in_a ? &a.entry : NULL, in_b ? &b.entry : NULL, has ? fact : NULL, kept_from_ms);
        if (what >= 0 && found(context, what, serial.p, (size_t)(serial.end - serial.p)))
            return;
        if (in_a)
            advance(&a);
        if (in_b)
            advance(&b);
        if (has)
            fact++;
    }
}

void walk_compare(walk_span now, walk_span before, const walk_fact *facts, size_t n, int64_t kept_from_ms,
                  walk_found found, void *context)
{
    three_ways(now, before, facts, n, kept_from_ms, judge, found, context);
}

enum { REMOVE_FROM_CRL = 8 };

static int contradicts(const walk_entry *delta, const walk_entry *full)
{
    return delta->reason == REMOVE_FROM_CRL ? full != NULL : full == NULL || !same_entry(delta, full);
}

static int judge_delta(const walk_entry *delta, const walk_entry *full, const walk_fact *fact, int64_t kept_from_ms)
{
    int lapsed = fact && fact->known && fact->not_after_ms < kept_from_ms;

    if (delta) {
        if (!fact || fact->kind == FACT_NONE)
            return FOUND_WRONG;
        if ((delta->reason == REMOVE_FROM_CRL) != (fact->kind == FACT_RELEASED))
            return FOUND_WRONG;
        return contradicts(delta, full) ? FOUND_WRONG : -1;
    }
    return fact && fact->kind != FACT_NONE && !lapsed ? FOUND_MISSING : -1;
}

void walk_compare_delta(walk_span delta, walk_span full, const walk_fact *facts, size_t n, int64_t kept_from_ms,
                        walk_found found, void *context)
{
    three_ways(delta, full, facts, n, kept_from_ms, judge_delta, found, context);
}

static int judge_contradiction(const walk_entry *delta, const walk_entry *full, const walk_fact *fact, int64_t from)
{
    (void)fact;
    (void)from;
    return delta && contradicts(delta, full) ? FOUND_WRONG : -1;
}

void walk_contradictions(walk_span delta, walk_span full, walk_found found, void *context)
{
    three_ways(delta, full, NULL, 0, 0, judge_contradiction, found, context);
}

static int judge_common(const walk_entry *a, const walk_entry *b, const walk_fact *fact, int64_t from)
{
    (void)fact;
    (void)from;
    return a && b ? FOUND_WRONG : -1;
}

void walk_common(walk_span a, walk_span b, walk_found found, void *context)
{
    three_ways(a, b, NULL, 0, 0, judge_common, found, context);
}
