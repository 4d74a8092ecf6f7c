"""Soft devices for tests: builds the library, and makes devices of it, each a copy with keys and switches."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import shutil
import struct
import subprocess
from pathlib import Path

from signer._native import sm2
from tests.native.compiling import CORE, STRICT, core_sources

HERE = Path(__file__).resolve().parent
PASSWORD = b"12345678"
ALWAYS = 0xFFFFFFFF

#: The words of `struct control` in softsdf.c.
_WORDS = (
    *("latency_us", "dead", "hang", "boot", "sign_code", "sign_failures", "open_code", "password_code"),
    *("right_epoch", "wrong", "left_aligned", "sessions_max", "alone"),
    *("signatures", "rights_asked", "wrong_passwords", "concurrent", "bad_handles"),
    *("sessions_open", "devices_open", "hanging", "most_at_once", "at_once"),
    *("imports", "ciphers"),
)


def build(*options: str) -> Path:
    """The library, compiled with warnings as errors; under build/, anew only where a source or an option has changed.

    -DSOFTSDF_BARE leaves out the functions that signing does not need.
    """
    directory = HERE.parent.parent / "build" / "softsdf"
    directory.mkdir(parents=True, exist_ok=True)
    flags = [*STRICT, "-O2", "-fPIC", "-fvisibility=hidden", f"-I{CORE}"]
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes start together, and one compilation is enough
        core = _compiled(directory / "core.o", ["gcc", *flags, "-r", *core_sources()])
        command = ["gcc", *flags, *options, "-shared", "-Wl,-Bsymbolic,-z,defs", str(HERE / "softsdf.c"), str(core)]
        return _compiled(directory / "softsdf.so", [*command, "-lpthread", "-ldl"])


def _compiled(out: Path, command: list[str]) -> Path:
    """What the command makes of its sources, from an earlier run where neither it nor a source has changed."""
    digest = hashlib.sha256(repr(command).encode())
    headers = {*map(str, CORE.glob("*.h")), *map(str, HERE.glob("*.h"))}
    for source in sorted({name for name in command if name.endswith(".c")} | headers):
        digest.update(Path(source).read_bytes())
    out = out.with_stem(f"{out.stem}-{digest.hexdigest()[:16]}")
    if not out.exists():
        aside = out.with_suffix(".new")
        ran = subprocess.run([*command, "-o", str(aside)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        aside.rename(out)
    return out


class SoftDevice:
    """One device: `device["hang"] = 1` sets a switch, `device["signatures"]` reads a report."""

    def __init__(self, library: Path, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.library = directory / "libdevice.so"
        shutil.copy(library, self.library)
        (directory / "control").write_bytes(bytes(4 * len(_WORDS)))
        (directory / "password").write_bytes(PASSWORD)
        with (directory / "control").open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 4 * len(_WORDS))

    def __getitem__(self, word: str) -> int:
        return int(struct.unpack_from("=I", self._control, 4 * _WORDS.index(word))[0])

    def __setitem__(self, word: str, value: int) -> None:
        struct.pack_into("=I", self._control, 4 * _WORDS.index(word), value)

    def put_key(self, index: int, key: sm2.PrivateKey) -> None:
        """Makes `key` the device's signing key at `index`."""
        scalar = bytearray(32)
        key.export_into(scalar)
        (self.directory / f"sign-{index}.key").write_bytes(scalar)

    def put_kek(self, index: int, key: bytes) -> None:
        """Makes the 16 octets the device's key-encryption key at `index`."""
        (self.directory / f"kek-{index}.key").write_bytes(key)

    def kill(self) -> None:
        """Everything it is asked fails from now on."""
        self["dead"] = 1

    def repair(self) -> None:
        """It answers again; what was open before is worth nothing."""
        self["boot"] += 1
        self["dead"] = self["hang"] = self["sign_failures"] = self["open_code"] = 0
