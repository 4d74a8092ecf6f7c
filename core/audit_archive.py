"""The audit record as files: one row a line, cut by month, with a manifest that can be checked without the store.

Each line is exactly the bytes that were hashed, so the chain and the Merkle root are recomputed from the files alone
and held against the signed checkpoint in the manifest. A further export goes on where the last one ended; a file is
written beside its name, made durable, and moved into place, and the manifest comes last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import durable, merkle
from core.audit import GENESIS, link
from core.checkpoint import Checkpoint
from core.clock import rfc3339, to_datetime
from core.errors import Malformed, Refused, SettingsError
from core.ports import SignatureVerifier
from core.store import audit_tree, retention
from core.store.audit_tree import row_bytes
from core.store.schema import audit

MANIFEST: Final = "manifest.json"
#: Rows in one file at most: some tens of megabytes.
_ROWS_MAX: Final = 100_000
_MEMBERS: Final = ("seq", "at_ms", "actor", "action", "subject", "outcome", "detail")


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of the archive. `sm3`: of its bytes. `head`: the chain hash of its last row."""

    name: str
    first: int
    last: int
    from_time: str
    to_time: str
    sm3: str
    head: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """The beginning of the record that was kept long enough and is in no file any more: rows 1 to `size`.

    What is left of them: the chain hash of the last and of the first, the roots of the complete subtrees over them, by
    which all that comes after is proved as before (hexadecimal); and which files they were, by name and digest.
    """

    size: int
    head: str
    origin: str
    peaks: tuple[str, ...]
    files: tuple[tuple[str, str], ...]

    @property
    def tree(self) -> merkle.Frontier:
        """The tree over the rows."""
        return merkle.Frontier.of(self.size, [bytes.fromhex(peak) for peak in self.peaks])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds. `checkpoint`: the signed one that its last row is in, as text."""

    files: tuple[ArchiveFile, ...]
    checkpoint: str
    deleted: Deleted | None = None

    @property
    def rows(self) -> int:
        """The last row in the files."""
        return self.files[-1].last if self.files else 0

    def encode(self) -> bytes:
        """JSON."""
        value: dict[str, Any] = {"format": "qianyan audit archive v1", "files": [asdict(one) for one in self.files]}
        if self.deleted is not None:
            value["deleted"] = asdict(self.deleted)
        return orjson.dumps(value | {"checkpoint": self.checkpoint}, option=orjson.OPT_INDENT_2) + b"\n"


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of an archive; None where the directory has none. Raises Malformed (code "audit_archive")."""
    try:
        data = (directory / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = orjson.loads(data)
        files = tuple(ArchiveFile(**one) for one in value["files"])
        if any(Path(one.name).name != one.name for one in files):
            raise ValueError("a name outside the archive")
        return Manifest(files, value["checkpoint"], _read_deleted(value.get("deleted")))
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(f"{directory / MANIFEST} is no manifest of an audit archive", code="audit_archive") from error


def _read_deleted(value: Any) -> Deleted | None:
    """Raises ValueError, TypeError, KeyError."""
    if value is None:
        return None
    files = tuple((str(name), str(sm3)) for name, sm3 in value["files"])
    if any(Path(name).name != name for name, _ in files):
        raise ValueError("a name outside the archive")
    read = Deleted(int(value["size"]), value["head"], value["origin"], tuple(value["peaks"]), files)
    if read.tree.size != read.size or {len(bytes.fromhex(text)) for text in (read.head, read.origin)} != {32}:
        raise ValueError("not the beginning of a record")
    return read


async def export(
    connection: AsyncConnection, directory: Path, *, progress: Callable[[int], None] = lambda rows: None
) -> Manifest:
    """Writes what the newest checkpoint covers and the archive lacks; returns the manifest.

    Raises SettingsError (code "audit_checkpoint", "audit_archive"): there is no checkpoint yet, or the directory holds
    the archive of another record.
    """
    checkpoint = await audit_tree.newest_checkpoint(connection)
    if checkpoint is None:
        raise SettingsError("there is no checkpoint yet; run 'qianyan audit checkpoint' first", code="audit_checkpoint")
    before = _open(directory)
    files = list(before.files) if before else []
    pruned = await retention.newest(connection)
    if pruned.size > (files[-1].last if files else 0):
        raise SettingsError(
            f"rows up to {pruned.size} are in an archive alone; go on with that one, not with {directory}",
            code="audit_archive",
        )
    if files and await audit_tree.head(connection, files[-1].last) != bytes.fromhex(files[-1].head):
        raise SettingsError(f"{directory} holds the archive of another record", code="audit_archive")
    async for rows in _months(connection, files[-1].last if files else 0, checkpoint.size):
        files.append(_write(directory, rows))
        progress(len(rows))
    made = Manifest(tuple(files), checkpoint.encode().decode(), None if before is None else before.deleted)
    durable.put(directory / MANIFEST, made.encode())
    return made


def _open(directory: Path) -> Manifest | None:
    """The archive to go on with, its directory made where there is none."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return read_manifest(directory)


async def _months(connection: AsyncConnection, after: int, size: int) -> AsyncIterator[list[Any]]:
    """Rows after `after` up to `size`, by the month of their time and at most `_ROWS_MAX` together."""
    pending: list[Any] = []
    month = ""
    stream = await connection.stream(
        select(audit).where(audit.c.seq > after, audit.c.seq <= size).order_by(audit.c.seq)
    )
    async for row in stream:
        at = to_datetime(row.at_ms).strftime("%Y-%m")
        if pending and (at != month or len(pending) == _ROWS_MAX):
            yield pending
            pending = []
        month = at
        pending.append(row)
    if pending:
        yield pending


def _write(directory: Path, rows: list[Any]) -> ArchiveFile:
    first, last = rows[0], rows[-1]
    name = f"audit-{to_datetime(first.at_ms):%Y-%m}-{first.seq:012d}.jsonl"
    data = b"".join(row_bytes(row) + b"\n" for row in rows)
    durable.put(directory / name, data)
    return ArchiveFile(
        name, first.seq, last.seq, rfc3339(first.at_ms), rfc3339(last.at_ms), _sm3(data).hex(), last.hash.hex()
    )


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def _lines(
    directory: Path, manifest: Manifest, within: Callable[[ArchiveFile], bool] = lambda one: True
) -> Iterator[tuple[ArchiveFile, list[bytes]]]:
    """Each file's rows. Raises Refused (code "audit_archive") where a file is not what the manifest says.

    within: which files are looked into.
    """
    for one in filter(within, manifest.files):
        try:
            data = (directory / one.name).read_bytes()
        except FileNotFoundError as error:
            raise Refused(f"{one.name} is missing", code="audit_archive") from error
        if _sm3(data).hex() != one.sm3:
            raise Refused(f"{one.name} was changed", code="audit_archive")
        yield one, data.splitlines()


def verify_archive(directory: Path, verify: SignatureVerifier, public_key: bytes) -> Checkpoint:
    """Recomputes the chain and the root from the files, and returns the checkpoint that they fit.

    Raises Refused (code "audit_archive", "signature") or Malformed: what does not fit, and where.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise Refused(f"{directory} has no {MANIFEST}", code="audit_archive")
    checkpoint = Checkpoint.decode(manifest.checkpoint.encode())
    checkpoint.check(verify, public_key)
    head, origin, tree = _beginning(manifest)
    for one, lines in _lines(directory, manifest):
        for line in lines:
            if _row(line)["seq"] != tree.size + 1:
                raise Refused(f"{one.name} lacks row {tree.size + 1}", code="audit_archive")
            head = link(head, line)
            origin = head if tree.size == 0 else origin
            tree.add(merkle.leaf_hash(line))
        if head.hex() != one.head:
            raise Refused(f"{one.name} does not fit the files before it", code="audit_archive")
    if (tree.size, tree.root(), head, origin) != (checkpoint.size, checkpoint.root, checkpoint.head, checkpoint.origin):
        raise Refused("the files are not what the checkpoint says: rows are missing or others", code="audit_archive")
    return checkpoint


def _beginning(manifest: Manifest) -> tuple[bytes, bytes, merkle.Frontier]:
    """Head, origin and tree before the first row that is in a file."""
    gone = manifest.deleted
    if gone is None:
        return GENESIS, GENESIS, merkle.Frontier()
    return bytes.fromhex(gone.head), bytes.fromhex(gone.origin), gone.tree


def delete_first(directory: Path, count: int) -> None:
    """Deletes the first `count` files, but never the last one; what proves the rest stays in the manifest.

    The caller has verified the archive. The manifest is written first; where that is as far as it came, the next call
    deletes what it says is deleted.
    """
    manifest = _needed(directory)
    going = manifest.files[: min(count, len(manifest.files) - 1)]
    if going:
        _, origin, tree = _beginning(manifest)
        for _, lines in _lines(directory, manifest, lambda one: one in going):
            for line in lines:
                origin = link(GENESIS, line) if tree.size == 0 else origin
                tree.add(merkle.leaf_hash(line))
        before = () if manifest.deleted is None else manifest.deleted.files
        names = (*before, *((one.name, one.sm3) for one in going))
        peaks = tuple(peak.hex() for peak in tree.peaks)
        gone = Deleted(going[-1].last, going[-1].head, origin.hex(), peaks, names)
        manifest = Manifest(manifest.files[len(going) :], manifest.checkpoint, gone)
        durable.put(directory / MANIFEST, manifest.encode())
    for name, _ in () if manifest.deleted is None else manifest.deleted.files:
        (directory / name).unlink(missing_ok=True)


def _row(line: bytes) -> dict[str, Any]:
    try:
        return dict(zip(_MEMBERS, orjson.loads(line), strict=True))
    except (ValueError, TypeError) as error:
        raise Refused("a line is no row of an audit record", code="audit_archive") from error


def _needed(directory: Path) -> Manifest:
    manifest = read_manifest(directory)
    if manifest is None:
        raise Refused(f"{directory} has no {MANIFEST}", code="audit_archive")
    return manifest


def search(
    directory: Path, wanted: Callable[[Mapping[str, Any]], bool], *, words: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows that are `wanted`, in order, each file checked against the manifest. Raises Refused.

    words: what has to stand in a row, as one of its members or their beginning; lines without it are not decoded.
    """
    needles = [orjson.dumps(word)[:-1] for word in words]
    for _, lines in _lines(directory, _needed(directory)):
        for line in lines:
            if all(needle in line for needle in needles):
                row = _row(line)
                if wanted(row):
                    yield row


def rows_of(directory: Path, file: ArchiveFile) -> list[dict[str, Any]]:
    """One file's rows. Raises Refused."""
    found = _lines(directory, _needed(directory), lambda one: one.name == file.name)
    return [_row(line) for _, lines in found for line in lines]


def records(directory: Path) -> Iterator[bytes]:
    """Every row as it was hashed, in order. Raises Refused."""
    for _, lines in _lines(directory, _needed(directory)):
        yield from lines


def record(directory: Path, seq: int) -> bytes:
    """One row as it was hashed. Raises Refused where the archive does not have it."""
    for one, lines in _lines(directory, _needed(directory), lambda one: one.first <= seq <= one.last):
        line = lines[seq - one.first]
        if _row(line)["seq"] != seq:
            raise Refused(f"{one.name} lacks row {seq}", code="audit_archive")
        return line
    gone = _needed(directory).deleted
    if gone is not None and seq <= gone.size:
        raise Refused(f"row {seq} was kept long enough and is deleted", code="audit_archive")
    raise Refused(f"the archive has no row {seq}", code="audit_archive")
