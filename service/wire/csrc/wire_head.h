/* Reads the head of an HTTP/1.1 request that is written in the plainest way (RFC 9112).
 *
 * Owns nothing: one pass over bytes that belong to the caller, no allocation, no state between calls. Knows the grammar;
 * not routes, sockets or Python. What it takes it takes as every strict parser does. All the rest it does not judge: the
 * connection is to be given, from the first byte of that request on, to a parser that knows all of HTTP.
 */
#ifndef WIRE_HEAD_H
#define WIRE_HEAD_H

#include <stddef.h>
#include <stdint.h>

enum {
    WIRE_PARTIAL = 0, /* a beginning of something that may become WHOLE or FOREIGN: more bytes are needed */
    WIRE_WHOLE = 1,   /* the head is complete and fully understood; the fields of wire_head are set */
    WIRE_FOREIGN = 2, /* the head is complete and well-formed; it says something that is not handled here */
    WIRE_ODD = 3      /* outside the plain grammar or past a limit, whatever follows */
};

enum { WIRE_OTHER = 0, WIRE_GET = 1, WIRE_POST = 2 };

/* The longest head that is ever taken, in octets. */
enum { WIRE_HEAD_MAX = 8000 };

/* A run of octets of the head; `present` tells an empty value from none. */
typedef struct {
    uint32_t at, length;
    int present;
} wire_span;

typedef struct {
    int method;      /* WIRE_GET or WIRE_POST */
    wire_span target;
    uint32_t length; /* of the head, its empty line included */
    uint32_t body;   /* Content-Length; 0 where there is none (GET) */
    int close;       /* Connection: close */
    wire_span if_none_match, request_id, authorization, content_type;
} wire_head;

/* Reads the head at data[0..n). Out: *head, where WIRE_WHOLE is returned. Reads no byte past n. A head of more than
 * max_bytes (at most WIRE_HEAD_MAX counts) or max_fields fields is WIRE_ODD.
 *
 * WHOLE: GET without a body or POST with exactly one Content-Length (1 to 9 digits), HTTP/1.1, a target that begins
 * with "/" and has neither "?" nor "#", exactly one Host, no field twice of those that are looked at, Connection absent,
 * "close" or "keep-alive", lines that end with CRLF, values of visible ASCII, spaces and tabs.
 */
int wire_head_parse(const uint8_t *data, size_t n, size_t max_bytes, unsigned max_fields, wire_head *head);

#endif
