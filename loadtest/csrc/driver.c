/* See driver.h. */
#define _GNU_SOURCE
#include "driver.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 16384, BODY_BYTES = 1 << 28, QUEUE = 1 << 17, EVENTS = 256, SWEEP_NS = 5000000, PAUSE_NS = 10000000 };
enum state { DOWN, CONNECTING, IDLE, BUSY };

struct waiting {
    uint64_t at_ns;
    uint32_t request;
    uint32_t again; /* it was sent once on a connection that was closed before a word of answer */
};

struct connection {
    enum state state;
    int fd;
    uint32_t listener, served;
    struct waiting work;
    uint64_t sent_ns, since_ns;
    size_t written;
    uint8_t *out; /* of a request with a patch: its own copy */
    size_t out_size;
    /* the answer */
    size_t head, body, length;
    unsigned status;
    int in_body, last, sampled;
    struct lt_sample *sample;
    char buffer[HEAD_BYTES];
};

struct pool {
    struct waiting *queue;
    size_t first, count;
    uint32_t *idle;
    size_t idles, downs;
};

struct run {
    struct lt_driver *driver;
    struct connection *connection;
    struct pool *pool;
    size_t connections, next_request;
    int epoll, timer;
    uint64_t until_sample, due, swept_ns, armed;
    uint64_t under_way;
};

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t since_start(const struct run *run) {
    uint64_t now = clock_ns();
    return now > run->driver->start_ns ? now - run->driver->start_ns : 0;
}

static void ended(struct run *run, const struct waiting *work, uint64_t now, enum lt_error error, uint64_t bytes) {
    const struct lt_request *request = &run->driver->options.request[work->request];
    lt_finish(run->driver->record, request->kind, work->at_ns, now > work->at_ns ? now - work->at_ns : 0, error, bytes);
    atomic_fetch_add_explicit(&run->driver->done, 1, memory_order_relaxed);
    if (error != LT_OK) atomic_fetch_add_explicit(&run->driver->faults, 1, memory_order_relaxed);
    run->under_way--;
}

static void push(struct run *run, struct pool *pool, const struct waiting *work, int front) {
    if (pool->count == QUEUE) { /* counts with the age of the oldest: it would have waited at least about as long */
        ended(run, work, work->at_ns + (since_start(run) - pool->queue[pool->first].at_ns), LT_OVERFLOW, 0);
        return;
    }
    if (front) pool->first = (pool->first + QUEUE - 1) % QUEUE;
    pool->queue[front ? pool->first : (pool->first + pool->count) % QUEUE] = *work;
    pool->count++;
}

/* ---- connections */

static void dropped(struct run *run, struct connection *c) {
    if (c->state == IDLE) {
        struct pool *pool = &run->pool[c->listener];
        for (size_t at = 0; at < pool->idles; at++)
            if (&run->connection[pool->idle[at]] == c) pool->idle[at] = pool->idle[--pool->idles];
    }
    if (c->fd >= 0) close(c->fd);
    free(c->sample);
    c->sample = NULL;
    c->fd = -1;
    c->state = DOWN;
    c->served = 0;
    c->since_ns = clock_ns();
    run->pool[c->listener].downs++;
}

static void freed(struct run *run, struct connection *c) {
    struct pool *pool = &run->pool[c->listener];
    c->state = IDLE;
    pool->idle[pool->idles++] = (uint32_t)(c - run->connection);
}

static void opened(struct run *run, struct connection *c) {
    const struct sockaddr_in *address = &run->driver->options.listener[c->listener];
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    run->pool[c->listener].downs--;
    c->state = CONNECTING;
    c->since_ns = clock_ns();
    if (c->fd < 0 || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        epoll_ctl(run->epoll, EPOLL_CTL_ADD, c->fd, &event) != 0 ||
        (connect(c->fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno != EINPROGRESS)) {
        run->driver->connect_failures++;
        dropped(run, c);
    }
}

/* The request under way on a connection fails; one that a kept-alive connection swallowed unread is sent once more. */
static void broken(struct run *run, struct connection *c, enum lt_error error) {
    if (c->state == BUSY) {
        struct waiting work = c->work;
        if (error == LT_CLOSED && c->head == 0 && c->served > 0 && !work.again) {
            work.again = 1;
            push(run, &run->pool[c->listener], &work, 1);
        } else {
            ended(run, &work, since_start(run), error, c->body);
        }
    }
    dropped(run, c);
}

/* ---- sending */

static void written(struct run *run, struct connection *c) {
    const struct lt_request *request = &run->driver->options.request[c->work.request];
    const uint8_t *data = request->patch_length != 0 ? c->out : request->data;
    while (c->written < request->length) {
        ssize_t n = send(c->fd, data + c->written, request->length - c->written, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) broken(run, c, LT_CLOSED);
            return;
        }
        c->written += (size_t)n;
    }
}

static int patched(struct run *run, struct connection *c, const struct lt_request *request) {
    if (c->out_size < request->length) {
        uint8_t *larger = realloc(c->out, request->length);
        if (larger == NULL) return -1;
        c->out = larger;
        c->out_size = request->length;
    }
    memcpy(c->out, request->data, request->length);
    for (uint32_t at = 0; at < request->patch_length; at += 8) {
        uint64_t bits = lt_random(run->driver->schedule->random);
        uint32_t left = request->patch_length - at;
        memcpy(c->out + request->patch_at + at, &bits, left < 8 ? left : 8);
    }
    return 0;
}

static void begun(struct run *run, struct connection *c, const struct waiting *work) {
    const struct lt_options *options = &run->driver->options;
    const struct lt_request *request = &options->request[work->request];
    c->state = BUSY;
    c->work = *work;
    c->written = c->head = c->body = c->length = 0;
    c->status = 0;
    c->in_body = c->last = 0;
    c->sampled = options->sample_every != 0 && ++run->until_sample % options->sample_every == 0;
    c->since_ns = clock_ns();
    c->sent_ns = c->since_ns - run->driver->start_ns;
    if (request->patch_length != 0 && patched(run, c, request) != 0) broken(run, c, LT_PROTOCOL);
    else written(run, c);
}

static void served(struct run *run, struct pool *pool) {
    while (pool->count != 0 && pool->idles != 0) {
        struct waiting work = pool->queue[pool->first];
        pool->first = (pool->first + 1) % QUEUE;
        pool->count--;
        begun(run, &run->connection[pool->idle[--pool->idles]], &work);
    }
}

/* ---- answers */

static void kept(struct run *run, struct connection *c, uint64_t now) {
    struct lt_driver *driver = run->driver;
    struct lt_sample *sample = c->sample;
    c->sample = NULL;
    sample->status = c->status;
    sample->done_ns = now;
    pthread_mutex_lock(&driver->lock);
    if (driver->held + sample->length > driver->options.sample_bytes) {
        atomic_fetch_add_explicit(&driver->left_out, 1, memory_order_relaxed);
        free(sample);
    } else {
        driver->held += sample->length;
        *driver->last = sample;
        driver->last = &sample->next;
    }
    pthread_mutex_unlock(&driver->lock);
}

static void completed(struct run *run, struct connection *c) {
    const struct lt_request *request = &run->driver->options.request[c->work.request];
    uint64_t now = since_start(run);
    enum lt_error error = LT_OK;
    if (c->status != request->status) {
        error = LT_STATUS;
        run->driver->odd_status = c->status;
    } else if (c->length < request->size_min || c->length > request->size_max) {
        error = LT_SIZE;
    }
    if (c->sample != NULL && error == LT_OK) kept(run, c, now);
    free(c->sample);
    c->sample = NULL;
    ended(run, &c->work, now, error, c->body);
    c->served++;
    if (c->last) {
        c->state = CONNECTING; /* nothing under way any more */
        dropped(run, c);
    } else {
        freed(run, c);
        served(run, &run->pool[c->listener]);
    }
}

static int field_is(const char *line, const char *name, const char **value) {
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0) return 0;
    *value = line + length;
    while (**value == ' ' || **value == '\t') ++*value;
    return 1;
}

/* Reads a whole head, ended by a NUL; -1 where it is not one that is understood. */
static int headed(struct connection *c) {
    const char *value;
    int known = 0;
    if (strncmp(c->buffer, "HTTP/1.1 ", 9) != 0) return -1;
    c->status = (unsigned)strtoul(c->buffer + 9, NULL, 10);
    for (char *line = strstr(c->buffer, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (field_is(line, "content-length:", &value)) {
            c->length = strtoul(value, NULL, 10);
            known = 1;
        } else if (field_is(line, "transfer-encoding:", &value)) {
            return -1;
        } else if (field_is(line, "connection:", &value) && strncasecmp(value, "close", 5) == 0) {
            c->last = 1;
        }
    }
    if (c->status == 304 || c->status == 204) c->length = 0;
    return c->length <= BODY_BYTES && (known || c->length == 0) ? 0 : -1;
}

static int sampled(struct connection *c, const struct lt_request *request) {
    struct lt_sample *sample = calloc(1, sizeof *sample + request->patch_length + c->length);
    if (sample == NULL) return -1;
    sample->request = c->work.request;
    sample->patch_length = request->patch_length;
    sample->length = (uint32_t)(request->patch_length + c->length);
    sample->sent_ns = c->sent_ns;
    if (request->patch_length != 0) memcpy(sample->octets, c->out + request->patch_at, request->patch_length);
    c->sample = sample;
    return 0;
}

/* Takes octets of the body; 1 where the answer is complete, -1 where there are more than it said. */
static int took(struct connection *c, const char *data, size_t n) {
    if (c->body + n > c->length) return -1;
    if (c->sample != NULL) memcpy(c->sample->octets + c->sample->patch_length + c->body, data, n);
    c->body += n;
    return c->body == c->length;
}

/* 1: complete; 0: more is to come; -1: not understood. */
static int heard(struct run *run, struct connection *c, size_t n) {
    if (c->in_body) return took(c, c->buffer, n);
    size_t from = c->head > 3 ? c->head - 3 : 0;
    c->head += n;
    char *end = memmem(c->buffer + from, c->head - from, "\r\n\r\n", 4);
    if (end == NULL) return c->head < HEAD_BYTES - 1 ? 0 : -1;
    end[2] = '\0';
    if (headed(c) != 0) return -1;
    c->in_body = 1;
    if (c->sampled && sampled(c, &run->driver->options.request[c->work.request]) != 0) return -1;
    return took(c, end + 4, (size_t)(c->buffer + c->head - (end + 4)));
}

static void readable(struct run *run, struct connection *c) {
    while (c->fd >= 0) {
        char *at = c->in_body ? c->buffer : c->buffer + c->head;
        size_t room = c->in_body ? HEAD_BYTES : HEAD_BYTES - 1 - c->head;
        if (c->state != BUSY) at = c->buffer, room = 1;
        ssize_t n = recv(c->fd, at, room, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0 || c->state != BUSY) {
            broken(run, c, n <= 0 ? LT_CLOSED : LT_PROTOCOL);
            return;
        }
        int told = heard(run, c, (size_t)n);
        if (told < 0) broken(run, c, LT_PROTOCOL);
        else if (told > 0) completed(run, c);
        if (told != 0 && (size_t)n < room) return; /* nothing more was there; a new request may be under way */
    }
}

static void happened(struct run *run, const struct epoll_event *event) {
    struct connection *c = event->data.ptr;
    if (c == NULL) { /* the timer */
        uint64_t times;
        if (read(run->timer, &times, sizeof times) < 0) return;
        run->armed = 0;
        return;
    }
    if (c->fd < 0) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0 || event->events & (EPOLLERR | EPOLLHUP)) {
            run->driver->connect_failures++;
            dropped(run, c);
        } else if (event->events & EPOLLOUT) {
            freed(run, c);
            served(run, &run->pool[c->listener]);
        }
        return;
    }
    if (event->events & EPOLLOUT && c->state == BUSY) written(run, c);
    if (c->fd >= 0 && event->events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(run, c);
}

/* ---- the loop */

/* Gives up what took too long, and opens connections that are missing. */
static void swept(struct run *run, uint64_t clock) {
    const struct lt_options *options = &run->driver->options;
    uint64_t now = clock - run->driver->start_ns;
    if (clock - run->swept_ns < SWEEP_NS) return;
    run->swept_ns = clock;
    for (size_t at = 0; at < run->connections; at++) {
        struct connection *c = &run->connection[at];
        uint64_t age = clock - c->since_ns;
        if (c->state == BUSY && age > options->timeout_ns) broken(run, c, LT_TIMEOUT);
        else if (c->state == CONNECTING && age > options->timeout_ns) dropped(run, c);
        else if (c->state == DOWN && age > PAUSE_NS) opened(run, c);
    }
    for (size_t at = 0; at < options->listeners; at++) {
        struct pool *pool = &run->pool[at];
        while (pool->count != 0 && now > pool->queue[pool->first].at_ns + options->timeout_ns) {
            struct waiting work = pool->queue[pool->first];
            pool->first = (pool->first + 1) % QUEUE;
            pool->count--;
            ended(run, &work, now, LT_TIMEOUT, 0);
        }
    }
}

static void arrived(struct run *run, uint64_t now) {
    const struct lt_options *options = &run->driver->options;
    struct waiting work = {options->closed ? now : run->due, (uint32_t)run->next_request, 0};
    const struct lt_request *request = &options->request[work.request];
    run->next_request = (run->next_request + 1) % options->requests;
    run->under_way++;
    lt_offer(run->driver->record, request->kind, work.at_ns, now);
    push(run, &run->pool[request->listener], &work, 0);
    served(run, &run->pool[request->listener]);
}

/* Requests that are due: by schedule, or, in a closed loop, one for each connection that is free. */
static void admitted(struct run *run) {
    const struct lt_options *options = &run->driver->options;
    uint64_t now = since_start(run);
    if (atomic_load_explicit(&run->driver->stop, memory_order_relaxed)) run->due = UINT64_MAX;
    if (options->closed) {
        if (now > (uint64_t)(run->driver->schedule->end * 1e9)) run->due = UINT64_MAX;
        for (size_t n = 0; n < EVENTS && run->due != UINT64_MAX; n++) {
            struct pool *pool = &run->pool[options->request[run->next_request].listener];
            if (pool->idles == 0) return;
            arrived(run, now);
        }
        return;
    }
    for (size_t n = 0; n < EVENTS && run->due <= now; n++) {
        arrived(run, now);
        run->due = lt_schedule_next(run->driver->schedule);
    }
}

/* How long epoll may sleep; a moment between arrivals is told to the timer, which is finer than a millisecond. */
static int patience(struct run *run) {
    uint64_t now = since_start(run);
    if (run->due == UINT64_MAX || run->driver->options.closed) return 5;
    if (run->due <= now) return 0;
    if (run->armed != run->due) {
        uint64_t at = run->driver->start_ns + run->due;
        struct itimerspec when = {{0, 0}, {(time_t)(at / 1000000000u), (long)(at % 1000000000u)}};
        timerfd_settime(run->timer, TFD_TIMER_ABSTIME, &when, NULL);
        run->armed = run->due;
    }
    return 5;
}

static void turn(struct run *run) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(run->epoll, events, EVENTS, patience(run));
    for (int at = 0; at < n; at++) happened(run, &events[at]);
    admitted(run);
    swept(run, clock_ns());
}

/* All connections are made before the clock starts, or those that can be within two seconds. */
static void warmed(struct run *run) {
    uint64_t began = clock_ns();
    run->due = UINT64_MAX;
    for (size_t at = 0; at < run->connections; at++) opened(run, &run->connection[at]);
    while (clock_ns() - began < 2000000000u) {
        size_t idle = 0;
        struct epoll_event events[EVENTS];
        int n = epoll_wait(run->epoll, events, EVENTS, 5);
        for (int at = 0; at < n; at++) happened(run, &events[at]);
        for (size_t at = 0; at < run->driver->options.listeners; at++) idle += run->pool[at].idles;
        if (idle == run->connections || n == 0) break;
    }
}

static int prepared(struct run *run) {
    const struct lt_options *options = &run->driver->options;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    run->connections = options->connections * options->listeners;
    run->connection = calloc(run->connections, sizeof *run->connection);
    run->pool = calloc(options->listeners, sizeof *run->pool);
    run->epoll = epoll_create1(EPOLL_CLOEXEC);
    run->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (run->connection == NULL || run->pool == NULL) return ENOMEM;
    if (run->epoll < 0 || run->timer < 0) return errno;
    for (size_t at = 0; at < options->listeners; at++) {
        run->pool[at].queue = malloc(QUEUE * sizeof *run->pool[at].queue);
        run->pool[at].idle = calloc(options->connections, sizeof *run->pool[at].idle);
        if (run->pool[at].queue == NULL || run->pool[at].idle == NULL) return ENOMEM;
        run->pool[at].downs = options->connections;
    }
    for (size_t at = 0; at < run->connections; at++) {
        run->connection[at].fd = -1;
        run->connection[at].listener = (uint32_t)(at / options->connections);
    }
    return epoll_ctl(run->epoll, EPOLL_CTL_ADD, run->timer, &event) == 0 ? 0 : errno;
}

static void released(struct run *run) {
    for (size_t at = 0; run->connection != NULL && at < run->connections; at++) {
        if (run->connection[at].fd >= 0) close(run->connection[at].fd);
        free(run->connection[at].sample);
        free(run->connection[at].out);
    }
    for (size_t at = 0; run->pool != NULL && at < run->driver->options.listeners; at++) {
        free(run->pool[at].queue);
        free(run->pool[at].idle);
    }
    free(run->connection);
    free(run->pool);
    if (run->epoll >= 0) close(run->epoll);
    if (run->timer >= 0) close(run->timer);
}

int lt_driver_run(struct lt_driver *driver) {
    struct run run = {.driver = driver, .epoll = -1, .timer = -1};
    int error = prepared(&run);
    if (error == 0) {
        driver->start_ns = clock_ns();
        warmed(&run);
        driver->start_ns = run.swept_ns = clock_ns();
        run.due = driver->options.closed ? 0 : lt_schedule_next(driver->schedule);
        while (run.due != UINT64_MAX || run.under_way != 0) turn(&run);
    }
    released(&run);
    return error;
}
