"""What an import reads: PEM with any number of certificates, DER, folders of both, and CSV. One item after the other.

Knows files and their forms; not what the items mean. Memory is bounded by one item, or one line of CSV. What is read is
named by a digest, so that an interrupted import goes on only in the same input.
"""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from cryptography.hazmat.primitives import hashes

from core.errors import Malformed, SettingsError

#: More octets than any certificate has.
_ITEM_MAX: Final = 64 * 1024
#: More octets than a line has, or a row of a table.
_LINE_MAX: Final = 4 * _ITEM_MAX
_CSV_COLUMNS: Final = frozenset(
    {"certificate", "serial", "status", "revoked_at", "reason", "invalidity_at", "ra", "region", "customer", "profile"}
)
_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der", ".csv"})
_BEGIN, _END = b"-----BEGIN ", b"-----END "
_LABELS: Final = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})


@dataclass(frozen=True, slots=True)
class Item:
    """One certificate or line. where: for the report. certificate: DER, b"" where a line has none. fields: the line's
    others. fault: why it cannot be read, where it cannot."""

    where: str
    certificate: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()
    fault: str | None = None

    def get(self, name: str) -> str:
        """A field of the line, "" where there is none."""
        return dict(self.fields).get(name, "")


def files_of(paths: list[Path]) -> list[Path]:
    """The files to read, folders walked through in the order of their names. Raises SettingsError where none is."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in _SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise SettingsError("there is nothing to import: no .pem, .crt, .cer, .der or .csv file", code="import_empty")
    return found


def digest_of(files: list[Path]) -> bytes:
    """SM3 over the files, in order."""
    whole = hashes.Hash(hashes.SM3())
    for path in files:
        one = hashes.Hash(hashes.SM3())
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    one.update(block)
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}", code="import_unreadable") from error
        whole.update(one.finalize())
    return whole.finalize()


def items(files: list[Path]) -> Iterator[Item]:
    """Everything in the files. Raises Malformed (code "import_csv") for a table whose head makes no sense."""
    for path in files:
        if path.suffix.lower() == ".csv":
            yield from _csv(path)
        else:
            yield from _certificates(path)


def _certificates(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        head = file.read(_ITEM_MAX + 1)
        if head[:1] == b"\x30":
            whole = len(head) <= _ITEM_MAX
            yield Item(path.name, head) if whole else Item(path.name, fault=f"more than {_ITEM_MAX} octets")
            return
        file.seek(0)
        yield from _pem(path.name, file)


def _pem(name: str, file: BinaryIO) -> Iterator[Item]:
    """The blocks of certificates; text and other blocks between them are passed over."""
    body: list[bytes] | None = None
    began = size = 0
    for number, line in _lines(file):
        text = line.strip()
        if text.startswith(_BEGIN):
            if body is not None:
                yield Item(f"{name}:{began}", fault="the block has no end")
            body = [] if text[len(_BEGIN) : -5] in _LABELS else None
            began, size = number, 0
        elif text.startswith(_END) and body is not None:
            yield _block(f"{name}:{began}", body, size)
            body = None
        elif body is not None:
            size += len(text)
            if size <= 2 * _ITEM_MAX:
                body.append(text)
    if body is not None:
        yield Item(f"{name}:{began}", fault="the block has no end")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; of a longer one than any is, what fits, and its rest is passed over."""
    number = 0
    while line := file.readline(_LINE_MAX):
        number += 1
        yield number, line
        while len(line) == _LINE_MAX and not line.endswith(b"\n"):
            line = file.readline(_LINE_MAX)


class _Rows:
    """Lines of a table for `csv.reader`. Bounds them, and what stands in one row's quotes; raises csv.Error then."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._octets = 0
        self.line_number = 0

    def begin(self) -> None:
        """The next line is the first of a row."""
        self._octets = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LINE_MAX)
        if not line:
            raise StopIteration
        self.line_number += 1
        self._octets += len(line)
        if len(line) == _LINE_MAX and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = self._file.readline(_LINE_MAX)
            raise csv.Error(f"a line of more than {_LINE_MAX} octets")
        if self._octets > _LINE_MAX:
            raise csv.Error(f"a row of more than {_LINE_MAX} octets; is a quotation mark open?")
        try:
            return line.decode("utf-8-sig" if self.line_number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise csv.Error("not UTF-8; save the table as CSV UTF-8") from error


def _block(where: str, body: list[bytes], size: int) -> Item:
    if size > 2 * _ITEM_MAX:
        return Item(where, fault=f"more than {_ITEM_MAX} octets")
    try:
        return Item(where, base64.b64decode(b"".join(body), validate=True))
    except binascii.Error:
        return Item(where, fault="the block is not base64")


def _csv(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        rows = _Rows(file)
        lines = csv.reader(rows)
        try:
            head = [name.strip().lower() for name in next(lines, [])]
        except csv.Error as error:
            raise Malformed(f"{path.name}: {error}", code="import_csv") from error
        known = {"certificate", "serial"} & set(head) and set(head) <= _CSV_COLUMNS
        if not known or len(set(head)) != len(head):
            raise Malformed(
                f"{path.name}: its first line names the columns, each once, 'certificate' or 'serial' among them; "
                "known are " + ", ".join(sorted(_CSV_COLUMNS)),
                code="import_csv",
            )
        while True:
            rows.begin()
            try:
                line = next(lines, None)
            except csv.Error as error:
                yield Item(f"{path.name}:{rows.line_number}", fault=str(error))
                continue
            if line is None:
                return
            if line:
                yield _line(f"{path.name}:{rows.line_number}", head, line)


def _line(where: str, head: list[str], line: list[str]) -> Item:
    if len(line) != len(head):
        return Item(where, fault=f"{len(line)} columns where the first line has {len(head)}")
    fields = dict(zip(head, (cell.strip() for cell in line), strict=True))
    encoded = "".join(fields.pop("certificate", "").split())
    try:
        certificate = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return Item(where, fault="the certificate is not base64")
    if len(certificate) > _ITEM_MAX:
        return Item(where, fault=f"more than {_ITEM_MAX} octets")
    return Item(where, certificate, tuple(fields.items()))
