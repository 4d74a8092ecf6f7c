"""Signed requests that left the store, as files: gzipped JSON lines beside a manifest.

A line a request, with the messages that were signed as the store had them, sealed; or a line that says whose request a
certificate came from. Octets are hexadecimal. A file is written beside its name, made durable, moved into place and
read back before anything is removed. Knows rows and files; not how long what is kept.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes

from core import durable
from core.clock import rfc3339, to_datetime
from core.errors import Malformed, Refused

FORMAT: Final = "qianyan requests archive v1"
_CODE: Final = "requests_archive"


@dataclass(frozen=True, slots=True)
class RequestsArchive:
    """A manifest. `sm3`: over the file; `rows_sm3`: over its lines. keep_until: when the last of it was free to go."""

    file: str
    sm3: str
    rows_sm3: str
    requests: int
    messages: int
    issued: int
    keep_until: str
    made_at: str

    def encode(self) -> bytes:
        """JSON."""
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2) + b"\n"


class ArchiveWriter:
    """Writes one file, a line after the other; `finish` makes it durable and says what is in it. Without it, nothing
    stays."""

    def __init__(self, directory: Path, at_ms: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        day = f"{to_datetime(at_ms):%Y%m%d}"
        names = (f"requests-{day}-{number:04d}.jsonl.gz" for number in range(1, 10_000))
        self._path = next(path for path in map(directory.joinpath, names) if not path.exists())
        self._beside = self._path.with_name(self._path.name + ".part")
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._file, mtime=0)
        self._digest = hashes.Hash(hashes.SM3())
        self._at_ms = at_ms
        self._until_ms = 0
        self._requests = self._messages = self._issued = 0

    def request(self, row: dict[str, Any], evidence: list[dict[str, Any]], kept: str, until_ms: int) -> None:
        """A request. kept: the class by which it was; until_ms: how long."""
        self._add({"request": row, "evidence": evidence, "class": kept, "keep_until": rfc3339(until_ms)}, until_ms)
        self._requests += 1
        self._messages += len(evidence)

    def issued(self, row: dict[str, Any], until_ms: int) -> None:
        """Whose request a certificate came from."""
        self._add({"issued": row, "keep_until": rfc3339(until_ms)}, until_ms)
        self._issued += 1

    def _add(self, value: dict[str, Any], until_ms: int) -> None:
        line = orjson.dumps(value, option=orjson.OPT_SORT_KEYS) + b"\n"
        self._digest.update(line)
        self._packed.write(line)
        self._until_ms = max(self._until_ms, until_ms)

    def finish(self) -> RequestsArchive:
        """Durable, in place, and read back. Raises Refused (code "requests_archive") where other octets come back."""
        self._packed.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._beside.replace(self._path)
        made = RequestsArchive(
            file=self._path.name,
            sm3=sm3_of(self._path),
            rows_sm3=self._digest.finalize().hex(),
            requests=self._requests,
            messages=self._messages,
            issued=self._issued,
            keep_until=rfc3339(self._until_ms),
            made_at=rfc3339(self._at_ms),
        )
        durable.put(manifest_of(self._path), made.encode())
        return check(manifest_of(self._path))

    def abandon(self) -> None:
        """Leaves nothing of a file that was not finished."""
        self._packed.close()
        self._file.close()
        self._beside.unlink(missing_ok=True)


def manifest_of(path: Path) -> Path:
    """Where the manifest of a file is."""
    return path.with_name(path.name.removesuffix(".jsonl.gz") + ".json")


def manifests(directory: Path) -> list[Path]:
    """Every manifest of an archive, in the order in which they were made."""
    return sorted(directory.glob("requests-*.json"))


def read_manifest(path: Path) -> RequestsArchive:
    """Raises Malformed (code "requests_archive") where it is none."""
    try:
        value = orjson.loads(path.read_bytes())
        if value.pop("format") != FORMAT or Path(value["file"]).name != value["file"]:
            raise ValueError("another format")
        return RequestsArchive(**value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Malformed(f"{path} is no manifest of archived requests", code=_CODE) from error


def check(path: Path) -> RequestsArchive:
    """Reads a manifest and its file. Raises Malformed; Refused (code "requests_archive"): what does not fit."""
    said = read_manifest(path)
    digest, requests, messages, issued = hashes.Hash(hashes.SM3()), 0, 0, 0
    for line in _lines(path, said):
        digest.update(line)
        value = orjson.loads(line)
        requests += "request" in value
        issued += "issued" in value
        messages += len(value.get("evidence", ()))
    found = (requests, messages, issued, digest.finalize().hex())
    if found != (said.requests, said.messages, said.issued, said.rows_sm3):
        raise Refused(f"{said.file} has other rows than its manifest says", code=_CODE)
    return said


def find(directory: Path, request_id: str, ra_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Every archived request of that id, of that authority where one is named. Raises as `check`."""
    needle = orjson.dumps(request_id)
    for path in manifests(directory):
        for line in _lines(path, read_manifest(path)):
            if needle not in line:
                continue
            value = orjson.loads(line)
            row = value.get("request", {})
            if row.get("request_id") == request_id and ra_id in (None, row.get("ra_id")):
                yield {**value, "file": path.name}


def _lines(path: Path, said: RequestsArchive) -> Iterator[bytes]:
    file = path.with_name(said.file)
    if not file.is_file() or sm3_of(file) != said.sm3:
        raise Refused(f"{file} is missing or was changed", code=_CODE)
    with gzip.open(file, "rb") as packed:
        yield from packed


def sm3_of(path: Path) -> str:
    """SM3 over a file, in hexadecimal."""
    digest = hashes.Hash(hashes.SM3())
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.finalize().hex()
