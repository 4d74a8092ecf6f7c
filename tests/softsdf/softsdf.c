/*
 * A cryptographic device in software, for tests: a GM/T 0018 (SDF) library over the project's own C core.
 *
 * A copy of the library is a device of its own: all it has lies in the directory that holds the copy.
 *   sign-N.key   32 bytes, the private key at index N
 *   kek-N.key    16 bytes, the key-encryption key at index N
 *   password     the access code of every key
 *   control      a `struct control`, mapped and shared: switches that take effect at once, and what the device reports
 *
 * It is as strict as devices are: handles are checked, the access right is per session and index, a digest has 32
 * bytes, and a session that two threads use at once is refused and reported.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "sm2.h"
#include "sm4.h"

#define EXPORT __attribute__((visibility("default")))

#define SDR_OK 0x0
#define SDR_UNKNOWERR 0x01000001
#define SDR_COMMFAIL 0x01000003
#define SDR_OPENDEVICE 0x01000005
#define SDR_OPENSESSION 0x01000006
#define SDR_PARDENY 0x01000007
#define SDR_KEYNOTEXIST 0x01000008
#define SDR_ALGNOTSUPPORT 0x01000009
#define SDR_STEPERR 0x01000010
#define SDR_VERIFYERR 0x0100000E
#define SDR_KEYERR 0x01000015
#define SDR_PRKRERR 0x01000018
#define SDR_INARGERR 0x0100001D

#define SGD_SM2_1 0x00020200
#define SGD_SM4_ECB 0x00000401
#define FIELD_BYTES 64
#define KEYS_MAX 64
#define SYMMETRIC_MAX 16
#define SESSIONS_MAX 1024

typedef struct {
    unsigned char IssuerName[40];
    unsigned char DeviceName[16];
    unsigned char DeviceSerial[16];
    unsigned int DeviceVersion, StandardVersion, AsymAlgAbility[2], SymAlgAbility, HashAlgAbility, BufferSize;
} DEVICEINFO;

typedef struct {
    unsigned int bits;
    unsigned char x[FIELD_BYTES], y[FIELD_BYTES];
} ECCrefPublicKey;

typedef struct {
    unsigned char r[FIELD_BYTES], s[FIELD_BYTES];
} ECCSignature;

/* The order is that of tests/softsdf/__init__.py. */
struct control {
    /* switches */
    _Atomic uint32_t latency_us;    /* how long a signature takes from call to return */
    _Atomic uint32_t dead;          /* everything answers SDR_COMMFAIL */
    _Atomic uint32_t hang;          /* calls do not return while it is set */
    _Atomic uint32_t boot;          /* handles of an earlier value are worth nothing */
    _Atomic uint32_t sign_code;     /* what failing signatures answer */
    _Atomic uint32_t sign_failures; /* how many signatures still fail; UINT32_MAX: all */
    _Atomic uint32_t open_code;     /* what SDF_OpenDevice answers */
    _Atomic uint32_t password_code; /* what a wrong password is answered with; 0: SDR_PRKRERR */
    _Atomic uint32_t right_epoch;   /* access rights of an earlier value are lost */
    _Atomic uint32_t wrong;         /* signatures are of another digest */
    _Atomic uint32_t left_aligned;  /* r and s stand in the first half of their fields */
    _Atomic uint32_t sessions_max;  /* how many sessions there are at most; 0: as many as fit */
    _Atomic uint32_t alone;         /* a device handle takes one session */
    /* reports */
    _Atomic uint32_t signatures, rights_asked, wrong_passwords, concurrent, bad_handles;
    _Atomic uint32_t sessions_open, devices_open, hanging, most_at_once, at_once;
    _Atomic uint32_t imports, ciphers;
};

typedef struct {
    sm2_private key;
    uint32_t epoch; /* right_epoch + 1 when it was granted; 0: never */
} right;

/* A symmetric key in a session, named by its address. */
typedef struct {
    int used;
    uint8_t key[16];
} symmetric;

typedef struct {
    atomic_int open, sessions;
} device_handle;

typedef struct {
    atomic_int open, busy;
    uint32_t boot;
    device_handle *device;
    right rights[KEYS_MAX];
    symmetric keys[SYMMETRIC_MAX];
} session;

static session sessions[SESSIONS_MAX];
static device_handle handles[SESSIONS_MAX];
static struct control *control;
static char directory[PATH_MAX];
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void)
{
    Dl_info info;
    char path[PATH_MAX + 16];
    const sm2_backend *backend;
    int fd;

    if (sm2_backend_choose(&backend, NULL) != SM2_BACKEND_OK || !dladdr(&sessions, &info))
        return;
    sm2_use_backend(backend);
    snprintf(directory, sizeof directory, "%s", info.dli_fname);
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        return;
    *slash = '\0';
    snprintf(path, sizeof path, "%s/control", directory);
    if ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static ssize_t read_file(const char *name, void *out, size_t n)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, out, n);
    close(fd);
    return got;
}

/* Blocks while the switch is set; then what a dead device answers, or SDR_OK. */
static int reach(void)
{
    const struct timespec tick = {0, 1000000};
    if (control == NULL)
        return SDR_COMMFAIL;
    if (control->hang) {
        control->hanging++;
        while (control->hang)
            nanosleep(&tick, NULL);
        control->hanging--;
    }
    return control->dead ? SDR_COMMFAIL : SDR_OK;
}

/* *out := the session behind the handle, marked busy. What is returned SDR_OK for must be left with `leave`. */
static int enter(void *handle, session **out)
{
    session *found = handle;
    if (control == NULL)
        return SDR_COMMFAIL;
    if (found < sessions || found >= sessions + SESSIONS_MAX || !found->open) {
        control->bad_handles++;
        return SDR_INARGERR;
    }
    if (atomic_exchange(&found->busy, 1)) {
        control->concurrent++;
        return SDR_STEPERR;
    }
    int code = reach();
    if (code == SDR_OK && found->boot != control->boot)
        code = SDR_COMMFAIL;
    if (code != SDR_OK) {
        found->busy = 0;
        return code;
    }
    *out = found;
    return SDR_OK;
}

static int leave(session *used, int code)
{
    used->busy = 0;
    return code;
}

static int load_key(sm2_private *key, unsigned int index)
{
    char name[32];
    uint8_t d[SM2_PRIVATE_SIZE];
    snprintf(name, sizeof name, "sign-%u.key", index);
    if (read_file(name, d, sizeof d) != (ssize_t)sizeof d || sm2_private_import(key, d) != SM2_OK)
        return SDR_KEYNOTEXIST;
    return SDR_OK;
}

static int is_handle(const device_handle *device)
{
    return device >= handles && device < handles + SESSIONS_MAX && device->open;
}

EXPORT int SDF_OpenDevice(void **out)
{
    int code = reach();
    if (code != SDR_OK)
        return code;
    if (control->open_code)
        return (int)control->open_code;
    if (out == NULL)
        return SDR_INARGERR;
    for (size_t i = 0; i < SESSIONS_MAX; i++) {
        int closed = 0;
        if (atomic_compare_exchange_strong(&handles[i].open, &closed, 1)) {
            control->devices_open++;
            *out = &handles[i];
            return SDR_OK;
        }
    }
    return SDR_OPENDEVICE;
}

EXPORT int SDF_CloseDevice(void *device)
{
    device_handle *used = device;
    if (!is_handle(used) || used->sessions != 0)
        return SDR_INARGERR;
    used->open = 0;
    control->devices_open--;
    return reach();
}

EXPORT int SDF_OpenSession(void *device, void **out)
{
    device_handle *on = device;
    int code = reach();
    if (code != SDR_OK)
        return code;
    if (!is_handle(on) || out == NULL)
        return SDR_INARGERR;
    code = SDR_OPENSESSION;
    pthread_mutex_lock(&opening);
    int full = (control->sessions_max && control->sessions_open >= control->sessions_max) ||
               (control->alone && on->sessions);
    for (size_t i = 0; i < SESSIONS_MAX && code != SDR_OK && !full; i++)
        if (!sessions[i].open) {
            memset(sessions[i].rights, 0, sizeof sessions[i].rights);
            memset(sessions[i].keys, 0, sizeof sessions[i].keys);
            sessions[i].boot = control->boot;
            sessions[i].device = on;
            sessions[i].open = 1;
            on->sessions++;
            control->sessions_open++;
            *out = &sessions[i];
            code = SDR_OK;
        }
    pthread_mutex_unlock(&opening);
    return code;
}

EXPORT int SDF_CloseSession(void *handle)
{
    session *used = handle;
    if (used < sessions || used >= sessions + SESSIONS_MAX || !used->open) {
        control->bad_handles++;
        return SDR_INARGERR;
    }
    if (atomic_exchange(&used->busy, 1)) {
        control->concurrent++;
        return SDR_STEPERR;
    }
    memset(used->rights, 0, sizeof used->rights);
    control->sessions_open--;
    used->device->sessions--;
    used->busy = 0;
    used->open = 0;
    return SDR_OK;
}

#ifndef SOFTSDF_BARE /* what nobody needs in order to sign */
EXPORT int SDF_GetDeviceInfo(void *handle, DEVICEINFO *info)
{
    session *used;
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    memset(info, 0, sizeof *info);
    memcpy(info->IssuerName, "qianyan", 7);
    memcpy(info->DeviceName, "softsdf", 7);
    memcpy(info->DeviceSerial, "2026010100100001", 16);
    info->DeviceVersion = 1;
    info->StandardVersion = 1;
    info->AsymAlgAbility[0] = SGD_SM2_1;
    info->AsymAlgAbility[1] = 256;
    info->BufferSize = 8192;
    return leave(used, SDR_OK);
}

#endif

EXPORT int SDF_GetPrivateKeyAccessRight(void *handle, unsigned int index, unsigned char *password, unsigned int n)
{
    session *used;
    uint8_t right_one[256];
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    control->rights_asked++;
    if (password == NULL || n == 0 || n > sizeof right_one)
        return leave(used, SDR_INARGERR);
    if (index >= KEYS_MAX)
        return leave(used, SDR_KEYNOTEXIST);
    code = load_key(&used->rights[index].key, index);
    if (code != SDR_OK)
        return leave(used, code);
    if (read_file("password", right_one, sizeof right_one) != (ssize_t)n || memcmp(password, right_one, n) != 0) {
        control->wrong_passwords++;
        return leave(used, control->password_code ? (int)control->password_code : SDR_PRKRERR);
    }
    used->rights[index].epoch = control->right_epoch + 1;
    return leave(used, SDR_OK);
}

#ifndef SOFTSDF_BARE
EXPORT int SDF_ReleasePrivateKeyAccessRight(void *handle, unsigned int index)
{
    session *used;
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    if (index >= KEYS_MAX || used->rights[index].epoch == 0)
        return leave(used, SDR_INARGERR);
    memset(&used->rights[index], 0, sizeof used->rights[index]);
    return leave(used, SDR_OK);
}

#endif

EXPORT int SDF_ExportSignPublicKey_ECC(void *handle, unsigned int index, ECCrefPublicKey *out)
{
    session *used;
    sm2_private key;
    sm2_point point;
    uint8_t octets[SM2_PUBLIC_SIZE];
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    if ((code = load_key(&key, index)) != SDR_OK)
        return leave(used, code);
    sm2_private_to_public(&point, &key);
    sm2_public_export(octets, &point);
    memset(out, 0, sizeof *out);
    out->bits = 256;
    memcpy(out->x + FIELD_BYTES - 32, octets + 1, 32);
    memcpy(out->y + FIELD_BYTES - 32, octets + 33, 32);
    return leave(used, SDR_OK);
}

/* Returns at `begin` plus the latency, the arithmetic included. */
static void wait_since(struct timespec begin)
{
    static _Thread_local int exact;
    uint64_t at = (uint64_t)begin.tv_nsec + (uint64_t)control->latency_us * 1000;
    if (control->latency_us == 0)
        return;
    if (!exact)
        exact = prctl(PR_SET_TIMERSLACK, 1UL) == 0;
    begin.tv_sec += (time_t)(at / 1000000000);
    begin.tv_nsec = (long)(at % 1000000000);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &begin, NULL) == EINTR)
        ;
}

/* Whether this signature is one of those that fail. */
static int is_to_fail(void)
{
    uint32_t left = control->sign_failures;
    while (left != 0 && left != UINT32_MAX)
        if (atomic_compare_exchange_weak(&control->sign_failures, &left, left - 1))
            return 1;
    return left == UINT32_MAX;
}

static int sign(session *used, unsigned int index, const uint8_t *data, ECCSignature *out)
{
    const sm2_private *key = &used->rights[index].key;
    uint8_t raw[SM2_SIGNATURE_SIZE], digest[SM2_DIGEST_SIZE];
    memcpy(digest, data, sizeof digest);
    digest[0] ^= control->wrong ? 1 : 0;
    if (sm2_sign_many(raw, &key, 0, digest, 1) != SM2_OK)
        return SDR_UNKNOWERR;
    size_t at = control->left_aligned ? 0 : FIELD_BYTES - 32;
    memset(out, 0, sizeof *out);
    memcpy(out->r + at, raw, 32);
    memcpy(out->s + at, raw + 32, 32);
    return SDR_OK;
}

EXPORT int SDF_InternalSign_ECC(void *handle, unsigned int index, unsigned char *data, unsigned int n, ECCSignature *out)
{
    session *used;
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    uint32_t at_once = ++control->at_once, most = control->most_at_once;
    while (at_once > most && !atomic_compare_exchange_weak(&control->most_at_once, &most, at_once))
        ;
    if (n != SM2_DIGEST_SIZE || index >= KEYS_MAX || data == NULL || out == NULL)
        code = SDR_INARGERR;
    else if (used->rights[index].epoch != control->right_epoch + 1)
        code = SDR_PARDENY;
    else if (is_to_fail())
        code = (int)control->sign_code;
    else
        code = sign(used, index, data, out);
    wait_since(begin);
    control->at_once--;
    if (code == SDR_OK)
        control->signatures++;
    return leave(used, control->dead ? SDR_COMMFAIL : code);
}

#ifndef SOFTSDF_BARE
EXPORT int SDF_ExternalVerify_ECC(void *handle, unsigned int algorithm, ECCrefPublicKey *key, unsigned char *data,
                                  unsigned int n, ECCSignature *signature)
{
    session *used;
    sm2_point point;
    const sm2_point *points = &point;
    uint8_t octets[SM2_PUBLIC_SIZE] = {4}, raw[SM2_SIGNATURE_SIZE], valid = 0;
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    memcpy(octets + 1, key->x + FIELD_BYTES - 32, 32);
    memcpy(octets + 33, key->y + FIELD_BYTES - 32, 32);
    memcpy(raw, signature->r + FIELD_BYTES - 32, 32);
    memcpy(raw + 32, signature->s + FIELD_BYTES - 32, 32);
    if (algorithm != SGD_SM2_1 || n != SM2_DIGEST_SIZE || sm2_public_import(&point, octets, sizeof octets) != SM2_OK)
        return leave(used, SDR_INARGERR);
    sm2_verify_many(&valid, &points, 0, data, raw, 1);
    return leave(used, valid ? SDR_OK : SDR_VERIFYERR);
}

/* *out := a free place for a symmetric key in the session. */
static int place_key(session *used, symmetric **out)
{
    for (size_t i = 0; i < SYMMETRIC_MAX; i++)
        if (!used->keys[i].used) {
            *out = &used->keys[i];
            return SDR_OK;
        }
    return SDR_KEYERR;
}

static int load_kek(uint8_t kek[16], unsigned int index)
{
    char name[32];
    snprintf(name, sizeof name, "kek-%u.key", index);
    return read_file(name, kek, 16) == 16 ? SDR_OK : SDR_KEYNOTEXIST;
}

static symmetric *find_key(session *used, void *handle)
{
    symmetric *key = handle;
    return key >= used->keys && key < used->keys + SYMMETRIC_MAX && key->used ? key : NULL;
}

EXPORT int SDF_GenerateKeyWithKEK(void *handle, unsigned int bits, unsigned int algorithm, unsigned int index,
                                  unsigned char *out, unsigned int *n, void **key)
{
    session *used;
    symmetric *made;
    uint8_t kek[16];
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    if (bits != 128 || out == NULL || n == NULL || key == NULL)
        return leave(used, SDR_INARGERR);
    if (algorithm != SGD_SM4_ECB)
        return leave(used, SDR_ALGNOTSUPPORT);
    if ((code = load_kek(kek, index)) != SDR_OK || (code = place_key(used, &made)) != SDR_OK)
        return leave(used, code);
    int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t got = read(random, made->key, 16);
    close(random);
    if (got != 16)
        return leave(used, SDR_UNKNOWERR);
    sm4_block(out, made->key, kek, 0);
    made->used = 1;
    *n = 16;
    *key = made;
    return leave(used, SDR_OK);
}

EXPORT int SDF_ImportKeyWithKEK(void *handle, unsigned int algorithm, unsigned int index, unsigned char *wrapped,
                                unsigned int n, void **key)
{
    session *used;
    symmetric *made;
    uint8_t kek[16];
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    if (algorithm != SGD_SM4_ECB || n != 16 || wrapped == NULL || key == NULL)
        return leave(used, SDR_INARGERR);
    if ((code = load_kek(kek, index)) != SDR_OK || (code = place_key(used, &made)) != SDR_OK)
        return leave(used, code);
    sm4_block(made->key, wrapped, kek, 1);
    made->used = 1;
    *key = made;
    control->imports++;
    return leave(used, SDR_OK);
}

EXPORT int SDF_DestroyKey(void *handle, void *key)
{
    session *used;
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    symmetric *found = find_key(used, key);
    if (found == NULL)
        return leave(used, SDR_KEYERR);
    memset(found, 0, sizeof *found);
    return leave(used, SDR_OK);
}

static int cipher(void *handle, void *key, unsigned int algorithm, unsigned char *in, unsigned int n,
                  unsigned char *out, unsigned int *out_n, int backwards)
{
    session *used;
    int code = enter(handle, &used);
    if (code != SDR_OK)
        return code;
    symmetric *found = find_key(used, key);
    if (found == NULL)
        return leave(used, SDR_KEYERR);
    if (algorithm != SGD_SM4_ECB || n % 16 || n == 0 || n > 8192 || in == NULL || out == NULL || out_n == NULL)
        return leave(used, SDR_INARGERR);
    for (unsigned int at = 0; at < n; at += 16)
        sm4_block(out + at, in + at, found->key, backwards);
    *out_n = n;
    control->ciphers++;
    return leave(used, SDR_OK);
}

EXPORT int SDF_Encrypt(void *handle, void *key, unsigned int algorithm, unsigned char *iv, unsigned char *in,
                       unsigned int n, unsigned char *out, unsigned int *out_n)
{
    (void)iv;
    return cipher(handle, key, algorithm, in, n, out, out_n, 0);
}

EXPORT int SDF_Decrypt(void *handle, void *key, unsigned int algorithm, unsigned char *iv, unsigned char *in,
                       unsigned int n, unsigned char *out, unsigned int *out_n)
{
    (void)iv;
    return cipher(handle, key, algorithm, in, n, out, out_n, 1);
}
#endif
