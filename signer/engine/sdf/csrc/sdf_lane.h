/*
 * The loop of one session: takes digests from runs, has the device sign them, puts the signatures where they belong.
 *
 * A run is a batch's work under one key, shared by many lanes; a lane is one session, used by one thread. Nothing here
 * knows Python: a lane works through thousands of signatures without asking for the interpreter. No memory is allocated
 * and none is freed: the caller owns every structure and keeps it for as long as a call into a device may be out.
 *
 * Locks: a lane's before a run's; none is held during a call into a device, save `alone` of a library that wants it.
 */
#ifndef QIANYAN_SDF_LANE_H
#define QIANYAN_SDF_LANE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SDF_DIGEST_SIZE 32
#define SDF_RAW_SIZE 64        /* r || s, 32 bytes each */
#define SDF_SIGNATURE_SIZE 128 /* ECCSignature: r and s right-aligned in 64 bytes each */
#define SDF_SPARE_SIZE 128     /* for libraries that write past the end of what the standard gives them */

/* A lock that is had in the order of asking: whoever leaves and asks again at once would win every other kind. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t next, serving;
} sdf_gate;

/* int SDF_InternalSign_ECC(void *, unsigned int, unsigned char *, unsigned int, ECCSignature *) */
typedef int (*sdf_sign_fn)(void *, unsigned int, unsigned char *, unsigned int, void *);

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    const uint8_t *digests; /* of the whole batch */
    uint8_t *out;           /* of the whole batch: position p has out[64 p, 64 p + 64) */
    uint32_t *todo;         /* a stack of positions that nobody works on */
    _Atomic size_t waiting; /* how many are on it */
    size_t left;            /* signatures that are still missing */
    atomic_int over;        /* nothing is missing, or the run was given up */
    unsigned int index;     /* of the key in the devices */
} sdf_run;

typedef enum {
    SDF_IDLE = 0, /* the runs have nothing left to take */
    SDF_CALLED,   /* the thread is wanted for something else */
    SDF_RETIRED,  /* the lane takes nothing any more */
    SDF_CLAIMED,  /* the call came back too late: its position is somebody else's */
    SDF_FAILED,   /* the device answered `code`; the flight is still out */
    SDF_ENCODING, /* the answer is no signature in the standard's form; the flight is still out */
    SDF_VERIFY    /* `raw` is to be verified before it is put; the flight is still out */
} sdf_outcome;

typedef struct {
    pthread_mutex_t lock; /* over flight, claimed, position */
    void *session;
    sdf_sign_fn sign;
    sdf_gate *alone;        /* NULL: the library may be entered by several threads */
    int flight;             /* which of the runs the call that is out belongs to; -1: none is */
    int claimed;
    uint32_t position;
    int code;
    atomic_int retired, called;
    _Atomic int64_t since_ns; /* CLOCK_MONOTONIC of when the call that is out began; 0: none is */
    _Atomic uint64_t signatures, call_ns;
    uint8_t raw[SDF_RAW_SIZE];
    uint8_t digest[SDF_DIGEST_SIZE];
    uint8_t signature[SDF_SIGNATURE_SIZE + SDF_SPARE_SIZE];
} sdf_lane;

/* Whoever gets a position from `take` gives it back or puts its signature; a run that is over has none to take. */
int sdf_run_init(sdf_run *run);
void sdf_run_destroy(sdf_run *run);
int sdf_run_take(sdf_run *run, uint32_t *position);
void sdf_run_give_back(sdf_run *run, uint32_t position);
void sdf_run_put(sdf_run *run, uint32_t position, const uint8_t raw[SDF_RAW_SIZE]);
int sdf_run_give_up(sdf_run *run);                /* 1: it was not over before */
int sdf_run_wait(sdf_run *run, int64_t until_ns); /* 1: it is over */

int sdf_gate_init(sdf_gate *gate);
void sdf_gate_destroy(sdf_gate *gate);
void sdf_gate_enter(sdf_gate *gate);
void sdf_gate_leave(sdf_gate *gate);

int sdf_lane_init(sdf_lane *lane);
void sdf_lane_destroy(sdf_lane *lane);

/* One signature by the device into `raw`: SDF_IDLE, SDF_FAILED with `code`, or SDF_ENCODING. */
sdf_outcome sdf_lane_ask(sdf_lane *lane, unsigned int index, const uint8_t digest[SDF_DIGEST_SIZE]);

/* Signs for `n` runs by turns until something else is to be done; every `verify_one_in`th signature is handed out. */
sdf_outcome sdf_lane_work(sdf_lane *lane, sdf_run *const *runs, int n, unsigned int verify_one_in);

/* The flight of an outside caller: 1 where it is out now, 0 where the lane is retired. */
int sdf_lane_take_off(sdf_lane *lane, int run, uint32_t position);
int sdf_lane_land(sdf_lane *lane);                                  /* 0: it was claimed */
int sdf_lane_claim(sdf_lane *lane, int *run, uint32_t *position);   /* 1: there was one, and it is the caller's now */
void sdf_lane_retire(sdf_lane *lane);
int64_t sdf_now_ns(void);

#endif
