"""Say how the pool's native module is compiled.

Run by the project's setup.py; it is not imported at run time and must not import the package it describes. The C that
Cython writes goes to build/cython.
"""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

HERE = Path("signer", "engine", "sdf")
COMPILE_ARGS = ["-std=c11", "-O2", "-g0", "-pthread", "-fvisibility=hidden", "-fstack-protector-strong"]
COMPILE_ARGS += ["-Wall", "-Wextra", "-Wno-unused-parameter"]


def extensions() -> list[Extension]:
    """The extension, ready to compile; called with the project's root as the working directory, as setup.py is."""
    lane = Extension(
        "signer.engine.sdf._lane",
        sources=[str(HERE / "_lane.pyx"), str(HERE / "csrc" / "sdf_lane.c")],
        include_dirs=[str(HERE / "csrc")],
        depends=[str(HERE / "csrc" / "sdf_lane.h")],
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=["-pthread"],
    )
    found: list[Extension] = cythonize(
        [lane],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False, "embedsignature": True},
        quiet=True,
    )
    return found
