"""`qianyan audit prune`, `retention` and `purge`: what leaves the store, until when archives have to be kept, and the
end of what was kept long enough."""

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
from service import archive_purge
from service.archive_purge import Judged
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
    rows = run(_judged(loaded, directory, manifest.files))
    if as_json:
        print_json(rows)
        return
    columns = ("file", "from", "to", "rows", "keep_until", "class")
    print_table(columns, [[row[name] for name in columns] for row in rows], empty="the archive is empty")


async def _judged(loaded: Loaded, directory: Path, files: tuple[ArchiveFile, ...]) -> list[dict[str, Any]]:
    async with open_store(loaded) as database:
        found = [
            await archive_purge.judge(database, directory, one, loaded.settings.retention, system_clock())
            for one in files
        ]
    return [
        {
            "file": one.name,
            "from": one.from_time,
            "to": one.to_time,
            "rows": one.last - one.first + 1,
            "keep_until": rfc3339(judged.until_ms),
            "class": judged.kept_by,
            "over": judged.over,
        }
        for one, judged in zip(files, found, strict=True)
    ]


@click.command()
@click.argument("directory", type=_directory)
@click.option("--delete", is_flag=True, help="Delete what is over; without it the files are only listed.")
@config_option
@json_option
def purge(directory: Path, delete: bool, config_file: str | None, as_json: bool) -> None:
    """Delete files of an archive that were kept as long as they have to be. Only lists them without --delete.

    Archives of the audit record (from the first file on, and never the last one: what proves the rest stays), of
    certificates (`qianyan store retire`) and of signed requests (`qianyan ra retire`). Each archive is checked before
    anything of it goes, and each file that goes is on the audit record first.
    """
    loaded = load_settings(config_file)

    async def work() -> list[Judged]:
        async with open_store(loaded) as database:
            return await archive_purge.purge(
                database, directory, loaded.settings, system_clock, verify_signature, actor=actor(), delete=delete
            )

    found = run(work())
    rows = [one.as_json() for one in found]
    if as_json:
        print_json({"deleted": delete, "files": rows})
        return
    columns = ("file", "keep_until", "class", "over", "deleted")
    print_table(columns, [[row[name] for name in columns] for row in rows], empty="there is no archive here")
