/* Arrivals by schedule: when each request is due, whatever became of those before it.
 *
 * The rate is piecewise linear in time: points (second, requests/s), held after the last. Arrivals are the moments at
 * which the integral of the rate passes the next whole number (even), or the sum of exponential gaps of mean 1 (Poisson:
 * a process of independent arrivals whose rate follows the same curve).
 */
#ifndef LOADTEST_SCHEDULE_H
#define LOADTEST_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

struct lt_schedule {
    const double *second, *rate; /* `points` of each, seconds ascending from 0 */
    size_t points, segment;
    double now, end; /* seconds */
    int poisson;
    uint64_t random[4];
};

void lt_schedule_open(struct lt_schedule *schedule, const double *second, const double *rate, size_t points, double end,
                      int poisson, uint64_t seed);

/* Nanoseconds from the start to the next arrival; UINT64_MAX where the end comes first. */
uint64_t lt_schedule_next(struct lt_schedule *schedule);

/* 64 random bits (xoshiro256**, Blackman and Vigna). Not for secrets. */
uint64_t lt_random(uint64_t state[4]);

#endif
