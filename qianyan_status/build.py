"""Say how the bulk look-ups are compiled.

Run by the project's setup.py; it is not imported at run time. The reader works without what this makes.
"""

from __future__ import annotations

from Cython.Build import cythonize
from setuptools import Extension


def extensions() -> list[Extension]:
    """The extension, ready to compile, with paths relative to the project's root."""
    found: list[Extension] = cythonize(
        [
            Extension(
                "qianyan_status._speed",
                sources=["qianyan_status/_speed.pyx"],
                extra_compile_args=["-std=c11", "-O3", "-g0", "-fvisibility=hidden", "-fstack-protector-strong"],
            )
        ],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "binding": False},
        include_path=["."],
        quiet=True,
    )
    return found
