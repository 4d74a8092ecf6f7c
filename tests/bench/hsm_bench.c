/*
 * The same soft devices driven by bare threads, without the pool: what this machine can do at all.
 *
 * Usage: hsm_bench SESSIONS SECONDS PASSWORD LIBRARY...; prints signatures per second, and processors used.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*open_device_fn)(void **);
typedef int (*open_session_fn)(void *, void **);
typedef int (*right_fn)(void *, unsigned int, const unsigned char *, unsigned int);
typedef int (*sign_fn)(void *, unsigned int, const unsigned char *, unsigned int, unsigned char *);

typedef struct {
    void *session;
    sign_fn sign;
} driver;

static atomic_long made;
static atomic_int failed;

static void *drive(void *argument)
{
    driver *own = argument;
    unsigned char digest[32] = {1}, signature[128];
    while (!failed) {
        if (own->sign(own->session, 1, digest, sizeof digest, signature) != 0)
            failed = 1;
        made++;
    }
    return NULL;
}

static void *symbol(void *library, const char *name)
{
    void *found = library ? dlsym(library, name) : NULL;
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

static void start(const char *path, int sessions, const char *password)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *device;
    open_device_fn open_device;
    open_session_fn open_session;
    right_fn get_right;
    *(void **)&open_device = symbol(library, "SDF_OpenDevice");
    *(void **)&open_session = symbol(library, "SDF_OpenSession");
    *(void **)&get_right = symbol(library, "SDF_GetPrivateKeyAccessRight");
    failed |= open_device(&device) != 0;
    for (int i = 0; i < sessions && !failed; i++) {
        pthread_t thread;
        driver *own = malloc(sizeof *own);
        *(void **)&own->sign = symbol(library, "SDF_InternalSign_ECC");
        failed |= open_session(device, &own->session) != 0;
        failed |= get_right(own->session, 1, (const unsigned char *)password, (unsigned int)strlen(password)) != 0;
        failed |= pthread_create(&thread, NULL, drive, own) != 0;
    }
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    for (int i = 4; i < argc; i++)
        start(argv[i], atoi(argv[1]), argv[3]);
    const struct timespec settle = {0, 200000000};
    nanosleep(&settle, NULL);
    double seconds = atof(argv[2]), began = seconds_of(CLOCK_MONOTONIC), used = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    long before = made;
    struct timespec length = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&length, NULL);
    double elapsed = seconds_of(CLOCK_MONOTONIC) - began;
    printf("%.0f %.3f\n", (double)(made - before) / elapsed, (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - used) / elapsed);
    return failed;
}
