"""Say how the generator is compiled.

Run by the project's setup.py; it is not imported at run time.
"""

from __future__ import annotations

from Cython.Build import cythonize
from setuptools import Extension

_SOURCES = ("driver.c", "record.c", "schedule.c")


def extensions() -> list[Extension]:
    """The extension, ready to compile, with paths relative to the project's root."""
    found: list[Extension] = cythonize(
        [
            Extension(
                "loadtest._engine",
                sources=["loadtest/_engine.pyx", *(f"loadtest/csrc/{name}" for name in _SOURCES)],
                include_dirs=["loadtest/csrc"],
                depends=["loadtest/csrc/driver.h", "loadtest/csrc/record.h", "loadtest/csrc/schedule.h"],
                extra_compile_args=["-std=c11", "-O2", "-g0", "-fvisibility=hidden", "-fstack-protector-strong"],
            )
        ],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False},
        include_path=["."],
        quiet=True,
    )
    return found
