"""Files that must be whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_new(path: Path, content: bytes | bytearray, *, mode: int = 0o644, replace: bool = False) -> None:
    """Writes `content` under another name, syncs it, and renames it to `path`, so that no reader sees a part of it.

    Raises FileExistsError where `path` exists and `replace` is not set.
    """
    if not replace and path.exists():
        raise FileExistsError(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
