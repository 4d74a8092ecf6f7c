"""`qianyan store partitions`, `retire` and `retired`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from core.clock import system_clock
from core.errors import NotFound
from core.model import serial_to_bytes
from core.store import counters, partitions, retiring, year_archive
from core.store.database import open_database
from core.store.partitions import Year
from core.store.retiring import Retirement
from core.store.year_archive import YearArchive
from service.commands.certificate_command import read_serial
from service.commands.shared import actor, config_option, json_option, load_settings, print_result, run
from service.settings import Loaded

_DAYS_A_YEAR = 365
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


def _years_kept(loaded: Loaded) -> int:
    """How long records are kept after the end: as set, and no shorter than OCSP answers promise."""
    promised = -(-loaded.settings.ocsp.archive_cutoff_days // _DAYS_A_YEAR)
    return max(loaded.settings.store.certificate_years, promised)


@click.command(name="partitions")
@config_option
@json_option
def partitions_command(config_file: str | None, as_json: bool) -> None:
    """List the years in which certificates end, with how many there are and what they take up.

    On PostgreSQL each is a partition, and the number is PostgreSQL's estimate. A year that is "detached" is one whose
    retirement did not finish: run `qianyan store retire` again.
    """
    loaded = load_settings(config_file)

    async def look() -> tuple[list[Year], int]:
        database = await open_database(loaded.store)
        try:
            async with database.read() as connection:
                last_ms = await counters.current(connection, counters.LAST_TIME)
                return await partitions.years(connection), last_ms
        finally:
            await database.close()

    found, last_ms = run(look())
    kept = retiring.first_kept(system_clock(), last_ms, _years_kept(loaded))
    rows = [{**asdict(one), "may_be_retired": one.year < kept} for one in found]
    print_result({"years": rows, "kept_from": kept}, as_json, lambda: _in_words(found, kept))


def _in_words(found: list[Year], kept: int) -> str:
    lines = []
    for one in found:
        size = "" if one.size is None else f", {one.size / 1e6:.1f} MB"
        state = "" if one.attached else ", detached"
        lines.append(f"{one.year}: {one.rows} certificates{size}{state}{', may be retired' if one.year < kept else ''}")
    return "\n".join([*lines, f"certificates that end in {kept} or later are kept"])


@click.command()
@click.option("--before", required=True, type=click.IntRange(1970, 9999), help="The first year that stays.")
@click.option("--archive", "directory", required=True, type=_DIRECTORY, help="Where the files are written; keep them.")
@click.option("--dry-run", is_flag=True, help="Only say which years would go.")
@config_option
@json_option
def retire(before: int, directory: Path, dry_run: bool, config_file: str | None, as_json: bool) -> None:
    """Archive and remove the certificates that ended before a year. The service may run.

    Refused where records of one are still to be kept: for store.certificate_years after its end, and no shorter than
    ocsp.archive_cutoff_days. Each year is written to a file of the archive (gzipped CSV with a manifest) and read back
    before anything is removed. Broken off, it is run again. Serials that were retired are `unknown` from then on.
    """
    loaded = load_settings(config_file)
    wish = Retirement(directory, _years_kept(loaded), actor(), system_clock)

    async def work() -> tuple[list[int], list[YearArchive]]:
        target = loaded.store
        patient = target.settings.model_copy(update={"statement_timeout_s": 600.0})
        database = await open_database(replace(target, settings=patient))
        try:
            going = await retiring.due(database, before, wish)
            said = [] if dry_run else [await retiring.retire(database, one, wish, _progress) for one in going]
            return [one.year for one in going], said
        finally:
            await database.close()

    years, done = run(work())
    print_result(
        {"years": years, "retired": [asdict(one) for one in done]},
        as_json,
        lambda: _said(years, done, dry_run=dry_run),
    )


def _progress(step: str) -> None:
    click.echo(step, err=True)


def _said(years: list[int], done: list[YearArchive], *, dry_run: bool) -> str:
    if not years:
        return "nothing to retire"
    if dry_run:
        return "would be retired: " + ", ".join(map(str, years))
    return "\n".join(f"{one.year}: {one.rows} certificates are in {one.file} (SM3 {one.sm3})" for one in done)


@click.command()
@click.argument("serial", required=False)
@click.option("--archive", "directory", required=True, type=_DIRECTORY, help="Where `retire` wrote its files.")
@json_option
def retired(serial: str | None, directory: Path, as_json: bool) -> None:
    """Find a SERIAL among retired certificates, or, without one, check every file of the archive. Needs no store."""
    if serial is None:
        checked = [year_archive.check(path) for path in sorted(directory.glob("certificates-*.json"))]
        if not checked:
            raise NotFound(f"there is no archive in {directory}", code="archive_unknown")
        rows = sum(one.rows for one in checked)
        print_result(
            {"files": [asdict(one) for one in checked]},
            as_json,
            lambda: f"{len(checked)} files are whole: {rows} certificates",
        )
        return
    found = list(year_archive.find(directory, serial_to_bytes(read_serial(serial))))
    if not found:
        raise NotFound(f"no retired certificate in {directory} has serial {serial}", code="certificate_unknown")
    print_result(
        {"certificates": found},
        as_json,
        lambda: "\n".join(f"{name}: {value}" for row in found for name, value in row.items()),
    )
