"""Say how the native modules are compiled.

Run by the project's setup.py; it is not imported at run time and must not
import the package it describes. The C that Cython writes goes to build/cython.
"""

from __future__ import annotations

import pathlib

from Cython.Build import cythonize
from setuptools import Extension

HERE = pathlib.Path(__file__).resolve().parent
DIRECTIVES = {
    "language_level": 3,
    "binding": False,
    "boundscheck": False,
    "wraparound": False,
    "embedsignature": True,
}
COMPILE_ARGS = [
    "-std=c11",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fstack-protector-strong",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]

BACKEND_SOURCES = (
    "sm2_backend.c",
    "sm2_backend_portable.c",
    "sm2_backend_x86_64_adx.c",
    "sm2_backend_x86_64_ifma.c",
    "sm2_cpu.c",
    "sm2_table.c",
    "sm3_many.c",
    "sm3_many_avx2.c",
    "sm3_many_avx512.c",
)
FRONT_SOURCES = (
    "sm2_agree.c",
    "sm2_cipher.c",
    "sm2_der.c",
    "sm2_digest.c",
    "sm2_drbg.c",
    "sm2_entropy.c",
    "sm2_key.c",
    "sm2_pairs.c",
    "sm2_secmem.c",
    "sm2_selftest.c",
    "sm2_sign.c",
    "sm3.c",
)


def extensions() -> list[Extension]:
    """The extensions, ready to compile, with paths relative to the project's root.

    To be called with the root as the working directory, as setup.py is.
    """
    here = pathlib.Path("signer", "_native")
    headers = sorted(str(here / "csrc" / p.name) for p in (HERE / "csrc").glob("*.h"))

    def extension(name: str, sources: tuple[str, ...]) -> Extension:
        return Extension(
            f"signer._native.{name}",
            sources=[str(here / f"{name}.pyx"), *(str(here / "csrc" / s) for s in sources)],
            include_dirs=[str(here / "csrc")],
            depends=headers,
            extra_compile_args=COMPILE_ARGS,
        )

    found: list[Extension] = cythonize(
        [
            extension("cpu", BACKEND_SOURCES),
            extension("sm3", ("sm3.c",)),
            extension("sm2", FRONT_SOURCES),
            extension("shamir", ("shamir.c",)),
        ],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
        include_path=["."],
        quiet=True,
    )
    return found
