"""Reads the keys' access codes from files when a device asks for them. Keeps none."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from core.errors import SettingsError

_MAX_BYTES: Final = 4_096


def read_password(path: Path) -> bytearray:
    """The first line of a file that only its owner may read; the caller wipes it. Raises SettingsError."""
    content = bytearray(_MAX_BYTES)
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise SettingsError(f"others may read the password file {path}; run: chmod 600 {path}", code="hsm_mode")
            length = file.readinto(content)
        end = content.find(b"\n", 0, length)
        line = content[: length if end < 0 else end]
        if line.endswith(b"\r"):
            line.pop()
        if not line:
            raise SettingsError(f"the password file {path} is empty", code="hsm_password_file")
        return line
    except OSError as error:
        raise SettingsError(
            f"the password file {path} cannot be read: {error.strerror}", code="hsm_password_file"
        ) from error
    finally:
        content[:] = bytes(len(content))


def password_source(files: Mapping[int, Path], default: Path | None) -> Callable[[int], bytearray]:
    """The passwords by key index: from the key's own file, else from the default one."""

    def read(index: int) -> bytearray:
        path = files.get(index, default)
        if path is None:
            raise SettingsError(
                f"no password file for key index {index}; set hsm.password_file or hsm.key_password_files",
                code="hsm_password_file",
            )
        return read_password(path)

    return read
