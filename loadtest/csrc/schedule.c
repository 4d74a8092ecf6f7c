/* See schedule.h. */
#include "schedule.h"

#include <math.h>

static uint64_t rotated(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t lt_random(uint64_t s[4]) {
    uint64_t result = rotated(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotated(s[3], 45);
    return result;
}

/* Fills the state from a seed (splitmix64, as its authors advise). */
static void seeded(uint64_t state[4], uint64_t seed) {
    for (int at = 0; at < 4; at++) {
        uint64_t z = (seed += UINT64_C(0x9E3779B97F4A7C15));
        z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
        state[at] = z ^ (z >> 31);
    }
}

void lt_schedule_open(struct lt_schedule *schedule, const double *second, const double *rate, size_t points, double end,
                      int poisson, uint64_t seed) {
    schedule->second = second;
    schedule->rate = rate;
    schedule->points = points;
    schedule->segment = 0;
    schedule->now = 0;
    schedule->end = end;
    schedule->poisson = poisson;
    seeded(schedule->random, seed);
}

/* Seconds from the segment's place at which the integral of rate a + b x reaches `area`: the root of b x²/2 + a x = area
 * in the form that stays exact for a small b. */
static double reached(double a, double b, double area) {
    double root = a * a + 2 * b * area;
    return 2 * area / (a + sqrt(root > 0 ? root : 0));
}

uint64_t lt_schedule_next(struct lt_schedule *s) {
    double area = 1;
    if (s->poisson) area = -log1p(-(double)(lt_random(s->random) >> 11) * 0x1p-53);
    while (s->now < s->end) {
        while (s->segment + 1 < s->points && s->second[s->segment + 1] <= s->now) s->segment++;
        size_t at = s->segment;
        double stop = at + 1 < s->points && s->second[at + 1] < s->end ? s->second[at + 1] : s->end;
        double slope = 0;
        if (at + 1 < s->points) slope = (s->rate[at + 1] - s->rate[at]) / (s->second[at + 1] - s->second[at]);
        double here = s->rate[at] + slope * (s->now - s->second[at]), wide = stop - s->now;
        double whole = wide * (here + slope * wide / 2);
        if (whole > area) {
            s->now += reached(here, slope, area);
            return (uint64_t)(s->now * 1e9);
        }
        area -= whole;
        s->now = stop;
    }
    return UINT64_MAX;
}
