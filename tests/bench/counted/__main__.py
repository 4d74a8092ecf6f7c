"""Counts instructions under callgrind, and holds them against tests/bench/counted/limits.json.

    python -m tests.bench.counted            # counts beside their limits
    python -m tests.bench.counted --write    # what is counted now becomes the limit

Counted are the compiled modules as they are built, on the fastest backend that valgrind runs: it knows no AVX-512, so
that this is x86-64-adx with AVX2, never IFMA. A count is the same in every run but for what depends on where memory
lies; TOLERANCE is room for that. With another compiler than the limits were written with there is more of it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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
    """What is collected: `function`, by callgrind's pattern, and how many operations its calls are together."""

    function: str
    operations: int


OPERATIONS: Final = {
    "SM2 sign": Operation("sm2_sign_many", 8),
    "SM2 verify": Operation("__pyx_f_6signer_7_native_3sm2_verify_lanes", 8),
    "SM3 block": Operation("__pyx_pw_6signer_7_native_3sm3_1sm3", 8 * 1_000),
    "HTTP head of an OCSP request": Operation("wire_head_parse", 8),
    "CRL entry encoded, of 10,000": Operation("__pyx_pw_3crl_8_entries_7Entries_*load_rows", 10_000),
    "CRL entry assembled, of 10,000": Operation("__pyx_f_3crl_8_entries_7Entries__draft", 10_000),
    "status set look-up": Operation("__pyx_pw_14qianyan_status_6_speed_9FastIndex_*find_many", 20_000),
}
_MARK: Final = "__pyx_pw_6signer_7_native_3cpu_*backends"


def count() -> dict[str, int]:
    """Instructions of one operation each. Raises RuntimeError where valgrind or the program fails."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no"]
        command += [f"--toggle-collect={operation.function}" for operation in OPERATIONS.values()]
        command += [f"--zero-before={_MARK}", sys.executable, "-S", "-I", str(PROGRAM), str(ROOT)]
        _run(command)
        listing = _run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)])
    return {name: _of(operation, listing) for name, operation in OPERATIONS.items()}


def _run(command: list[str]) -> str:
    # One hash seed, so that dictionaries are laid out alike in every run.
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"}
    )
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed: {ran.stderr[-2000:]}")
    return ran.stdout


def _of(operation: Operation, listing: str) -> int:
    name = re.escape(operation.function).replace(r"\*", r"\w*")
    found = re.search(rf"^\s*([\d,]+) .*:{name} ", listing, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"nothing was counted in {operation.function}: was it renamed?")
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
    return {name: round(counted * (1 + room)) for name, counted in document["instructions"].items()}


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
