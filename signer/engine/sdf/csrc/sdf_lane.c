#define _GNU_SOURCE
#include "sdf_lane.h"

#include <string.h>
#include <time.h>

/* The order of the group (GB/T 32918.5), big-endian. */
static const uint8_t sdf_order[32] = {
    0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x72, 0x03, 0xdf, 0x6b, 0x21, 0xc6, 0x05, 0x2b, 0x53, 0xbb, 0xf4, 0x09, 0x39, 0xd5, 0x41, 0x23,
};
static const uint8_t sdf_zeros[32];

int64_t sdf_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int sdf_run_init(sdf_run *run)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return 0;
    int ok = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
             pthread_cond_init(&run->ended, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    if (!ok)
        return 0;
    if (pthread_mutex_init(&run->lock, NULL) == 0)
        return 1;
    pthread_cond_destroy(&run->ended);
    return 0;
}

void sdf_run_destroy(sdf_run *run)
{
    pthread_cond_destroy(&run->ended);
    pthread_mutex_destroy(&run->lock);
}

int sdf_run_take(sdf_run *run, uint32_t *position)
{
    pthread_mutex_lock(&run->lock);
    int found = !run->over && run->waiting > 0;
    if (found)
        *position = run->todo[--run->waiting];
    pthread_mutex_unlock(&run->lock);
    return found;
}

void sdf_run_give_back(sdf_run *run, uint32_t position)
{
    pthread_mutex_lock(&run->lock);
    run->todo[run->waiting++] = position;
    pthread_mutex_unlock(&run->lock);
}

void sdf_run_put(sdf_run *run, uint32_t position, const uint8_t raw[SDF_RAW_SIZE])
{
    pthread_mutex_lock(&run->lock);
    memcpy(run->out + (size_t)position * SDF_RAW_SIZE, raw, SDF_RAW_SIZE);
    if (--run->left == 0) {
        run->over = 1;
        pthread_cond_broadcast(&run->ended);
    }
    pthread_mutex_unlock(&run->lock);
}

int sdf_run_give_up(sdf_run *run)
{
    pthread_mutex_lock(&run->lock);
    int first = !run->over;
    if (first) {
        run->over = 1;
        pthread_cond_broadcast(&run->ended);
    }
    pthread_mutex_unlock(&run->lock);
    return first;
}

int sdf_run_wait(sdf_run *run, int64_t until_ns)
{
    const struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    int timed_out = 0;
    pthread_mutex_lock(&run->lock);
    while (!run->over && !timed_out)
        timed_out = pthread_cond_timedwait(&run->ended, &run->lock, &until) != 0;
    int over = run->over;
    pthread_mutex_unlock(&run->lock);
    return over;
}

int sdf_gate_init(sdf_gate *gate)
{
    if (pthread_mutex_init(&gate->lock, NULL) != 0)
        return 0;
    if (pthread_cond_init(&gate->moved, NULL) == 0)
        return 1;
    pthread_mutex_destroy(&gate->lock);
    return 0;
}

void sdf_gate_destroy(sdf_gate *gate)
{
    pthread_cond_destroy(&gate->moved);
    pthread_mutex_destroy(&gate->lock);
}

void sdf_gate_enter(sdf_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    uint64_t turn = gate->next++;
    while (gate->serving != turn)
        pthread_cond_wait(&gate->moved, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

void sdf_gate_leave(sdf_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->serving++;
    pthread_cond_broadcast(&gate->moved);
    pthread_mutex_unlock(&gate->lock);
}

int sdf_lane_init(sdf_lane *lane)
{
    lane->flight = -1;
    return pthread_mutex_init(&lane->lock, NULL) == 0;
}

void sdf_lane_destroy(sdf_lane *lane)
{
    pthread_mutex_destroy(&lane->lock);
}

/* Whether a field holds a number from 1 to n - 1, right-aligned. */
static int sdf_is_number(const uint8_t field[64])
{
    const uint8_t *number = field + 32;
    return memcmp(field, sdf_zeros, 32) == 0 && memcmp(number, sdf_zeros, 32) != 0 && memcmp(number, sdf_order, 32) < 0;
}

sdf_outcome sdf_lane_ask(sdf_lane *lane, unsigned int index, const uint8_t digest[SDF_DIGEST_SIZE])
{
    memcpy(lane->digest, digest, SDF_DIGEST_SIZE); /* a library may write to its arguments */
    memset(lane->signature, 0, sizeof lane->signature);
    int64_t began = sdf_now_ns();
    atomic_store(&lane->since_ns, began);
    if (lane->alone != NULL)
        sdf_gate_enter(lane->alone);
    lane->code = lane->sign(lane->session, index, lane->digest, SDF_DIGEST_SIZE, lane->signature);
    if (lane->alone != NULL)
        sdf_gate_leave(lane->alone);
    atomic_store(&lane->since_ns, 0);
    if (lane->code != 0)
        return SDF_FAILED;
    if (!sdf_is_number(lane->signature) || !sdf_is_number(lane->signature + 64))
        return SDF_ENCODING;
    memcpy(lane->raw, lane->signature + 32, 32);
    memcpy(lane->raw + 32, lane->signature + 96, 32);
    atomic_fetch_add(&lane->call_ns, (uint64_t)(sdf_now_ns() - began));
    return SDF_IDLE;
}

int sdf_lane_take_off(sdf_lane *lane, int run, uint32_t position)
{
    pthread_mutex_lock(&lane->lock);
    int allowed = !atomic_load(&lane->retired);
    if (allowed) {
        lane->flight = run;
        lane->position = position;
        lane->claimed = 0;
    }
    pthread_mutex_unlock(&lane->lock);
    return allowed;
}

int sdf_lane_land(sdf_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    int own = !lane->claimed;
    lane->flight = -1;
    pthread_mutex_unlock(&lane->lock);
    return own;
}

int sdf_lane_claim(sdf_lane *lane, int *run, uint32_t *position)
{
    pthread_mutex_lock(&lane->lock);
    int found = lane->flight >= 0 && !lane->claimed;
    if (found) {
        lane->claimed = 1;
        *run = lane->flight;
        *position = lane->position;
    }
    pthread_mutex_unlock(&lane->lock);
    return found;
}

void sdf_lane_retire(sdf_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    atomic_store(&lane->retired, 1);
    pthread_mutex_unlock(&lane->lock);
}

/* The next position, from the runs by turns; the flight is out with it. SDF_VERIFY stands for "there is one". */
static sdf_outcome sdf_next(sdf_lane *lane, sdf_run *const *runs, int n, int *turn)
{
    uint32_t position;
    for (int tried = 0; tried < n; tried++, *turn = (*turn + 1) % n) {
        if (!sdf_run_take(runs[*turn], &position))
            continue;
        if (sdf_lane_take_off(lane, *turn, position))
            return SDF_VERIFY;
        sdf_run_give_back(runs[*turn], position);
        return SDF_RETIRED;
    }
    return SDF_IDLE;
}

sdf_outcome sdf_lane_work(sdf_lane *lane, sdf_run *const *runs, int n, unsigned int verify_one_in)
{
    for (int turn = 0;; turn = (turn + 1) % n) {
        sdf_outcome outcome = sdf_next(lane, runs, n, &turn);
        if (outcome != SDF_VERIFY)
            return outcome;
        sdf_run *run = runs[turn];
        outcome = sdf_lane_ask(lane, run->index, run->digests + (size_t)lane->position * SDF_DIGEST_SIZE);
        if (outcome == SDF_IDLE && (atomic_load(&lane->signatures) + 1) % verify_one_in == 0)
            outcome = SDF_VERIFY;
        if (outcome != SDF_IDLE)
            return outcome;
        /* Landing and putting are one step to whoever claims: a position is signed once or given to another. */
        pthread_mutex_lock(&lane->lock);
        int own = !lane->claimed;
        lane->flight = -1;
        if (own) {
            atomic_fetch_add(&lane->signatures, 1); /* first: who has the run's last signature may count them */
            sdf_run_put(run, lane->position, lane->raw);
        }
        pthread_mutex_unlock(&lane->lock);
        if (!own)
            return SDF_CLAIMED;
        if (atomic_exchange(&lane->called, 0))
            return SDF_CALLED;
    }
}
