"""The portable core on another processor: compiled for aarch64, its C tests run under qemu."""

import shutil
from pathlib import Path

import pytest

from .compiling import HERE, compile_program, core_sources, run

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PACKAGES = {COMPILER: "gcc-aarch64-linux-gnu", EMULATOR: "qemu-user"}
pytestmark = pytest.mark.timeout(900)  # an optimising compiler, and an emulator
FLAGS = ["-static", "-DSM2_VERIFY"]  # static: qemu then needs no libraries of that processor


@pytest.fixture(scope="module", autouse=True)
def _tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The compiler, the emulator and a C library, or an error that names the Debian package."""
    for tool, package in PACKAGES.items():
        assert shutil.which(tool), f"{tool} is not installed; it is in Debian's package {package}"
    directory = tmp_path_factory.mktemp("tools")
    source = directory / "hello.c"
    source.write_text(
        '#include <stdio.h>\nint main(void) { puts(sizeof(void *) == 8 ? __VERSION__ : ""); return 0; }\n'
    )
    made = run(COMPILER, "-static", str(source), "-o", str(directory / "hello"))
    assert made.returncode == 0, f"{made.stderr}\nthe C library is in Debian's package libc6-dev-arm64-cross"
    ran = run(EMULATOR, str(directory / "hello"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.parametrize("optimisation", ["-O1", "-O3"])
def test_arithmetic(tmp_path: Path, optimisation: str) -> None:
    program = compile_program(tmp_path / "t", COMPILER, [str(HERE / "test_arithmetic.c")], optimisation, *FLAGS)
    ran = run(EMULATOR, str(program), "7")
    assert ran.returncode == 0, ran.stderr
    assert " 0 failures" in ran.stdout


def test_operations(tmp_path: Path) -> None:
    sources = [str(HERE / "test_operations.c"), *core_sources()]
    program = compile_program(tmp_path / "t", COMPILER, sources, "-O3", *FLAGS)
    ran = run(EMULATOR, str(program), "quick")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "portable: 0 failures\n"
