"""Say how the compiled connection, its transport, and what gathers signing requests are built.

Run by the project's setup.py; it is not imported at run time and must not import the package it describes. The C that
Cython writes goes to build/cython.
"""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

HERE = Path("service", "wire")
COMPILE_ARGS = ["-std=gnu11", "-O2", "-g0", "-fvisibility=hidden", "-fstack-protector-strong"]
COMPILE_ARGS += ["-Wall", "-Wextra", "-Wno-unused-parameter"]


def extensions() -> list[Extension]:
    """The extensions, ready to compile; called with the project's root as the working directory, as setup.py is."""
    wire = Extension(
        "service.wire._wire",
        sources=[str(HERE / "_wire.pyx"), str(HERE / "csrc" / "wire_head.c")],
        include_dirs=[str(HERE / "csrc")],
        depends=[str(HERE / "csrc" / "wire_head.h"), str(HERE / "_transport.pxd"), str(Path("status", "_answers.pxd"))],
        extra_compile_args=COMPILE_ARGS,
    )
    transport = Extension(
        "service.wire._transport",
        sources=[str(HERE / "_transport.pyx")],
        depends=[str(HERE / "_transport.pxd")],
        extra_compile_args=COMPILE_ARGS,
    )
    sign = Extension(
        "service.wire._sign",
        sources=[str(HERE / "_sign.pyx")],
        extra_compile_args=[*COMPILE_ARGS, "-Wno-sign-compare"],
    )
    found: list[Extension] = cythonize(
        [transport, wire, sign],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False, "boundscheck": False, "wraparound": False},
        quiet=True,
    )
    return found
