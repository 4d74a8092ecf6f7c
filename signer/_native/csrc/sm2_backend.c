/* The list of backends and the choice among them. */
#include "sm2_backend.h"

extern const sm2_backend sm2_backend_portable;
#if defined(__x86_64__) || defined(SM2_SIMD_SHIM)
extern const sm2_backend sm2_backend_x86_64_ifma;
#endif
#if defined(__x86_64__)
extern const sm2_backend sm2_backend_x86_64_adx;
#endif

const sm2_backend *const sm2_backends[] = {
#if defined(__x86_64__) || defined(SM2_SIMD_SHIM)
    &sm2_backend_x86_64_ifma,
#endif
#if defined(__x86_64__)
    &sm2_backend_x86_64_adx,
#endif
    &sm2_backend_portable,
    NULL,
};

/* *chosen := a backend by name, or the best one. CT: no, nothing secret here. */
int sm2_backend_choose(const sm2_backend **chosen, const char *name)
{
    int any = name == NULL || name[0] == '\0';
    size_t i;

    for (i = 0; sm2_backends[i] != NULL; i++) {
        if (!any && strcmp(name, sm2_backends[i]->name) != 0) {
            continue;
        }
        if (sm2_backends[i]->is_supported()) {
            if (sm2_backends[i]->prepare != NULL) {
                sm2_backends[i]->prepare();
            }
            *chosen = sm2_backends[i];
            return SM2_BACKEND_OK;
        }
        if (!any) {
            return SM2_BACKEND_UNSUPPORTED;
        }
    }
    return SM2_BACKEND_UNKNOWN;
}
