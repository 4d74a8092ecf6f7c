"""Counts instructions under callgrind, and holds them against tests/bench/counted/limits.json.

    python -m tests.bench.counted            # counts beside their limits
    python -m tests.bench.counted --write    # what is counted now becomes the limit

Counted are the compiled modules as they are built, and, in a program of their own (kernels.c), the kernels of the
backend for BMI2, ADX and AVX2. Valgrind runs these instructions, but its processor does not tell of ADX, so that the
modules choose the portable backend; it knows no AVX-512 at all, so that the IFMA backend is not counted: `make
bench-compare` and `make bench` time it. A count is the same in every run but for what depends on where memory lies;
TOLERANCE is room for that. With another compiler than the limits were written with there is more of it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

ROOT: Final = Path(__file__).parents[3]
PROGRAM: Final = Path(__file__).parent / "program.py"
LIMITS: Final = Path(__file__).parent / "limits.json"
#: Of a count, with the compiler that the limits were written with, and with another one.
TOLERANCE: Final = 0.02
OTHER_COMPILER: Final = 0.30
_COMPILER: Final = re.compile(rb"GCC: \([^)]*\) [0-9.]+")


@dataclass(frozen=True, slots=True)
class Operation:
    """What is collected: `function`, whose `*` is the number that Cython gives a method, and how many operations its
    calls are together. No such function may call another one: callgrind would stop counting there."""

    function: str
    operations: int


OPERATIONS: Final = {
    "SM2 sign, portable": Operation("sm2_sign_many", 8),
    "SM2 verify, portable": Operation("__pyx_f_6signer_7_native_3sm2_verify_lanes", 8),
    "SM3 block, portable": Operation("__pyx_pw_6signer_7_native_3sm3_1sm3", 8 * 1_000),
    "HTTP head of an OCSP request": Operation("wire_head_parse", 8),
    "OCSP request read": Operation("__pyx_pw_6status_8_answers_*read_plain", 8),
    "OCSP answer from memory, POST": Operation("__pyx_pw_6status_8_answers_11AnswerTable_*post", 8),
    "OCSP answer from memory, GET": Operation("__pyx_pw_6status_8_answers_11AnswerTable_*get", 8),
    "OCSP answer put together": Operation("__pyx_pw_6status_8_answers_*finish", 256),
    "CRL entry encoded, of 10,000": Operation("__pyx_pw_3crl_8_entries_7Entries_*load_rows", 10_000),
    "CRL entry assembled, of 10,000": Operation("__pyx_f_3crl_8_entries_7Entries__draft", 10_000),
    "status set look-up": Operation("__pyx_pw_14qianyan_status_6_speed_9FastIndex_*find_many", 20_000),
}
_MODULES: Final = ("signer/_native", "service/wire", "status", "crl", "qianyan_status")
#: Of the accelerated backend, in kernels.c.
KERNELS: Final = {
    "k*G, ADX": Operation("counted_base", 8),
    "k*Q, ADX": Operation("counted_point", 8),
    "s*G + t*Q, ADX": Operation("counted_two", 8),
    "SM3 block, AVX2, eight at once": Operation("counted_sm3_lanes", 8 * 1_000),
}
_CORE: Final = ROOT / "signer" / "_native" / "csrc"
#: As signer/_native/build.py has it; what is only linked is not worth the compiler's time.
_FLAGS: Final = ("-std=c11", "-fPIC", "-fvisibility=hidden", "-fstack-protector-strong", f"-I{_CORE}")
_SOURCES: Final = ("sm2_backend_x86_64_adx", "sm2_cpu", "sm2_table", "sm3_many", "sm3_many_avx2")
_LINKED: Final = "sm3_many_avx512"
_MARK: Final = "__pyx_pw_6signer_7_native_3cpu_*backends"


def accelerated() -> bool:
    """Whether this processor has what the accelerated backend is written in."""
    from signer._native import cpu

    return "x86-64-adx" in cpu.backends()


def count() -> dict[str, int]:
    """Instructions of one operation each. Raises RuntimeError where valgrind, the compiler or a program fails."""
    symbols = _symbols()
    operations = {name: replace(one, function=_exact(one.function, symbols)) for name, one in OPERATIONS.items()}
    program = [sys.executable, "-S", "-s", str(PROGRAM), str(ROOT)]
    found = _counted(operations, program, f"--zero-before={_exact(_MARK, symbols)}")
    return found | (_counted(KERNELS, [str(kernels())]) if accelerated() else {})


def _symbols() -> str:
    """The functions of all compiled modules. Callgrind's own patterns do not tell one with a common beginning from
    another."""
    modules = [str(path) for folder in _MODULES for path in sorted((ROOT / folder).glob("*.so"))]
    return _run(["nm", "--defined-only", "--format=posix", *modules])


def _exact(function: str, symbols: str) -> str:
    """The function's name as it is in the module. Raises RuntimeError where there is none."""
    pattern = re.escape(function).replace(r"\*", r"\d+")
    found = re.search(rf"^({pattern}) [tT] ", symbols, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no compiled module has {function}: was it renamed?")
    return found[1]


def _counted(operations: Mapping[str, Operation], program: list[str], *more: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no"]
        command += [f"--toggle-collect={operation.function}" for operation in operations.values()]
        _run([*command, *more, *program])
        listing = _run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)])
    return {name: _of(operation, listing) for name, operation in operations.items()}


def kernels() -> Path:
    """The compiled kernels.c, kept under build/ for as long as its sources and the compiler are the same."""
    sources = [Path(__file__).parent / "kernels.c", *(_CORE / f"{name}.c" for name in _SOURCES)]
    seen = hashlib.sha256(_run(["gcc", "--version"]).encode())
    for file in (*sources, *sorted(_CORE.glob("*.h"))):
        seen.update(file.read_bytes())
    program = ROOT / "build" / "counted" / f"kernels-{seen.hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as directory:
            made, linked = Path(directory) / "kernels", Path(directory) / "linked.o"
            _run(["gcc", *_FLAGS, "-O0", "-c", "-o", str(linked), str(_CORE / f"{_LINKED}.c")])
            _run(["gcc", *_FLAGS, "-O3", "-o", str(made), *map(str, sources), str(linked)])
            made.replace(program)  # whole or not at all, whoever else compiles it
    return program


def _run(command: list[str]) -> str:
    # One hash seed, so that dictionaries are laid out alike in every run.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**env, "PYTHONHASHSEED": "0"})
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed: {ran.stderr[-2000:]}")
    return ran.stdout


def _of(operation: Operation, listing: str) -> int:
    found = re.search(rf"^\s*([\d,]+) .*:{re.escape(operation.function)} ", listing, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"nothing was counted in {operation.function}: is it called, or inlined?")
    return round(int(found[1].replace(",", "")) / operation.operations)


def compiler() -> str:
    """Which compiler built the core, as it says itself; empty where it does not."""
    from signer._native import sm2

    assert sm2.__file__ is not None
    found = _COMPILER.search(Path(sm2.__file__).read_bytes())
    return "" if found is None else found[0].decode()


def read_limits() -> dict[str, int]:
    """What the file says, with the room that there is."""
    document = orjson.loads(LIMITS.read_bytes())
    room = TOLERANCE if document["compiler"] == compiler() else OTHER_COMPILER
    counted = {**OPERATIONS, **(KERNELS if accelerated() else {})}
    return {name: round(n * (1 + room)) for name, n in document["instructions"].items() if name in counted}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make what is counted now the limit")
    options = parser.parse_args()
    counted = count()
    if options.write:
        document = {"compiler": compiler(), "instructions": counted}
        LIMITS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    limits = read_limits()
    for name, instructions in counted.items():
        print(f"{name:34}{instructions:12,}  of at most {limits.get(name, 0):12,}")
    if any(instructions > limits.get(name, 0) for name, instructions in counted.items()):
        sys.exit("more instructions than allowed; where that is meant, run again with --write")


if __name__ == "__main__":
    main()
