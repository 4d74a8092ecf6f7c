/* What the kernel takes: an answer for whatever arrives, by epoll, recv and send, without looking at it.
 *
 *     floor PORT FILE [close]
 *
 * Sends FILE (a whole HTTP answer) for each read on a connection to 127.0.0.1:PORT; with `close`, ends the connection
 * after it. One thread, one read and one write for each event, level-triggered. Nobody can be faster on this machine by
 * the same system calls, and nobody should be asked to: it neither reads requests nor bounds anything.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, ANSWER_MAX = 1 << 16, READ_MAX = 1 << 16 };

static char answer[ANSWER_MAX];
static char request[READ_MAX];

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static int listen_on(int port)
{
    const int on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
        bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 1024) != 0) {
        give_up("listen");
    }
    return listener;
}

static void watch(int epoll, int descriptor)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) != 0) {
        give_up("epoll_ctl");
    }
}

static void accept_all(int epoll, int listener)
{
    int one;
    while ((one = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        watch(epoll, one);
    }
}

int main(int count, char **words)
{
    struct epoll_event events[EVENTS];
    FILE *file = count < 3 ? NULL : fopen(words[2], "rb");
    size_t size;
    int epoll = epoll_create1(0), listener;
    if (file == NULL || epoll < 0) {
        give_up("floor PORT FILE [close]");
    }
    size = fread(answer, 1, sizeof answer, file);
    fclose(file);
    listener = listen_on(atoi(words[1]));
    watch(epoll, listener);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int one = events[i].data.fd;
            if (one == listener) {
                accept_all(epoll, listener);
            } else if (recv(one, request, sizeof request, 0) <= 0 || send(one, answer, size, MSG_NOSIGNAL) < 0 ||
                       count > 3) {
                close(one);
            }
        }
    }
}
