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
from typing import Final

from cryptography.hazmat.primitives import hashes

from core.errors import Malformed, SettingsError

#: More octets than any certificate has.
_ITEM_MAX: Final = 64 * 1024
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


def _pem(name: str, file: Iterator[bytes]) -> Iterator[Item]:
    """The blocks of certificates; text and other blocks between them are passed over."""
    body: list[bytes] | None = None
    began = size = 0
    for number, line in enumerate(file, 1):
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


def _block(where: str, body: list[bytes], size: int) -> Item:
    if size > 2 * _ITEM_MAX:
        return Item(where, fault=f"more than {_ITEM_MAX} octets")
    try:
        return Item(where, base64.b64decode(b"".join(body), validate=True))
    except binascii.Error:
        return Item(where, fault="the block is not base64")


def _csv(path: Path) -> Iterator[Item]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = csv.reader(file)
        head = [name.strip().lower() for name in next(lines, [])]
        if not {"certificate", "serial"} & set(head) or not set(head) <= _CSV_COLUMNS:
            raise Malformed(
                f"{path.name}: its first line names the columns, 'certificate' or 'serial' among them; known are "
                + ", ".join(sorted(_CSV_COLUMNS)),
                code="import_csv",
            )
        while True:
            try:
                line = next(lines, None)
            except csv.Error as error:
                yield Item(f"{path.name}:{lines.line_num}", fault=str(error))
                continue
            if line is None:
                return
            if line:
                yield _line(f"{path.name}:{lines.line_num}", head, line)


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
