/* An open-loop HTTP/1.1 generator on one thread: prepared requests, epoll, bounded connections.
 *
 * Requests go out in the order they were prepared, over and over, each at its scheduled moment. Where no connection is
 * free a request waits in its listener's queue: the wait is part of its latency. One request at a time is under way on a
 * connection. Answers are checked for status and size; one in `sample_every` is kept whole, for others to judge.
 *
 * Plain HTTP with Content-Length answers alone: no TLS, no chunks. Nothing here knows what a request means.
 */
#ifndef LOADTEST_DRIVER_H
#define LOADTEST_DRIVER_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "record.h"
#include "schedule.h"

struct lt_request {
    const uint8_t *data;
    uint32_t length;
    uint32_t patch_at, patch_length; /* octets that are random anew each time (a nonce); 0: none */
    uint32_t size_min, size_max;     /* of the answer's body */
    uint16_t kind, listener, status; /* status: what is expected */
};

/* One answer kept whole. Times are nanoseconds after the start. */
struct lt_sample {
    struct lt_sample *next;
    uint32_t request, status, patch_length, length;
    uint64_t sent_ns, done_ns;
    uint8_t octets[]; /* the patch as sent, then the body */
};

struct lt_options {
    const struct lt_request *request;
    size_t requests, listeners;
    const struct sockaddr_in *listener;
    size_t connections; /* of each listener */
    uint64_t timeout_ns;
    uint32_t sample_every;   /* 0: none */
    size_t sample_bytes;     /* of kept answers that nobody has fetched; more are left out */
    int closed;              /* closed loop, for comparison: each connection asks again when it was answered */
};

struct lt_driver {
    struct lt_options options;
    struct lt_record *record;
    struct lt_schedule *schedule;
    atomic_int stop;
    atomic_ullong done, faults, left_out;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t connect_failures;
    uint32_t odd_status; /* the last status that was not expected */
    pthread_mutex_t lock;
    struct lt_sample *first, **last;
    size_t held;
};

/* Runs to the end of the schedule, or until `stop` is set, and then until all is answered or has timed out.
 * 0, or an errno. */
int lt_driver_run(struct lt_driver *driver);

#endif
