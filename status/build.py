"""Say how the compiled part of OCSP's hot path is built.

Run by the project's setup.py; it is not imported at run time and must not import the package it describes. The C that
Cython writes goes to build/cython.
"""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

COMPILE_ARGS = ["-std=gnu11", "-O2", "-g0", "-fvisibility=hidden", "-fstack-protector-strong"]
COMPILE_ARGS += ["-Wall", "-Wextra", "-Wno-unused-parameter"]


def extensions() -> list[Extension]:
    """The extension, ready to compile; called with the project's root as the working directory, as setup.py is."""
    answers = Extension(
        "status._answers", sources=[str(Path("status", "_answers.pyx"))], extra_compile_args=COMPILE_ARGS
    )
    found: list[Extension] = cythonize(
        [answers],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False, "boundscheck": False, "wraparound": False},
        quiet=True,
    )
    return found
