"""The certificates that ended in a year, as a file that outlives the store: gzipped CSV beside a manifest.

The CSV is PostgreSQL's (COPY … WITH (FORMAT csv, HEADER) reads it back): a line a certificate, by id; octets are
hexadecimal after `\\x`; what is not known is empty. A file is written beside its name, made durable, moved into place,
and read back from the disk before anything is said of it: its digest is SM3 over the file, its rows are SM3 over what
was archived, and the same digest is taken of the rows in the store. So rows are only removed that are in the file.
Knows columns and files; not when a year may go.
"""

from __future__ import annotations

import csv
import gzip
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes
from sqlalchemy import Row, TableClause, column, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import rfc3339
from core.errors import Malformed, Refused
from core.store.schema_certificates import certificates
from core.store.schema_statistics import statistics_segments

FORMAT: Final = "qianyan certificates archive v1"
COLUMNS: Final = tuple(c.name for c in certificates.c)
_AT_ONCE: Final = 1_000
_CODE: Final = "certificate_archive"
#: The longest field: a certificate in hexadecimal.
_FIELD_MAX: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class YearArchive:
    """A manifest. `rows_sm3`: over every line of the CSV but the heading. `last_not_after_ms`: the latest end.
    `segments`: for whom and by whom, by the number in the column of that name."""

    year: int
    file: str
    size: int
    sm3: str
    rows: int
    rows_sm3: str
    last_not_after_ms: int
    made_at: str
    segments: dict[str, dict[str, str]]
    columns: tuple[str, ...] = COLUMNS

    def encode(self) -> bytes:
        """JSON."""
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2) + b"\n"


class Rows:
    """What rows come to: how many, their digest, when the last of them ends, and what they were counted under."""

    def __init__(self) -> None:
        self._digest = hashes.Hash(hashes.SM3())
        self.rows = 0
        self.last_not_after_ms = 0
        self.segments: set[int] = set()

    def add(self, chunk: Sequence[Row[Any]]) -> bytes:
        """Takes some rows in; returns them as lines."""
        lines = "".join(",".join(map(_field, row)) + "\n" for row in chunk).encode()
        self._digest.update(lines)
        self.rows += len(chunk)
        self.last_not_after_ms = max(self.last_not_after_ms, *(row.not_after_ms for row in chunk))
        self.segments.update(row.segment for row in chunk if row.segment is not None)
        return lines

    def sm3(self) -> str:
        """The digest of all lines, in hexadecimal."""
        return self._digest.copy().finalize().hex()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bytes, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, str):
        # As COPY does: an empty string is not the same as nothing.
        quoted = not value or any(c in value for c in ',"\n\r\\') or value != value.strip()
        return '"' + value.replace('"', '""') + '"' if quoted else value
    return str(value)


def source(name: str) -> TableClause:
    """Rows of `certificates` under another name: a partition's."""
    return table(name, *(column(c.name, c.type) for c in certificates.c))


async def _chunks(connection: AsyncConnection, name: str, year: int) -> AsyncIterator[Sequence[Row[Any]]]:
    """The year's rows, by id, some at a time."""
    rows = source(name)
    of_year = (rows.c.status_month >= year * 12) & (rows.c.status_month < (year + 1) * 12)
    statement = select(*(rows.c[name] for name in COLUMNS)).where(of_year).order_by(rows.c.id)
    stream = await connection.stream(statement, execution_options={"yield_per": _AT_ONCE})
    async for chunk in stream.partitions(_AT_ONCE):
        yield chunk


async def look(connection: AsyncConnection, name: str, year: int) -> Rows:
    """What the rows of the year in table `name` come to, in the caller's snapshot."""
    seen = Rows()
    async for chunk in _chunks(connection, name, year):
        seen.add(chunk)
    return seen


async def write(connection: AsyncConnection, name: str, year: int, directory: Path, *, at_ms: int) -> YearArchive:
    """Writes the year's rows of table `name`, as they are in the caller's snapshot, and reads them back.

    Raises Refused (code "certificate_archive") where what is on the disk is not what was written; OSError.
    """
    path, seen = _free(directory, year), Rows()
    with _Durable(path) as file, gzip.GzipFile(path.stem, "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
        packed.write((",".join(COLUMNS) + "\n").encode())
        async for chunk in _chunks(connection, name, year):
            packed.write(seen.add(chunk))
    made = YearArchive(
        year=year,
        file=path.name,
        size=_size_of(path),
        sm3=_sm3_of(path),
        rows=seen.rows,
        rows_sm3=seen.sm3(),
        last_not_after_ms=seen.last_not_after_ms,
        made_at=rfc3339(at_ms),
        segments=await _headings(connection, seen.segments),
    )
    with _Durable(manifest_of(path)) as file:
        file.write(made.encode())
    check(manifest_of(path))
    return made


async def _headings(connection: AsyncConnection, wanted: set[int]) -> dict[str, dict[str, str]]:
    """What the numbers in the column `segment` stand for."""
    c = statistics_segments.c
    rows = await connection.execute(select(c.id, c.ra, c.region, c.customer).order_by(c.id))
    return {
        str(row.id): {"ra": row.ra, "region": row.region, "customer": row.customer} for row in rows if row.id in wanted
    }


def _free(directory: Path, year: int) -> Path:
    """A name that is not taken: what was archived stays, whatever comes after it. Makes the directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = (f"certificates-{year:04d}{'' if number == 1 else f'-{number}'}.csv.gz" for number in range(1, 10_000))
    return next(path for path in map(directory.joinpath, names) if not path.exists())


def manifest_of(path: Path) -> Path:
    """Where the manifest of a file is."""
    return path.with_name(path.name.removesuffix(".csv.gz") + ".json")


class _Durable:
    """A file written beside its name, made durable and moved into place where the block ends without an exception."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".part")

    def __enter__(self) -> Any:
        self._file = os.fdopen(os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        return self._file

    def __exit__(self, failed: object, *_: object) -> None:
        with self._file as file:
            if failed is not None:
                return
            file.flush()
            os.fsync(file.fileno())
        self._beside.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _sm3_of(path: Path) -> str:
    digest = hashes.Hash(hashes.SM3())
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.finalize().hex()


def read_manifest(path: Path) -> YearArchive:
    """Raises Malformed (code "certificate_archive") where it is none."""
    try:
        value = orjson.loads(path.read_bytes())
        if value.pop("format") != FORMAT or Path(value["file"]).name != value["file"]:
            raise ValueError("another format")
        return YearArchive(**{**value, "columns": tuple(value["columns"])})
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(f"{path} is no manifest of archived certificates", code=_CODE) from error


def check(path: Path) -> YearArchive:
    """Reads a manifest and its file. Raises Malformed; Refused (code "certificate_archive"): what does not fit."""
    said = read_manifest(path)
    file = path.with_name(said.file)
    if not file.is_file() or _sm3_of(file) != said.sm3:
        raise Refused(f"{file} is missing or was changed", code=_CODE)
    digest, count = hashes.Hash(hashes.SM3()), 0
    with gzip.open(file, "rb") as packed:
        if packed.readline().decode().rstrip("\n") != ",".join(said.columns):
            raise Refused(f"{file} has other columns than its manifest says", code=_CODE)
        while lines := packed.readlines(1 << 20):
            digest.update(b"".join(lines))
            count += sum(1 for _ in _records(lines))
    if (count, digest.finalize().hex()) != (said.rows, said.rows_sm3):
        raise Refused(f"{file} has other rows than its manifest says", code=_CODE)
    return said


def _records(lines: Iterable[bytes]) -> Iterator[list[str]]:
    csv.field_size_limit(min(_FIELD_MAX, sys.maxsize))
    return csv.reader(line.decode() for line in lines)


def find(directory: Path, serial: bytes) -> Iterator[dict[str, str]]:
    """Every archived row with that serial (big-endian, minimal), with what its segment stands for.

    Raises Refused (code "certificate_archive") at a file that is not as its manifest says.
    """
    wanted = ("\\x" + serial.hex()).encode()
    for path in sorted(directory.glob("certificates-*.json")):
        said = read_manifest(path)
        if _sm3_of(path.with_name(said.file)) != said.sm3:
            raise Refused(f"{said.file} was changed", code=_CODE)
        place = said.columns.index("serial")
        with gzip.open(path.with_name(said.file), "rb") as packed:
            for line in packed:
                if wanted in line and (row := next(_records([line])))[place].encode() == wanted:
                    found = dict(zip(said.columns, row, strict=True))
                    yield found | said.segments.get(found["segment"], {})
