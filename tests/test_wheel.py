"""The wheel: carries what it needs, and works outside the tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # everything is compiled anew
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git would give a newcomer."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    archive = subprocess.run(
        ["tar", "--null", "-T", "-", "-cf", "-"], cwd=ROOT, input=files, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-xf", "-", "-C", str(source)], input=archive, check=True)
    # What it carries is judged here, not how fast that is: the optimiser would take most of the time.
    compiler = out / "cc"
    compiler.write_text('#!/bin/sh\nexec gcc "$@" -O1\n')
    compiler.chmod(0o755)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(out),
            str(source),
        ],
        env={**os.environ, "CC": str(compiler)},
        check=True,
    )
    return next(out.glob("qianyan-*.whl"))


def test_carries_every_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"core", "signer", "status", "crl", "service", "loadtest", "qianyan_status", "qianyan_ra"}
    modules = {str(path.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*.py")}
    assert modules - set(names) == set(), "setup.py does not list the package of these"
    assert any(name.startswith("signer/_native/sm2") and name.endswith(".so") for name in names)
    assert "signer/issuance/profiles.toml" in names
    assert "core/store/migrations/env.py" in names
    assert any(name.startswith("core/store/migrations/versions/0001") for name in names)


def test_works_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    """Installed elsewhere and run from elsewhere, the command initialises an authority."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import core, signer._native.sm2 as m; print(core.__file__); print(m.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(line.startswith(str(site)) for line in where)
    script = "from service.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", script, "init", "--dir", "ca", "--demo"], cwd=tmp_path, env=environment, check=True
    )
    listing = subprocess.run(
        [sys.executable, "-c", script, "key", "list", "--config", "ca/qianyan.toml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "ocsp-issuing" in listing
