"""The two files of a bulk run: the requests, read from where the store says; the results, written behind what it holds.

The file of results is JSON lines: a head that names the run and the issuing chain, then one line for each request, in
order. It is only appended to, after the commit that it speaks of, and flushed to the disk; `Results.open` finds how far
it is whole, cuts off what a crash left behind that, and whoever opened it writes what is missing. Knows lines; not what
is in them, nor the store.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from core.errors import SettingsError, Unavailable
from core.http import to_base64
from signer._native import sm3
from signer.issuance.bulk_lines import Line

_BLOCK_BYTES: Final = 1 << 20
#: What a crash can have damaged at the end: more than one chunk's results.
_DOUBTFUL_BYTES: Final = 16 << 20


def digest_of(path: Path) -> bytes:
    """SM3 over the file, 32 bytes. Raises SettingsError where it cannot be read."""
    digest = sm3.SM3()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}", code="bulk_file") from error
    return digest.digest()


class Requests:
    """The lines of a file from a place on; blank ones are counted and not given."""

    def __init__(self, path: Path, *, lines: int, octets: int, line_max: int) -> None:
        self._file: BinaryIO = path.open("rb")
        self._file.seek(octets)
        self._number = lines
        self._line_max = line_max
        self.size = path.stat().st_size

    def take(self, count: int) -> list[Line]:
        """Up to `count` lines; none at the end. A line's octets include the blank ones before it."""
        found: list[Line] = []
        blank = 0
        while len(found) < count and (text := self._file.readline(self._line_max + 2)):
            self._number += 1
            octets = blank + len(text)
            whole: bytes | None = text.rstrip(b"\r\n")
            while not text.endswith(b"\n") and (text := self._file.readline(_BLOCK_BYTES)):
                octets += len(text)
                whole = None
            if whole is not None and not whole.strip():
                blank = octets
                continue
            if whole is not None and len(whole) > self._line_max:
                whole = None
            found.append(Line(self._number, octets, whole))
            blank = 0
        return found

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Results:
    """A file of results, open at its end. `last_line`: the last request of which it has the result; 0 for none."""

    def __init__(self, file: BinaryIO, last_line: int) -> None:
        self._file = file
        self.last_line = last_line

    @classmethod
    def open(cls, path: Path, run_id: bytes, authority_id: str, chain: Sequence[bytes]) -> Results:
        """Makes the file, or opens what an earlier call left. Raises SettingsError where it is another run's."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            file = os.fdopen(descriptor, "r+b")
        except OSError as error:
            raise SettingsError(f"{path} cannot be written: {error.strerror}", code="bulk_output") from error
        try:
            first = file.readline(_BLOCK_BYTES)
            head = {"run": run_id.hex(), "authority": authority_id, "chain": [to_base64(one) for one in chain]}
            encoded = orjson.dumps(head)
            if not first.endswith(b"\n") and encoded.startswith(first):  # new, or broken off before it had anything
                file.seek(0)
                file.truncate()
                results = cls(file, 0)
                results.append([encoded], 0)
                return results
            if _number(first, "run") != run_id.hex():
                raise SettingsError(f"{path} holds something else; name another output", code="bulk_output")
            return cls(file, _repair(file, len(first)))
        except BaseException:
            file.close()
            raise

    def append(self, lines: Sequence[bytes], last_line: int) -> None:
        """Writes results and waits for the disk; to be called in a thread.

        Raises Unavailable (code "bulk_output") where the disk is full or gone; what is missing then is written when the
        run goes on.
        """
        try:
            self._file.write(b"".join([line + b"\n" for line in lines]))
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise Unavailable(f"the file of results cannot be written: {error.strerror}", code="bulk_output") from error
        self.last_line = last_line

    def close(self) -> None:
        """Closes the file; what a full disk did not take is not tried again."""
        with contextlib.suppress(OSError):
            self._file.close()


def _number(line: bytes, member: str) -> object:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value.get(member) if isinstance(value, dict) else None


def _repair(file: BinaryIO, begin: int) -> int:
    """Cuts off what is not whole at the end; leaves the file there and returns the last line's number."""
    size = file.seek(0, os.SEEK_END)
    at = max(begin, size - _DOUBTFUL_BYTES)
    file.seek(at)
    if at > begin:
        at += len(file.readline())
    last = 0
    for line in file:
        number = _number(line, "line") if line.endswith(b"\n") else None
        if not isinstance(number, int) or number <= last:
            break
        last, at = number, at + len(line)
    file.seek(at)
    file.truncate()
    return last
