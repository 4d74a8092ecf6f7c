"""A short run of each fuzzing program over the kept corpus; longer ones find more (`QIANYAN_FUZZ_SECONDS`).

The corpus is read, never written: what a run finds worth keeping goes to a directory of its own, named by
`QIANYAN_FUZZ_KEEP`. An input that breaks a promise is part of the failure, in hexadecimal.
"""

import os
import re
from pathlib import Path

import pytest

from tests.native.compiling import CALLS, compile_objects, compile_program, need, run

HERE = Path(__file__).resolve().parent
PROGRAMS = ["signature_der", "ciphertext_der", "point", "verify", "hash", "http_head"]
WIRE = HERE.parent.parent / "service" / "wire" / "csrc"
SECONDS = float(os.environ.get("QIANYAN_FUZZ_SECONDS", "3"))
KEEP = os.environ.get("QIANYAN_FUZZ_KEEP")
CORE = ["-O1", CALLS, "-g1", "-DSM2_VERIFY", "-fsanitize=fuzzer-no-link,address"]
FLAGS = ["-O1", "-g1", "-DSM2_VERIFY", "-fsanitize=fuzzer,address"]
LONGEST = {"signature_der": 128, "ciphertext_der": 400, "point": 80, "verify": 2600, "hash": 160, "http_head": 1200}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The objects of the core, compiled once for all programs."""
    return [str(path) for path in compile_objects(tmp_path_factory.mktemp("core"), "clang", *CORE)]


@pytest.fixture(scope="module", autouse=True)
def _fuzzer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """clang and its fuzzing library, or an error that names the Debian package."""
    need("clang")
    source = tmp_path_factory.mktemp("fuzzer") / "empty.c"
    source.write_text("int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { (void)p; (void)n; return 0; }\n")
    made = run("clang", "-fsanitize=fuzzer", str(source), "-o", str(source.with_suffix("")))
    assert made.returncode == 0, f"{made.stderr}\nlibFuzzer is in Debian's package libclang-rt-14-dev"


def fuzz(program: Path, directory: Path, *corpus: Path, seconds: float, longest: int) -> tuple[int, str]:
    """The exit status and the report; `directory` gets what is found."""
    found = directory / "found"
    found.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds:.0f}", f"-max_len={longest}", "-timeout=20", "-rss_limit_mb=2048", "-seed=1"]
    where = [f"-artifact_prefix={directory}/", "-print_final_stats=1", str(found), *map(str, corpus)]
    ran = run(str(program), *limits, *where, timeout=120 + 2 * seconds)
    return ran.returncode, ran.stderr


def broken(directory: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_bytes().hex()}" for path in directory.glob("*-*"))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_promise_is_broken(tmp_path: Path, core: list[str], name: str) -> None:
    corpus = HERE / "corpus" / name
    assert any(corpus.iterdir())
    sources = [str(WIRE / "wire_head.c"), f"-I{WIRE}"] if name == "http_head" else core
    program = compile_program(tmp_path / name, "clang", [str(HERE / f"{name}.c"), *sources], *FLAGS)
    directory = Path(KEEP) / name if KEEP else tmp_path
    directory.mkdir(parents=True, exist_ok=True)
    status, report = fuzz(program, directory, corpus, seconds=SECONDS, longest=LONGEST[name])
    assert status == 0, f"{report[-3000:]}\n{broken(directory)}"
    executed = re.search(r"number_of_executed_units: (\d+)", report)
    assert executed is not None
    assert int(executed[1]) > len(list(corpus.iterdir()))


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """A reader that believes a length byte, as a careless DER reader does."""
    source = tmp_path / "careless.c"
    source.write_text(
        '#include "sm2_common.h"\n'
        "int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)\n"
        "{ volatile uint8_t last = n > 2 && p[0] == 0x30 ? p[1 + p[1]] : 0; (void)last; return 0; }\n"
    )
    program = compile_program(tmp_path / "careless", "clang", [str(source)], *FLAGS)
    status, report = fuzz(program, tmp_path, seconds=20, longest=64)
    assert status != 0
    assert "heap-buffer-overflow" in report
    assert "crash-" in broken(tmp_path)


def test_programs_and_corpora_belong_together() -> None:
    assert sorted(path.stem for path in HERE.glob("*.c")) == sorted(PROGRAMS)
    assert sorted(path.name for path in (HERE / "corpus").iterdir()) == sorted(PROGRAMS)
