"""`java/RaRequest.java`: an RA's requests signed by BouncyCastle, as the documentation shows it to integrators."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.judges.bouncycastle import JARS, _jars, _tool

PROGRAM = Path(__file__).parent / "java" / "RaRequest.java"


def sign_with_bouncycastle(
    key: Path, certificate: Path, request: Path, out: Path, passphrase: str | None = None
) -> None:
    """Runs the program from its source: signs `request`, or adds a second signature to a signed one."""
    assert _jars() == list(JARS)
    environment = {**os.environ, **({} if passphrase is None else {"RA_PASSPHRASE": passphrase})}
    ran = subprocess.run(
        [
            _tool("java", "default-jdk-headless"),
            "-XX:TieredStopAtLevel=1",
            "-cp",
            ":".join(map(str, JARS)),
            str(PROGRAM),
            *map(str, (key, certificate, request, out)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
