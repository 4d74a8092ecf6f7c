"""The sources themselves: style, types, import contracts, compiler warnings, and what must never be written.

Lint is a test, so that one command says everything.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.compiling import STRICT, compile_objects, core_sources

pytestmark = pytest.mark.timeout(900)  # compilers and type checkers take their time
ROOT = Path(__file__).parent.parent
PACKAGES = ["core", "signer", "status", "crl", "service", "loadtest", "qianyan_status", "qianyan_ra"]


def run(*command: str) -> None:
    """Runs a tool of this environment from the root; its output is the failure."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"


def tracked(*patterns: str) -> list[Path]:
    """Files of the project's own, by pattern; without git, whatever is there outside what is built."""
    found = [path for pattern in patterns for path in ROOT.rglob(pattern)]
    own = [*PACKAGES, "tests", "docs", "tools", "requirements", "deploy"]
    return [
        path
        for path in found
        if (len(path.relative_to(ROOT).parts) == 1 or path.relative_to(ROOT).parts[0] in own)
        and "__pycache__" not in path.parts
        and not path.name.endswith("_cy.c")
    ]


def test_style() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types() -> None:
    run(sys.executable, "-m", "mypy")


def test_import_contracts() -> None:
    run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")


def test_native_core_compiles_without_a_warning(tmp_path: Path) -> None:
    """As the product is compiled, with what only an optimiser sees; and what the language alone shows, once more."""
    objects = compile_objects(tmp_path, "gcc", "-O3", "-fPIC")
    sources = core_sources()
    assert len(objects) == len(sources) > 0
    for source in sources:
        more = ["-Wconversion"] if source.endswith("/sm3.c") else []
        run("gcc", *STRICT, "-Wstrict-prototypes", *more, "-fsyntax-only", source)


def test_every_package_has_a_docstring_that_says_what_it_owns() -> None:
    bare = []
    for path in tracked("*.py"):
        if path.relative_to(ROOT).parts[0] in PACKAGES and not path.read_text().lstrip().startswith(('"""', 'r"""')):
            bare.append(str(path.relative_to(ROOT)))
    assert not bare


FORBIDDEN = {
    "a marker of unfinished work": re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"),
    "an error swallowed whole": re.compile(r"except(\s+Exception)?\s*:\s*\n\s*pass\b"),
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(home|work|root)/[a-z]"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_never_written(what: str) -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked("*.py", "*.pyx", "*.c", "*.h", "*.md", "*.toml", "Makefile", "*.sh")
        if path != Path(__file__).resolve() and FORBIDDEN[what].search(path.read_text(encoding="utf-8"))
    ]
    assert not found, what


def test_no_environment_outside_the_settings() -> None:
    """`os.environ` is read where settings are composed and nowhere else (the native core reads its own switch)."""
    allowed = {"service/settings.py", "signer/_native/__init__.py"}
    readers = {
        str(path.relative_to(ROOT))
        for path in tracked("*.py")
        if path.relative_to(ROOT).parts[0] in PACKAGES and re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers <= allowed
