"""Secrets, marked undefined, must reach no branch and no index; leaks made on purpose must be found.

Memcheck sees no division, so the objects are searched for the instruction. It
knows no AVX-512 either, so the backend written in that runs over simulated vectors.
"""

import re
from pathlib import Path

import pytest

from signer._native import cpu

from .compiling import BUILDS, HERE, compile_objects, compile_program, core_sources, need, run

pytestmark = pytest.mark.timeout(900)  # compilers and valgrind take their time
FOUND = re.compile(r"depends on uninitialised|Use of uninitialised")
SIMULATED = "simulated-ifma"
BACKENDS = [*(name for name in cpu.backends() if name != "x86-64-ifma"), SIMULATED]
MEMCHECK = ["--quiet", "--error-exitcode=9", "--track-origins=no"]


@pytest.fixture(scope="module", params=BUILDS, ids="".join)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler, optimisation = request.param
    out = tmp_path_factory.mktemp("ctime") / "ctime_test"
    sources = [str(HERE / "ctime_test.c"), *core_sources()]
    return compile_program(out, compiler, sources, optimisation, "-gdwarf-4", "-DSM2_CTIME_TEST", "-DSM2_SIMD_SHIM")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_secret_decides_anything(program: Path, backend: str) -> None:
    ran = run(need("valgrind"), *MEMCHECK, str(program), backend)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "done\n"


@pytest.mark.parametrize("backend", ["portable", SIMULATED])
@pytest.mark.parametrize("leak", ["branch", "index", "divide", "vartime"])
def test_a_leak_is_found(program: Path, leak: str, backend: str) -> None:
    ran = run(need("valgrind"), *MEMCHECK, str(program), backend, leak)
    assert ran.returncode == 9, ran.stderr
    assert FOUND.search(ran.stderr)


def divisions(objects: list[Path]) -> list[str]:
    """Instructions that divide, in any of the objects."""
    listing = run(need("objdump"), "--disassemble", "--no-show-raw-insn", *map(str, objects)).stdout
    assert "sm2" in listing
    return re.findall(r"^\s*[0-9a-f]+:\s+(i?div[blqw]?|[us]div|fdiv|v?div[ps][sd])\s", listing, re.MULTILINE)


@pytest.mark.parametrize(("compiler", "optimisation"), BUILDS)
def test_nothing_divides(tmp_path: Path, compiler: str, optimisation: str) -> None:
    assert divisions(compile_objects(tmp_path, compiler, optimisation, "-fPIC")) == []


def test_a_division_is_found(tmp_path: Path) -> None:
    source = tmp_path / "sm2_divides.c"
    source.write_text("unsigned long sm2_divide(unsigned long a, unsigned long b) { return a / b; }\n")
    ran = run("gcc", "-O2", "-c", str(source), "-o", str(tmp_path / "d.o"))
    assert ran.returncode == 0
    assert divisions([tmp_path / "d.o"]) != []
