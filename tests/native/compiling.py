"""Compile the C core with C test programs, as the C tests need it.

What a command made is kept under build/ and made anew where the command, the compiler or a file that it reads has
changed: several tests want the same objects, and compilers take most of the time that all these tests take.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import time
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


#: For builds that look for faults in what the C says, not in what an optimiser made of it: without functions that are
#: inlined by force, which sanitizers make very long.
CALLS = "-Dalways_inline=unused"
KEPT = HERE.parent.parent / "build" / "native-tests"
KEPT_DAYS = 7


def core_sources() -> list[str]:
    return sorted(str(path) for path in CORE.glob("*.c"))


def compile_program(out: Path, compiler: str, sources: list[str], *flags: str) -> Path:
    """An executable of `sources` beside this file's headers; a failure is an AssertionError."""
    shutil.copy(_kept(compiler, *STRICT, *flags, f"-I{CORE}", f"-I{HERE}", *sources), out)
    return out


def compile_objects(directory: Path, compiler: str, *flags: str) -> list[Path]:
    """One object for each file of the core."""
    objects = []
    for source in core_sources():
        out = directory / (Path(source).stem + ".o")
        shutil.copy(_kept(compiler, *STRICT, *flags, f"-I{CORE}", "-c", source), out)
        objects.append(out)
    return objects


def _kept(compiler: str, *arguments: str) -> Path:
    """What the compiler makes of these arguments, now or before; nobody changes it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr((_version(compiler), arguments)).encode())
    for file in _read_by(compiler, *arguments):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    out = KEPT / digest.hexdigest()
    with (KEPT / f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side, and one compilation is enough
        if not out.exists():
            _forget_old()
            aside = out.with_suffix(".new")
            command = [compiler, *arguments, "-o", str(aside)]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stderr}"
            aside.rename(out)
        os.utime(out)
    return out


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _read_by(compiler: str, *arguments: str) -> list[Path]:
    """The sources, every header of this project that they include, and the objects."""
    command = [compiler, "-MM", *(one for one in arguments if one != "-c" and not one.endswith(".o"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stderr}"
    words = [word for word in ran.stdout.replace("\\\n", " ").split() if not word.endswith(":")]
    return [Path(word) for word in [*dict.fromkeys(words), *(one for one in arguments if one.endswith(".o"))]]


def _forget_old() -> None:
    """Removes what was not wanted for some days."""
    for path in KEPT.iterdir():
        if path.stat().st_mtime < time.time() - KEPT_DAYS * 86_400:
            path.unlink(missing_ok=True)


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
