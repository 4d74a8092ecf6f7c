"""`qianyan audit prune` and `retention`: what leaves the store, and until when archives have to be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from core import audit_archive, audit_prune
from core.audit_archive import ArchiveFile
from core.audit_prune import Pruned
from core.clock import rfc3339, system_clock
from core.errors import SettingsError
from core.store import keys
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    print_json,
    print_result,
    print_table,
    run,
)
from service.opening import open_store
from service.retention import certificate_of, ends_of, keep_until
from service.settings import Loaded
from signer.engine.verify import verify_signature

_DAY_MS = 86_400_000
_directory = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--archive", required=True, type=_directory, help="Where 'qianyan audit export' has written the record.")
@click.option("--days", type=click.IntRange(0), help="Remove rows older than so many days.  [default: the settings']")
@config_option
@json_option
def prune(archive: Path, days: int | None, config_file: str | None, as_json: bool) -> None:
    """Remove rows from the store that the archive has and that are older than retention.audit_store_days.

    The archive is recomputed first, against its signed checkpoint and the store's own tree. Every proof goes on
    working: the tree stays. Keep the archive, in two places: the rows are nowhere else then.
    """
    loaded = load_settings(config_file)
    settings = loaded.settings
    kept_days = settings.retention.audit_store_days if days is None else days

    async def remove() -> Pruned:
        async with open_store(loaded) as database:
            async with database.read() as connection:
                key = await keys.get(connection, settings.audit.key)
            return await audit_prune.prune(
                database,
                archive,
                verify_signature,
                key.public_key,
                system_clock,
                before_ms=system_clock() - kept_days * _DAY_MS,
                actor=actor(),
            )

    done = run(remove())
    value = {"rows_in_archive_alone": done.rows, "removed": done.removed}
    print_result(
        value, as_json, lambda: f"{done.removed} rows removed; rows up to {done.rows} are in the archive alone"
    )


@click.command()
@click.argument("directory", type=_directory)
@config_option
@json_option
def retention(directory: Path, config_file: str | None, as_json: bool) -> None:
    """Show until when each file of an archive has to be kept: by the classes of [retention] and certificates' ends."""
    loaded = load_settings(config_file)
    manifest = audit_archive.read_manifest(directory)
    if manifest is None:
        raise SettingsError(f"{directory} holds no archive", code="audit_archive")
    rows = run(_judge(loaded, directory, manifest.files))
    if as_json:
        print_json(rows)
        return
    columns = ("file", "from", "to", "rows", "keep_until", "class")
    print_table(columns, [[row[name] for name in columns] for row in rows], empty="the archive is empty")


async def _judge(loaded: Loaded, directory: Path, files: tuple[ArchiveFile, ...]) -> list[dict[str, Any]]:
    found = []
    async with open_store(loaded) as database:
        for one in files:
            lines = audit_archive.rows_of(directory, one)
            names = {name for row in lines if (name := certificate_of(row)) is not None}
            async with database.read() as connection:
                ends = await ends_of(connection, names)
            judged = [keep_until(row, ends, loaded.settings.retention) for row in lines]
            longest = max(judged, key=lambda pair: pair[1])
            found.append(
                {
                    "file": one.name,
                    "from": one.from_time,
                    "to": one.to_time,
                    "rows": len(lines),
                    "keep_until": rfc3339(longest[1]),
                    "class": longest[0],
                    "over": longest[1] < system_clock(),
                }
            )
    return found
