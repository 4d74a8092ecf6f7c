/* See wire_head.h. */
#include "wire_head.h"

#include <string.h>

/* Classes of octets: token (RFC 9110 §5.6.2), value (visible ASCII, SP, HTAB), target (visible ASCII but ? and #). */
enum { TOKEN = 1, VALUE = 2, TARGET = 4 };

#define TV (TOKEN | VALUE | TARGET)
#define VT (VALUE | TARGET)
static const uint8_t wire_class[256] = {
    ['\t'] = VALUE, [' '] = VALUE,
    ['!'] = TV, ['"'] = VT, ['#'] = VALUE | TOKEN, ['$'] = TV, ['%'] = TV, ['&'] = TV, ['\''] = TV, ['('] = VT,
    [')'] = VT, ['*'] = TV, ['+'] = TV, [','] = VT, ['-'] = TV, ['.'] = TV, ['/'] = VT,
    ['0'] = TV, ['1'] = TV, ['2'] = TV, ['3'] = TV, ['4'] = TV, ['5'] = TV, ['6'] = TV, ['7'] = TV, ['8'] = TV,
    ['9'] = TV,
    [':'] = VT, [';'] = VT, ['<'] = VT, ['='] = VT, ['>'] = VT, ['?'] = VALUE, ['@'] = VT,
    ['A'] = TV, ['B'] = TV, ['C'] = TV, ['D'] = TV, ['E'] = TV, ['F'] = TV, ['G'] = TV, ['H'] = TV, ['I'] = TV,
    ['J'] = TV, ['K'] = TV, ['L'] = TV, ['M'] = TV, ['N'] = TV, ['O'] = TV, ['P'] = TV, ['Q'] = TV, ['R'] = TV,
    ['S'] = TV, ['T'] = TV, ['U'] = TV, ['V'] = TV, ['W'] = TV, ['X'] = TV, ['Y'] = TV, ['Z'] = TV,
    ['['] = VT, ['\\'] = VT, [']'] = VT, ['^'] = TV, ['_'] = TV, ['`'] = TV,
    ['a'] = TV, ['b'] = TV, ['c'] = TV, ['d'] = TV, ['e'] = TV, ['f'] = TV, ['g'] = TV, ['h'] = TV, ['i'] = TV,
    ['j'] = TV, ['k'] = TV, ['l'] = TV, ['m'] = TV, ['n'] = TV, ['o'] = TV, ['p'] = TV, ['q'] = TV, ['r'] = TV,
    ['s'] = TV, ['t'] = TV, ['u'] = TV, ['v'] = TV, ['w'] = TV, ['x'] = TV, ['y'] = TV, ['z'] = TV,
    ['{'] = VT, ['|'] = TV, ['}'] = VT, ['~'] = TV,
};

/* Fields that are looked at. A name that is not here says nothing that matters to how a request is read. */
enum field {
    F_NONE,
    F_HOST,
    F_LENGTH,
    F_CONNECTION,
    F_IF_NONE_MATCH,
    F_REQUEST_ID,
    F_AUTHORIZATION,
    F_CONTENT_TYPE,
    F_USER_AGENT,
    F_FOREIGN /* changes how the request is framed or answered, or may not be repeated: not handled here */
};

typedef struct {
    const char *name; /* lower case */
    uint8_t length;
    uint8_t field;
} wire_name;

#define NAME(text, field) {text, sizeof(text) - 1, field}
static const wire_name wire_names[] = {
    NAME("host", F_HOST),
    NAME("content-length", F_LENGTH),
    NAME("connection", F_CONNECTION),
    NAME("content-type", F_CONTENT_TYPE),
    NAME("user-agent", F_USER_AGENT),
    NAME("if-none-match", F_IF_NONE_MATCH),
    NAME("x-request-id", F_REQUEST_ID),
    NAME("authorization", F_AUTHORIZATION),
    NAME("transfer-encoding", F_FOREIGN),
    NAME("expect", F_FOREIGN),
    NAME("upgrade", F_FOREIGN),
    NAME("te", F_FOREIGN),
    NAME("trailer", F_FOREIGN),
    NAME("range", F_FOREIGN),
    NAME("etag", F_FOREIGN),
    NAME("server", F_FOREIGN),
    NAME("keep-alive", F_FOREIGN),
    NAME("max-forwards", F_FOREIGN),
    NAME("content-encoding", F_FOREIGN),
    NAME("content-location", F_FOREIGN),
    NAME("content-range", F_FOREIGN),
    NAME("proxy-connection", F_FOREIGN),
    NAME("http2-settings", F_FOREIGN),
    NAME("sec-websocket-key1", F_FOREIGN),
};

/* Eight octets at once: x = 0x0101...01 * octet has that octet in each place. A test says whether any octet is so. */
#define EACH(octet) (UINT64_C(0x0101010101010101) * (octet))

static int wire_any_below(uint64_t x, uint8_t octet)
{
    return ((x - EACH(octet)) & ~x & EACH(0x80)) != 0;
}

static int wire_any_is(uint64_t x, uint8_t octet)
{
    return wire_any_below(x ^ EACH(octet), 1);
}

/* Skips octets of VALUE, eight at a time, up to eight that may have another (or HTAB, which the table knows). */
static size_t wire_skip_value(const uint8_t *data, size_t at, size_t n)
{
    uint64_t x;
    for (; n - at >= sizeof x; at += sizeof x) {
        memcpy(&x, data + at, sizeof x);
        if ((x & EACH(0x80)) != 0 || wire_any_below(x, ' ') || wire_any_is(x, 0x7F)) {
            break;
        }
    }
    return at;
}

/* The same of TARGET without SP. */
static size_t wire_skip_target(const uint8_t *data, size_t at, size_t n)
{
    uint64_t x;
    for (; n - at >= sizeof x; at += sizeof x) {
        memcpy(&x, data + at, sizeof x);
        if ((x & EACH(0x80)) != 0 || wire_any_below(x, '!') || wire_any_is(x, 0x7F) || wire_any_is(x, '?') ||
            wire_any_is(x, '#')) {
            break;
        }
    }
    return at;
}

static uint8_t wire_lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* Whether a[0..n) is b, whose letters are lower case, whatever the case of a. */
static int wire_same(const uint8_t *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (wire_lower(a[i]) != (uint8_t)b[i]) {
            return 0;
        }
    }
    return 1;
}

static enum field wire_field(const uint8_t *name, size_t n)
{
    const uint8_t first = wire_lower(name[0]);
    for (size_t i = 0; i < sizeof wire_names / sizeof wire_names[0]; i++) {
        const wire_name *known = &wire_names[i];
        if (known->length == n && (uint8_t)known->name[0] == first && wire_same(name, known->name, n)) {
            return (enum field)known->field;
        }
    }
    return F_NONE;
}

/* 1 to 9 digits; -1 otherwise. Fewer digits than a 32-bit number may have, so that nothing overflows. */
static int64_t wire_decimal(const uint8_t *p, size_t n)
{
    int64_t value = 0;
    if (n < 1 || n > 9) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return -1;
        }
        value = value * 10 + (p[i] - '0');
    }
    return value;
}

/* What is known of a request while its fields are read. */
typedef struct {
    wire_head *head;
    uint32_t seen; /* bit per enum field */
    int foreign;
} wire_state;

static void wire_keep(wire_span *span, size_t at, size_t n)
{
    span->at = (uint32_t)at;
    span->length = (uint32_t)n;
    span->present = 1;
}

/* Takes account of one field whose value is data[at..at+n), without the white space around it. */
static void wire_take(wire_state *state, enum field field, const uint8_t *data, size_t at, size_t n)
{
    int64_t length;
    if (field == F_NONE) {
        return;
    }
    if (field == F_FOREIGN || (state->seen >> field & 1) != 0) {
        state->foreign = 1;
        return;
    }
    state->seen |= (uint32_t)1 << field;
    switch (field) {
    case F_LENGTH:
        length = wire_decimal(data + at, n);
        if (length < 0) {
            state->foreign = 1;
        } else {
            state->head->body = (uint32_t)length;
        }
        break;
    case F_CONNECTION:
        if (n == 5 && wire_same(data + at, "close", 5)) {
            state->head->close = 1;
        } else if (n != 10 || !wire_same(data + at, "keep-alive", 10)) {
            state->foreign = 1;
        }
        break;
    case F_IF_NONE_MATCH:
        wire_keep(&state->head->if_none_match, at, n);
        break;
    case F_REQUEST_ID:
        wire_keep(&state->head->request_id, at, n);
        break;
    case F_AUTHORIZATION:
        wire_keep(&state->head->authorization, at, n);
        break;
    case F_CONTENT_TYPE:
        wire_keep(&state->head->content_type, at, n);
        break;
    default:
        break;
    }
}

/* The line "METHOD SP target SP HTTP/1.1 CRLF" at data[0..n). Returns where the next line begins, 0 for PARTIAL, -1 for
 * ODD; *foreign is set where the request is well-formed and not one of ours. */
static int64_t wire_request_line(const uint8_t *data, size_t n, wire_state *state)
{
    static const char version[] = "HTTP/1.";
    size_t at = 0, start;
    while (at < n && at < 24 && data[at] >= 'A' && data[at] <= 'Z') {
        at++;
    }
    if (at == n) {
        return 0;
    }
    if (at == 0 || data[at] != ' ') {
        return -1;
    }
    if (at == 3 && memcmp(data, "GET", 3) == 0) {
        state->head->method = WIRE_GET;
    } else if (at == 4 && memcmp(data, "POST", 4) == 0) {
        state->head->method = WIRE_POST;
    } else {
        state->foreign = 1;
    }
    start = ++at;
    at = wire_skip_target(data, at, n);
    while (at < n && (wire_class[data[at]] & VALUE) != 0 && data[at] > ' ') {
        if ((wire_class[data[at]] & TARGET) == 0) {
            state->foreign = 1;
        }
        at++;
    }
    if (at == n) {
        return 0;
    }
    if (at == start || data[at] != ' ') {
        return -1;
    }
    if (data[start] != '/') {
        state->foreign = 1;
    }
    wire_keep(&state->head->target, start, at - start);
    at++;
    for (size_t i = 0; i < 7; i++, at++) {
        if (at == n) {
            return 0;
        }
        if (data[at] != (uint8_t)version[i]) {
            return -1;
        }
    }
    if (at == n) {
        return 0;
    }
    if (data[at] == '0') {
        state->foreign = 1;
    } else if (data[at] != '1') {
        return -1;
    }
    at++;
    if (at == n) {
        return 0;
    }
    if (data[at] != '\r') {
        return -1;
    }
    if (at + 1 == n) {
        return 0;
    }
    return data[at + 1] == '\n' ? (int64_t)at + 2 : -1;
}

/* One field line at data[at..n). Returns as wire_request_line. */
static int64_t wire_field_line(const uint8_t *data, size_t at, size_t n, wire_state *state)
{
    const size_t name = at;
    size_t colon, end, next;
    while (at < n && (wire_class[data[at]] & TOKEN) != 0) {
        at++;
    }
    if (at == n) {
        return 0;
    }
    if (at == name || data[at] != ':') {
        return -1;
    }
    colon = at++;
    at = wire_skip_value(data, at, n);
    while (at < n && (wire_class[data[at]] & VALUE) != 0) {
        at++;
    }
    if (at == n) {
        return 0;
    }
    if (data[at] != '\r') {
        return -1;
    }
    if (at + 1 == n) {
        return 0;
    }
    if (data[at + 1] != '\n') {
        return -1;
    }
    next = at + 2;
    end = at;
    at = colon + 1;
    while (at < end && (data[at] == ' ' || data[at] == '\t')) {
        at++;
    }
    while (end > at && (data[end - 1] == ' ' || data[end - 1] == '\t')) {
        end--;
    }
    wire_take(state, wire_field(data + name, colon - name), data, at, end - at);
    return (int64_t)next;
}

int wire_head_parse(const uint8_t *data, size_t n, size_t max_bytes, unsigned max_fields, wire_head *head)
{
    wire_state state = {head, 0, 0};
    int64_t at;
    unsigned fields = 0;
    int unfinished = WIRE_PARTIAL;
    memset(head, 0, sizeof *head);
    if (max_bytes > WIRE_HEAD_MAX) {
        max_bytes = WIRE_HEAD_MAX;
    }
    if (n >= max_bytes) {
        n = max_bytes;
        unfinished = WIRE_ODD;
    }
    at = wire_request_line(data, n, &state);
    while (at > 0) {
        if ((size_t)at == n) {
            return unfinished;
        }
        if (data[at] == '\r') {
            if ((size_t)at + 1 == n) {
                return unfinished;
            }
            if (data[at + 1] != '\n') {
                return WIRE_ODD;
            }
            head->length = (uint32_t)at + 2;
            if (state.foreign || (state.seen >> F_HOST & 1) == 0 ||
                (state.seen >> F_LENGTH & 1) != (uint32_t)(head->method == WIRE_POST)) {
                return WIRE_FOREIGN;
            }
            return WIRE_WHOLE;
        }
        if (++fields > max_fields) {
            return WIRE_ODD;
        }
        at = wire_field_line(data, (size_t)at, n, &state);
    }
    return at == 0 ? unfinished : WIRE_ODD;
}
