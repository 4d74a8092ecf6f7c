"""The C core by itself: arithmetic at its extremes, every backend."""

import os
from pathlib import Path

import pytest

from .compiling import BUILDS, COMPILERS, HERE, compile_program, core_sources, has_adx, need, run

FIELDS = {"portable": [], **({"x86-64-adx": ["-DSM2_FE_X86_64"]} if has_adx() else {})}
# With the vectors of the IFMA backend simulated in C, so that every machine runs its code.
SIMULATED = ["-DSM2_SIMD_SHIM"]
ARITHMETIC = str(HERE / "test_arithmetic.c")
OPERATIONS = str(HERE / "test_operations.c")


def test_there_are_compilers() -> None:
    need("gcc")
    need("clang")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_arithmetic(tmp_path: Path, compiler: str, field: str) -> None:
    program = compile_program(tmp_path / "t", compiler, [ARITHMETIC], "-O3", "-DSM2_VERIFY", *FIELDS[field])
    ran = run(str(program))
    assert ran.returncode == 0, ran.stderr
    assert " 0 failures" in ran.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("compiler", "optimisation"), BUILDS)
def test_operations(tmp_path: Path, compiler: str, optimisation: str) -> None:
    sources = [OPERATIONS, *core_sources()]
    program = compile_program(tmp_path / "t", compiler, sources, optimisation, "-DSM2_VERIFY")
    ran = run(str(program))
    assert ran.returncode == 0, ran.stderr
    assert "portable: 0 failures" in ran.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("compiler", "optimisation"), BUILDS[-1:] if len(BUILDS) == 2 else BUILDS)
def test_operations_on_simulated_vectors(tmp_path: Path, compiler: str, optimisation: str) -> None:
    sources = [OPERATIONS, *core_sources()]
    program = compile_program(tmp_path / "t", compiler, sources, optimisation, "-DSM2_VERIFY", *SIMULATED)
    ran = run(str(program), "quick")
    assert ran.returncode == 0, ran.stderr
    assert "simulated-ifma: 0 failures" in ran.stdout


def test_the_core_stays_apart() -> None:
    """No allocation, no Python, no printing in the C core; VERIFY_CHECK alone may print.

    Vector instructions come in at one place for each kind, which tests can put a simulation in.
    """
    forbidden = ("malloc(", "calloc(", "realloc(", "Python.h", "printf(", "immintrin.h")
    allowed = {
        "sm2_common.h": ["printf("],
        "sm2_ifma_vec_impl.h": ["immintrin.h"],
        "sm3_unit_impl.h": ["immintrin.h"],
    }
    for name in os.listdir(HERE.parent.parent / "signer" / "_native" / "csrc"):
        text = (HERE.parent.parent / "signer" / "_native" / "csrc" / name).read_text()
        found = [word for word in forbidden if word in text]
        assert found == allowed.get(name, []), f"{name}: {found}"
