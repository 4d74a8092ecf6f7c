"""Choose the backend of the native core, once, when this module is loaded.

QIANYAN_NATIVE_BACKEND names the one to use, which is how a lower one is forced
in tests; a name this build does not know, or a backend this processor cannot
run, makes the import fail.
"""

import os

from signer._native.capi cimport (
    SM2_BACKEND_OK,
    SM2_BACKEND_UNKNOWN,
    sm2_backend,
    sm2_backend_choose,
    sm2_backends,
    sm2_cpu,
    sm2_cpu_detect,
)

cdef const sm2_backend *chosen = NULL


cdef const sm2_backend *active_backend() noexcept:
    return chosen


def backends() -> list:
    """The names of the backends this machine can run, best first."""
    cdef size_t i = 0
    names = []
    while sm2_backends[i] != NULL:
        if sm2_backends[i].is_supported():
            names.append(sm2_backends[i].name.decode("ascii"))
        i += 1
    return names


def backend() -> str:
    """The name of the backend in use."""
    return chosen.name.decode("ascii")


def features() -> dict:
    """The backend in use, those available, and the processor features that decide."""
    cdef sm2_cpu cpu
    sm2_cpu_detect(&cpu)
    return {
        "backend": backend(),
        "available": backends(),
        "bmi2": bool(cpu.bmi2),
        "adx": bool(cpu.adx),
        "avx2": bool(cpu.avx2),
        "avx512f": bool(cpu.avx512f),
        "avx512dq": bool(cpu.avx512dq),
        "avx512bw": bool(cpu.avx512bw),
        "avx512vl": bool(cpu.avx512vl),
        "avx512ifma": bool(cpu.avx512ifma),
    }


cdef int choose() except -1:
    global chosen
    wanted = os.environ.get("QIANYAN_NATIVE_BACKEND", "")
    name = wanted.encode("utf-8", "surrogateescape")
    cdef int status = sm2_backend_choose(&chosen, name)
    if status == SM2_BACKEND_OK:
        return 0
    why = "is unknown" if status == SM2_BACKEND_UNKNOWN else "is not supported by this processor"
    raise ImportError(
        f"QIANYAN_NATIVE_BACKEND={wanted!r} {why}; available: {', '.join(backends())}"
    )


choose()
