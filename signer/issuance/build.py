"""Say how the compiled part of issuance is built: what assembles certificates around their constant parts.

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
    found: list[Extension] = cythonize(
        [
            Extension(
                "signer.issuance._template",
                sources=[str(Path("signer", "issuance", "_template.pyx"))],
                extra_compile_args=COMPILE_ARGS,
            )
        ],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False, "boundscheck": False, "wraparound": False},
        quiet=True,
    )
    return found
