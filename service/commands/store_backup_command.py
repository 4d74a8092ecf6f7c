"""`qianyan store backup`, `check-backup` and `restored`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from core.clock import rfc3339, system_clock
from core.store import authorities, restored
from core.store.restored import Jump
from service import recovery
from service.backup import Backup, check_backup, make_backup
from service.commands.shared import actor, config_option, json_option, load_settings, print_result, run
from service.opening import open_store
from service.recovery import Recovered

_FOUND = 3
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--to", "parent", required=True, type=_DIRECTORY, help="Where a new directory is made for it.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Then remove backups there but the newest N.")
@config_option
@json_option
def backup(parent: Path, keep: int | None, config_file: str | None, as_json: bool) -> None:
    """Back up the store, keys and settings while the service runs.

    The store as of one moment, whatever is written meanwhile; not the passphrase. A store on PostgreSQL is not in it:
    PostgreSQL backs itself up.
    """
    made = make_backup(load_settings(config_file), parent, keep=keep)
    print_result(_as_json(made), as_json, lambda: _in_words(made))


def _as_json(made: Backup) -> dict[str, object]:
    return {"directory": str(made.directory), "store": made.store, "files": made.files, "bytes": made.size}


def _in_words(made: Backup) -> str:
    store = "" if made.store else "; the store is PostgreSQL's to back up, and not in it"
    return f"{made.directory}: {made.files} files, {made.size} bytes{store}"


@click.command(name="check-backup")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def check_backup_command(directory: Path, as_json: bool) -> None:
    """Say whether a backup is whole: every file there, and as it was written."""
    manifest = check_backup(directory)
    text = f"{directory} is whole: {len(manifest['files'])} files, made {manifest['made_at']} by {manifest['version']}"
    print_result(manifest, as_json, lambda: text)


@click.command(name="restored")
@click.option("--crl", "crl_files", multiple=True, type=_FILE, help="A CRL that was published after the backup, DER.")
@click.option(
    "--certificate",
    "certificate_files",
    multiple=True,
    type=_FILE,
    help="A certificate that was issued after the backup, DER or PEM: it is recorded again.",
)
@click.option(
    "--issued-at-most",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(0, 1_000_000_000),
    help="How many certificates can have been issued since the backup; so many status indexes are skipped.",
)
@click.option("--backup", "word", default="", metavar="TEXT", help="What was restored, for the audit record.")
@config_option
@json_option
def restored_command(
    crl_files: tuple[Path, ...],
    certificate_files: tuple[Path, ...],
    issued_at_most: int,
    word: str,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Make a restored store safe to go on with. Run it before anything is started on it.

    What the old store did after the backup is forgotten, but it went out. So CRL numbers, status set numbers and status
    indexes go ahead of all that can have been used, cached OCSP answers become void, CRLs and status sets of the backup
    are removed, encryption keys made in advance are dropped, permissions to unlock that were open are ended, and
    revocations that the given CRLs list are made again. Give the newest CRL of every partition: from a CDN, a
    directory, or anybody who has one. All of it is one transaction, and in the audit record. Exit status 3 where a CRL
    lists certificates that the store does not have.
    """
    jump, recovered = run(_restored(config_file, crl_files, certificate_files, issued_at_most, word[:200]))
    found = {
        "numbers_ahead": jump.numbers,
        "indexes_ahead": jump.indexes,
        "lost_since": rfc3339(jump.lost_from_ms),
        "recorded_again": recovered.recorded,
        "revoked_again": recovered.revoked,
        "unknown": recovered.unknown,
    }
    print_result(found, as_json, lambda: _told(jump, recovered))
    if recovered.unknown:
        sys.exit(_FOUND)


def _told(jump: Jump, recovered: Recovered) -> str:
    lines = [
        f"lost: what happened since {rfc3339(jump.lost_from_ms)}",
        f"CRL and status set numbers are {jump.numbers} ahead, status indexes {jump.indexes}",
        f"recorded again: {recovered.recorded} certificates; revoked again: {recovered.revoked}",
    ]
    if recovered.unknown:
        lines.append(f"revoked since, and not in this store: {', '.join(recovered.unknown)}")
    return "\n".join([*lines, "now start the service; it builds new CRLs and status sets at once"])


async def _restored(
    config_file: str | None,
    crl_files: tuple[Path, ...],
    certificate_files: tuple[Path, ...],
    most_issued: int,
    word: str,
) -> tuple[Jump, Recovered]:
    loaded = load_settings(config_file)
    index_oid = loaded.settings.issuance.status_index_oid
    async with open_store(loaded) as database:
        async with database.read() as connection:
            known = await authorities.list_all(connection)
        listed = [recovery.read_crl(file.read_bytes(), known, str(file)) for file in crl_files]
        found = [recovery.read_certificate(f.read_bytes(), known, index_oid, str(f)) for f in certificate_files]
        recovered, who, now_ms = Recovered(), actor(), system_clock()
        async with database.write() as connection:
            jump = await restored.go_ahead(connection, now_ms=now_ms, most_issued=most_issued, actor=who, backup=word)
            await recovery.record_again(connection, found, recovered, actor=who, now_ms=now_ms)
            for one in listed:
                await recovery.revoke_again(connection, one, recovered, actor=who, now_ms=now_ms)
        return jump, recovered
