"""The C core by itself: arithmetic at its extremes, every backend, with and without sanitizers."""

import os
from pathlib import Path

import pytest

from .compiling import COMPILERS, HERE, compile_program, core_sources, has_adx, need, run

FIELDS = {"portable": [], **({"x86-64-adx": ["-DSM2_FE_X86_64"]} if has_adx() else {})}
SANITIZERS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ARITHMETIC = str(HERE / "test_arithmetic.c")
OPERATIONS = str(HERE / "test_operations.c")


def test_there_is_a_compiler() -> None:
    need("gcc")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_arithmetic(tmp_path: Path, compiler: str, field: str) -> None:
    program = compile_program(tmp_path / "t", compiler, [ARITHMETIC], "-O3", "-DSM2_VERIFY", *FIELDS[field])
    ran = run(str(program))
    assert ran.returncode == 0, ran.stderr
    assert " 0 failures" in ran.stdout


@pytest.mark.parametrize("optimisation", ["-O1", "-O3"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_operations(tmp_path: Path, compiler: str, optimisation: str) -> None:
    sources = [OPERATIONS, *core_sources()]
    program = compile_program(tmp_path / "t", compiler, sources, optimisation, "-DSM2_VERIFY")
    ran = run(str(program))
    assert ran.returncode == 0, ran.stderr
    assert "portable: 0 failures" in ran.stdout


@pytest.mark.parametrize("field", FIELDS)
def test_arithmetic_under_sanitizers(tmp_path: Path, field: str) -> None:
    flags = [*SANITIZERS, "-DSM2_VERIFY", *FIELDS[field]]
    program = compile_program(tmp_path / "t", "gcc", [ARITHMETIC], *flags)
    ran = run(str(program), "7")
    assert ran.returncode == 0, ran.stderr


def test_operations_under_sanitizers(tmp_path: Path) -> None:
    sources = [OPERATIONS, *core_sources()]
    program = compile_program(tmp_path / "t", "gcc", sources, *SANITIZERS, "-DSM2_VERIFY")
    ran = run(str(program), "quick")
    assert ran.returncode == 0, ran.stderr


def test_the_sanitizers_can_fail(tmp_path: Path) -> None:
    """An overrun in a program built the same way must be reported."""
    source = tmp_path / "bad.c"
    source.write_text(
        "#include <stdlib.h>\n"
        "int main(int argc, char **argv)\n"
        "{ (void)argv; char *p = calloc(8, 1); int r = p[7 + argc]; free(p); return r; }\n"
    )
    program = compile_program(tmp_path / "t", "gcc", [str(source)], *SANITIZERS)
    ran = run(str(program))
    assert ran.returncode != 0
    assert "runtime error" in ran.stderr or "heap-buffer-overflow" in ran.stderr


def test_the_core_stays_apart() -> None:
    """No allocation, no Python, no printing in the C core; VERIFY_CHECK alone may print."""
    forbidden = ("malloc(", "calloc(", "realloc(", "Python.h", "printf(", "immintrin.h")
    for name in os.listdir(HERE.parent.parent / "signer" / "_native" / "csrc"):
        text = (HERE.parent.parent / "signer" / "_native" / "csrc" / name).read_text()
        found = [word for word in forbidden if word in text]
        assert not found or name == "sm2_common.h", f"{name}: {found}"
