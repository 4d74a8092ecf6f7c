"""Every backend this processor can run gives the same answers; one it cannot is refused, never replaced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signer._native import cpu

HERE = Path(__file__).parent
SUITES = [
    "test_native_sm3.py",
    "test_native_vectors.py",
    "test_native_sm2_keys.py",
    "test_native_sm2_sign.py",
    "test_native_sm2_batch.py",
    "test_native_sm2_digest.py",
    "test_native_sm2_encrypt.py",
    "test_native_sm2_agree.py",
    "test_native_sm2_nonce.py",
    "test_native_key_tables.py",
]


def with_backend(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, under this backend."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "QIANYAN_NATIVE_BACKEND": name},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_best_backend_is_the_default() -> None:
    if "QIANYAN_NATIVE_BACKEND" in os.environ:
        assert cpu.backend() == os.environ["QIANYAN_NATIVE_BACKEND"]
    else:
        assert cpu.backend() == cpu.backends()[0]
    assert "portable" in cpu.backends()
    assert cpu.features()["backend"] == cpu.backend()


@pytest.mark.parametrize("name", cpu.backends())
def test_a_backend_can_be_forced(name: str) -> None:
    ran = with_backend(name, "-c", "from signer._native import cpu, sm2, sm3; print(cpu.backend())")
    assert (ran.returncode, ran.stdout.strip()) == (0, name), ran.stderr


@pytest.mark.parametrize("module", ["sm2", "sm3"])
def test_an_unknown_backend_fails_the_import(module: str) -> None:
    """Neither the best nor the plain one steps in for a name that was not understood."""
    ran = with_backend("no-such-backend", "-c", f"from signer._native import {module}")
    assert ran.returncode != 0
    assert "ImportError" in ran.stderr
    assert "no-such-backend" in ran.stderr


@pytest.mark.timeout(900)
def test_every_other_backend_passes_the_same_tests() -> None:
    suites = [str(HERE / suite) for suite in SUITES]
    for name in cpu.backends():
        if name != cpu.backend():
            ran = with_backend(name, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites)
            assert ran.returncode == 0, f"{name}\n{ran.stdout[-4000:]}"
