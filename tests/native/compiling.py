"""Compile the C core with C test programs, as the C tests need it."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parent.parent / "signer" / "_native" / "csrc"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
#: Each compiler and each level once; every compiler at every level with QIANYAN_NATIVE_ALL (`make dudect`).
BUILDS = (
    [(compiler, level) for compiler in COMPILERS for level in ("-O1", "-O2", "-O3")]
    if "QIANYAN_NATIVE_ALL" in os.environ
    else [(compiler, level) for compiler, level in (("gcc", "-O3"), ("clang", "-O1")) if compiler in COMPILERS]
)


def core_sources() -> list[str]:
    return sorted(str(path) for path in CORE.glob("*.c"))


def compile_program(out: Path, compiler: str, sources: list[str], *flags: str) -> Path:
    """An executable of `sources` beside this file's headers; a failure is an AssertionError."""
    command = [compiler, *STRICT, *flags, f"-I{CORE}", f"-I{HERE}", "-o", str(out), *sources]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stderr}"
    return out


def compile_objects(directory: Path, compiler: str, *flags: str) -> list[Path]:
    """One object for each file of the core."""
    objects = []
    for source in core_sources():
        out = directory / (Path(source).stem + ".o")
        command = [compiler, *STRICT, *flags, f"-I{CORE}", "-c", source, "-o", str(out)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        objects.append(out)
    return objects


def run(*command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


@functools.cache
def need(tool: str) -> str:
    """The path of a tool without which the test means nothing: its absence is a failure."""
    path = shutil.which(tool)
    assert path is not None, f"{tool} is not installed; these tests do not pass without it"
    return path


def has_adx() -> bool:
    """Whether this machine can run the assembly of the x86-64 backend."""
    from signer._native import cpu

    return "x86-64-adx" in cpu.backends()
