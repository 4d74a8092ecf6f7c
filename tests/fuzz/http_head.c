/* Any octets: the reader of HTTP heads stays inside them, never takes back what it said when more octets come, and
 * agrees with a reader that looks for lines first. */
#define _GNU_SOURCE /* memmem */

#include "wire_head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void expect(int promise)
{
    if (!promise) {
        abort();
    }
}

/* How often a field of that name stands in the lines from `at` on; *value, *length: its last value. */
static int field(const uint8_t *data, size_t at, size_t end, const char *name, const uint8_t **value, size_t *length)
{
    int found = 0;
    while (at < end) {
        const uint8_t *line = data + at;
        const uint8_t *stop = memchr(line, '\n', end - at);
        const uint8_t *colon;
        expect(stop != NULL && stop > line && stop[-1] == '\r');
        colon = memchr(line, ':', (size_t)(stop - line));
        expect(colon != NULL && colon > line);
        if ((size_t)(colon - line) == strlen(name) && strncasecmp((const char *)line, name, strlen(name)) == 0) {
            const uint8_t *a = colon + 1, *b = stop - 1;
            while (a < b && (*a == ' ' || *a == '\t')) a++;
            while (b > a && (b[-1] == ' ' || b[-1] == '\t')) b--;
            *value = a;
            *length = (size_t)(b - a);
            found++;
        }
        at = (size_t)(stop + 1 - data);
    }
    return found;
}

static void whole(const uint8_t *data, size_t n, const wire_head *head)
{
    const uint8_t *value = NULL, *line;
    size_t length = 0, start;
    uint32_t size = 0;
    expect(head->length <= n && head->length >= 4 && memcmp(data + head->length - 4, "\r\n\r\n", 4) == 0);
    expect(memmem(data, head->length - 1, "\r\n\r\n", 4) == NULL);
    expect(memchr(data, 0, head->length) == NULL);
    line = memchr(data, '\n', head->length);
    expect(line != NULL && line - data >= 10 && memcmp(line - 10, " HTTP/1.1\r", 10) == 0);
    expect(memcmp(data, head->method == WIRE_GET ? "GET " : "POST ", head->method == WIRE_GET ? 4 : 5) == 0);
    expect(head->target.at + head->target.length == (size_t)(line - 10 - data) && data[head->target.at] == '/');
    start = (size_t)(line + 1 - data);
    expect(field(data, start, head->length - 2, "host", &value, &length) == 1);
    expect(field(data, start, head->length - 2, "transfer-encoding", &value, &length) == 0);
    expect(field(data, start, head->length - 2, "expect", &value, &length) == 0);
    expect(field(data, start, head->length - 2, "content-length", &value, &length) == (head->method == WIRE_POST));
    if (head->method == WIRE_POST) {
        expect(length >= 1 && length <= 9);
        for (size_t i = 0; i < length; i++) {
            expect(value[i] >= '0' && value[i] <= '9');
            size = size * 10 + (uint32_t)(value[i] - '0');
        }
    }
    expect(size == head->body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    wire_head head, later;
    int before = WIRE_PARTIAL;
    const int verdict = wire_head_parse(data, n, 1000, 16, &head);
    for (size_t end = 0; end <= n && end < 200; end++) {
        uint8_t *copy = malloc(end + 1); /* its end is where the sanitizer watches */
        int now;
        expect(copy != NULL);
        memcpy(copy, data, end);
        now = wire_head_parse(copy, end, 1000, 16, &later);
        expect(before == WIRE_PARTIAL || now == before);
        before = now;
        free(copy);
    }
    expect(n >= 200 || before == verdict);
    if (verdict == WIRE_WHOLE) {
        whole(data, n, &head);
    }
    return 0;
}
