"""Say how the compiled parts of CRLs are built: what writes entries, and what judges them.

Run by the project's setup.py; it is not imported at run time and must not import the package it describes. The C that
Cython writes goes to build/cython.
"""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

COMPILE_ARGS = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-fstack-protector-strong"]
COMPILE_ARGS += ["-Wall", "-Wextra", "-Wno-unused-parameter"]


def extensions() -> list[Extension]:
    """The extensions, ready to compile; called with the project's root as the working directory, as setup.py is."""

    def extension(name: str, source: str) -> Extension:
        return Extension(
            f"crl.{name}",
            sources=[str(Path("crl", f"{name}.pyx")), str(Path("crl", "csrc", f"{source}.c"))],
            include_dirs=[str(Path("crl", "csrc"))],
            depends=[str(Path("crl", "csrc", f"{source}.h"))],
            extra_compile_args=COMPILE_ARGS,
        )

    found: list[Extension] = cythonize(
        [extension("_entries", "crl_encode"), extension("_reader", "crl_walk")],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False, "boundscheck": False, "wraparound": False},
        quiet=True,
    )
    return found
