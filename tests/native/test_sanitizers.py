"""The C core under AddressSanitizer and UndefinedBehaviorSanitizer."""

from pathlib import Path

import pytest

from signer._native import cpu

from .compiling import CALLS, compile_program, core_sources, run
from .test_c_core import ARITHMETIC, FIELDS, OPERATIONS, SIMULATED

SANITIZERS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", CALLS]


@pytest.mark.parametrize("field", FIELDS)
def test_arithmetic_under_sanitizers(tmp_path: Path, field: str) -> None:
    flags = [*SANITIZERS, "-DSM2_VERIFY", *FIELDS[field]]
    program = compile_program(tmp_path / "t", "gcc", [ARITHMETIC], *flags)
    ran = run(str(program), "7")
    assert ran.returncode == 0, ran.stderr


#: The vectors that the processor has, or simulated ones in their place (test_c_core runs the simulation everywhere).
VECTORS = {"": []} if "x86-64-ifma" in cpu.backends() else {"": [], "simulated": SIMULATED}


@pytest.mark.timeout(900)  # the compiler takes its time over vectors with checks in them
@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS.keys())
def test_operations_under_sanitizers(tmp_path: Path, vectors: list[str]) -> None:
    sources = [OPERATIONS, *core_sources()]
    program = compile_program(tmp_path / "t", "gcc", sources, *SANITIZERS, "-DSM2_VERIFY", *vectors)
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
