"""`qianyan audit`: verify, checkpoint, show, prove, check, export, search; prune and retention in a module beside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson

from core import audit_archive, audit_keeper, audit_proof
from core.audit_keeper import Walk
from core.checkpoint import Checkpoint
from core.clock import from_datetime, rfc3339
from core.errors import QianyanError, SettingsError
from core.store import audit as audit_store
from service.audit_log import audit_keeper_of
from service.commands import retention_command
from service.commands.shared import (
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
    with_store,
)
from signer.engine.verify import verify_signature

_NOT_WHOLE = 3


class _PublicKey(click.ParamType[bytes]):
    """An uncompressed point in hexadecimal."""

    name = "HEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The 65 bytes."""
        try:
            key = bytes.fromhex(value)
        except ValueError:
            key = b""
        if len(key) != 65 or key[0] != 4:
            self.fail("not an uncompressed point in hexadecimal (130 digits)", param, ctx)
        return key


class _Time(click.ParamType[int]):
    """A time with its zone, or a day in UTC; as milliseconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch."""
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; write 2026-11-20 or 2026-11-20T08:00:00+08:00", param, ctx)
        return from_datetime(at if at.tzinfo else at.replace(tzinfo=UTC))


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_directory = click.Path(exists=True, file_okay=False, path_type=Path)
_key_option = click.option(
    "--key", "public_key", type=_PublicKey(), help="The public key that signs checkpoints, from 'qianyan key show'."
)
_needed_key_option = click.option(
    "--key", "public_key", type=_PublicKey(), required=True, help="The public key that signs checkpoints."
)


@click.group()
def audit() -> None:
    """The audit record: who did what, hash-chained, in one Merkle tree with signed checkpoints.

    Keep checkpoints where the service's operators cannot write ('qianyan audit checkpoint --out FILE'): with one,
    rows that were changed, removed or cut off later show.
    """


def _read_checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.decode(path.read_bytes())


@audit.command()
@click.option("--checkpoint", "kept", type=_file, multiple=True, help="A checkpoint kept elsewhere; may be repeated.")
@click.option("--archive", type=_directory, help="Where the rows are that are no longer in the store.")
@_key_option
@config_option
@json_option
def verify(
    kept: tuple[Path, ...], archive: Path | None, public_key: bytes | None, config_file: str | None, as_json: bool
) -> None:
    """Recompute every row's hash, the tree and every checkpoint; exits 3 where one does not fit.

    Of rows that were moved to an archive the tree alone is recomputed, unless --archive names it.
    """

    async def walk() -> Walk:
        checkpoints = [_read_checkpoint(path) for path in kept]
        async with with_store(config_file) as database, database.read() as connection:
            archived = None if archive is None else audit_archive.records(archive)
            manifest = None if archive is None else audit_archive.read_manifest(archive)
            return await audit_keeper.walk(
                connection,
                verify_signature,
                public_key=public_key,
                kept=checkpoints,
                archived=archived,
                deleted=None if manifest is None else manifest.deleted,
            )

    found = run(walk())
    value = {
        "whole": found.problem is None,
        "rows": found.rows,
        "checkpoints": found.checkpoints,
        "head": found.head.hex(),
        "root": found.root.hex(),
        "broken_at": found.broken_at,
        "problem": found.problem,
    }
    said = f"{found.rows} rows and {found.checkpoints} checkpoints, whole; root {found.root.hex()}"
    print_result(value, as_json, lambda: found.problem or said)
    if found.problem is not None:
        sys.exit(_NOT_WHOLE)


@audit.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the checkpoint there as well.")
@config_option
@json_option
def checkpoint(out: Path | None, config_file: str | None, as_json: bool) -> None:
    """Sign how far the record is now, and print it."""

    async def make() -> Checkpoint:
        async with with_node(config_file) as node:
            return await audit_keeper_of(node).checkpoint()

    made = run(make())
    if out is not None:
        out.write_bytes(made.encode())
    value = {
        "size": made.size,
        "root": made.root.hex(),
        "head": made.head.hex(),
        "at": rfc3339(made.at_ms),
        "public_key": made.public_key.hex(),
        "checkpoint": made.encode().decode(),
    }
    print_result(value, as_json, lambda: made.encode().decode().rstrip("\n"))


_filters: list[Callable[[Any], Any]] = [
    click.option("--subject", help="Rows about this thing: a serial, a key, a caller."),
    click.option("--action", help="Rows of this action, or with a dot at its end of that family: 'key.'."),
    click.option("--actor", help="Rows of what this one did, such as token:ra-1."),
    click.option("--since", type=_Time(), help="Rows of this time and after it."),
    click.option("--until", type=_Time(), help="Rows before this time."),
    click.option("--limit", type=click.IntRange(1, 1_000_000), default=1_000, show_default=True),
]


def _with_filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_filters):
        command = option(command)
    return command


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    for row in rows:
        row["at"] = rfc3339(row.pop("at_ms"))
        row["detail"] = orjson.loads(row["detail"])
    if as_json:
        print_json(rows)
        return
    columns = ("seq", "at", "actor", "action", "subject", "outcome")
    print_table(columns, [[row[name] for name in columns] for row in rows], empty="no such rows")


@audit.command()
@_with_filters
@click.option("--before", type=click.IntRange(1), metavar="SEQ", help="Go on behind the last row that was shown.")
@config_option
@json_option
def show(config_file: str | None, as_json: bool, **filters: Any) -> None:
    """Show rows of the record, newest first."""

    async def read() -> list[dict[str, Any]]:
        async with with_store(config_file) as database, database.read() as connection:
            return await audit_store.find(connection, **_renamed(filters))

    _print_rows(run(read()), as_json)


def _renamed(filters: dict[str, Any]) -> dict[str, Any]:
    return {{"since": "since_ms", "until": "until_ms"}.get(name, name): value for name, value in filters.items()}


@audit.command()
@click.argument("seq", type=click.IntRange(1), required=False)
@click.option("--since-checkpoint", "earlier", type=_file, help="Prove that the record only grew since that one.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the proof goes.  [default: printed]"
)
@click.option("--archive", type=_directory, help="Where the row is, if it is no longer in the store.")
@config_option
def prove(
    seq: int | None, earlier: Path | None, out: Path | None, archive: Path | None, config_file: str | None
) -> None:
    """Prove that row SEQ is in the record, or that the record only grew; 'qianyan audit check' checks it anywhere."""
    if (seq is None) == (earlier is None):
        raise SettingsError("give either a row's number or --since-checkpoint", code="usage")

    async def make() -> dict[str, Any]:
        async with with_store(config_file) as database, database.read() as connection:
            if seq is not None:
                archived = None if archive is None else partial(audit_archive.record, archive)
                return await audit_proof.prove_row(connection, seq, archived)
            assert earlier is not None
            return await audit_proof.prove_growth(connection, _read_checkpoint(earlier))

    document = orjson.dumps(run(make()), option=orjson.OPT_INDENT_2) + b"\n"
    if out is None:
        click.echo(document, nl=False)
    else:
        out.write_bytes(document)


@audit.command()
@click.argument("proof", type=_file)
@_needed_key_option
@json_option
def check(proof: Path, public_key: bytes, as_json: bool) -> None:
    """Check a proof; needs neither the store nor the service. Exits 3 where it does not hold."""
    try:
        document = audit_proof.check_proof(proof.read_bytes(), verify_signature, public_key)
    except QianyanError as error:
        problem = error.detail
        print_result({"holds": False, "problem": problem}, as_json, lambda: f"does not hold: {problem}")
        sys.exit(_NOT_WHOLE)
    rows = Checkpoint.decode(document["checkpoint"].encode()).size
    said = f"holds: {document.get('record', 'the record only grew')} (of {rows} rows)"
    print_result({"holds": True, "kind": document["kind"], "rows": rows}, as_json, lambda: said)


@audit.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The archive's directory.")
@config_option
@json_option
def export(out: Path, config_file: str | None, as_json: bool) -> None:
    """Write the record to files, a row a line, by month; goes on where the last export ended."""

    async def write() -> audit_archive.Manifest:
        async with with_store(config_file) as database, database.read() as connection:
            return await audit_archive.export(
                connection, out, progress=lambda rows: click.echo(f"{rows} rows", err=True)
            )

    manifest = run(write())
    value = {"rows": manifest.rows, "files": [one.name for one in manifest.files]}
    print_result(value, as_json, lambda: f"{manifest.rows} rows in {len(manifest.files)} files under {out}")


@audit.command("check-archive")
@click.argument("directory", type=_directory)
@_needed_key_option
@json_option
def check_archive(directory: Path, public_key: bytes, as_json: bool) -> None:
    """Recompute an archive's hashes against its signed checkpoint, without the store. Exits 3 where they differ."""
    try:
        found = audit_archive.verify_archive(directory, verify_signature, public_key)
    except QianyanError as error:
        problem = error.detail
        print_result({"whole": False, "problem": problem}, as_json, lambda: problem)
        sys.exit(_NOT_WHOLE)
    said = f"{found.size} rows up to {rfc3339(found.at_ms)}, whole; root {found.root.hex()}"
    print_result({"whole": True, "rows": found.size, "root": found.root.hex()}, as_json, lambda: said)


@audit.command()
@click.argument("directory", type=_directory, required=False)
@click.option("--archive", type=_directory, help="The archive; the same as DIRECTORY.")
@_with_filters
@json_option
def search(directory: Path | None, archive: Path | None, as_json: bool, limit: int, **filters: Any) -> None:
    """Find rows in an archive's files, oldest first, without the store."""
    if (directory is None) == (archive is None):
        raise SettingsError("name the archive, once", code="usage")
    wanted = _matcher(**_renamed(filters))
    words = [filters[name] for name in ("subject", "actor", "action") if filters[name] is not None]
    rows = []
    for row in audit_archive.search(directory or archive or Path(), wanted, words=words):
        rows.append(row)
        if len(rows) == limit:
            break
    _print_rows(rows, as_json)


def _matcher(
    *, subject: str | None, action: str | None, actor: str | None, since_ms: int | None, until_ms: int | None
) -> Callable[[Mapping[str, Any]], bool]:
    def wanted(row: Mapping[str, Any]) -> bool:
        return (
            (subject is None or row["subject"] == subject)
            and (
                action is None or row["action"] == action or (action.endswith(".") and row["action"].startswith(action))
            )
            and (actor is None or row["actor"] == actor)
            and (since_ms is None or row["at_ms"] >= since_ms)
            and (until_ms is None or row["at_ms"] < until_ms)
        )

    return wanted


for _command in (retention_command.prune, retention_command.retention, retention_command.purge):
    audit.add_command(_command)
