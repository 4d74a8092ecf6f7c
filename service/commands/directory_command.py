"""`qianyan directory`: status, check, load, retry, forget."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.clock import rfc3339, system_clock
from core.errors import NotFound
from core.store import certificates, outbox, publication
from service.commands.shared import (
    config_option,
    json_option,
    load_settings,
    print_json,
    print_result,
    print_table,
    run,
)
from service.node import open_directory
from service.opening import open_store
from status.directory.check import Checker, Report
from status.directory.drive import drive
from status.directory.ldif import LdifExport
from status.directory.service import DirectoryService, Standing
from status.directory.settings import LdapTargetSettings

_target_option = click.option(
    "--target", "name", metavar="NAME", help="Which of [[directory.targets]]; not needed where there is one."
)


@click.group()
def directory() -> None:
    """Publication to LDAP directories and object stores (docs/directory.md)."""


@asynccontextmanager
async def _open(config_file: str | None) -> AsyncIterator[DirectoryService]:
    loaded = load_settings(config_file)
    async with open_store(loaded) as database:
        yield open_directory(loaded, database, system_clock)


def _bar(total_text: str) -> Progress:
    """Progress for people, on standard error."""
    columns = (TextColumn(total_text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _row(standing: Standing) -> dict[str, Any]:
    target = standing.target
    return {
        "target": standing.name,
        "where": standing.where,
        "position": None if target is None else target.position,
        "pending": standing.pending,
        "lag_s": round(standing.lag_s, 1),
        "loading": target is not None and target.loading_to is not None,
        "refused": standing.refused,
        "to_retry": standing.waiting,
        "publisher": None if target is None else target.holder,
        "changed_at": None if target is None else rfc3339(target.changed_at_ms),
        "trouble": None if target is None else target.trouble,
        "aside": [
            {"topic": a.topic, "reference": a.reference, "reason": a.reason, "attempts": a.attempts, "retry": a.retry}
            for a in standing.aside
        ],
    }


@directory.command()
@click.option(
    "--most", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Refusals to show of each."
)
@config_option
@json_option
def status(most: int, config_file: str | None, as_json: bool) -> None:
    """Say how far each target is, and what it refused; exits 3 where one lacks anything or is in trouble."""

    async def read() -> list[Standing]:
        async with _open(config_file) as service:
            return await service.status(most=most)

    rows = [_row(standing) for standing in run(read())]
    if as_json:
        print_json(rows)
    else:
        columns = ["target", "where", "position", "pending", "lag_s", "loading", "refused", "to_retry", "publisher"]
        print_table(columns, [[row[c] for c in columns] for row in rows], empty="no [[directory.targets]] are set")
        for row in rows:
            if row["trouble"]:
                click.echo(f"{row['target']}: {row['trouble']}")
            for one in row["aside"]:
                click.echo(f"{row['target']}: refused {one['topic']} {one['reference']}: {one['reason']}")
    if any(row["pending"] or row["refused"] or row["trouble"] or row["loading"] for row in rows):
        sys.exit(3)


@directory.command()
@_target_option
@click.option("--repair", is_flag=True, help="Have the publisher put right what is wrong, and wait for it.")
@config_option
@json_option
def check(name: str | None, repair: bool, config_file: str | None, as_json: bool) -> None:
    """Compare a directory with the store, every certificate both ways; exits 3 where they differ.

    With --repair also exits 3 where something could not be put right; `qianyan directory status` says why.
    """

    async def look() -> tuple[Report, Standing]:
        async with _open(config_file) as service:
            target = service.target(name)
            with _bar("certificates") as bar:
                task = bar.add_task("", total=None)
                report = await Checker(service, target, repair=repair).run(
                    lambda there, here: bar.update(task, completed=there + here)
                )
            if repair and not report.good:
                await drive(service, target)
            return report, next(one for one in await service.status(most=0) if one.name == target.name)

    report, standing = run(look())
    value = {
        "in_directory": report.in_directory,
        "in_store": report.in_store,
        "others": report.others,
        "differences": dict(report.differences),
        "examples": [{"kind": kind, "what": what} for kind, what in report.examples],
        "pending": standing.pending,
        "repaired": repair and not report.good and not standing.refused,
    }
    if as_json:
        print_json(value)
    else:
        for kind, what in report.examples:
            click.echo(f"{kind}: {what}")
        found = ", ".join(f"{count} {kind}" for kind, count in report.differences.items()) or "no differences"
        late = f"; {standing.pending} changes are not delivered yet" if standing.pending else ""
        click.echo(f"{report.in_directory} certificates there, {report.in_store} to be there: {found}{late}")
    if not report.good and not value["repaired"]:
        sys.exit(3)


@directory.command()
@_target_option
@click.option("--ldif", "ldif_file", type=click.Path(dir_okay=False, path_type=Path), help="Write LDIF for slapadd.")
@click.option("--suffix", metavar="DN", help="The server's suffix, where --ldif has to make entries above the base.")
@click.option("--take-over", is_flag=True, help="Publish there although another store did: it is gone for good.")
@config_option
@json_option
def load(
    name: str | None,
    ldif_file: Path | None,
    suffix: str | None,
    take_over: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Deliver everything anew, whatever the directory has; may be broken off and goes on where it was.

    A running service does it and this command watches; without one, this command does it. With --ldif nothing is
    delivered: stop slapd, remove its data, `slapadd -q -l FILE`, start it, and publication goes on from there.
    """

    async def deliver() -> dict[str, Any]:
        async with _open(config_file) as service:
            target = service.target(name)
            async with service.database.read() as connection:
                total = await certificates.count(connection)
            with _bar("certificates") as bar:
                task = bar.add_task("", total=total)

                def advance(done: int) -> None:
                    bar.update(task, completed=min(done, total))

                if ldif_file is not None:
                    return await _export(service, target, ldif_file, suffix, advance)
                await _ask(service, target, take_over)
                await drive(service, target, advance)
            standing = next(one for one in await service.status(most=0) if one.name == target.name)
            return {"target": target.name, "certificates": total, "refused": standing.refused}

    value = run(deliver())
    print_result(value, as_json, lambda: ", ".join(f"{key}: {one}" for key, one in value.items()))


async def _ask(service: DirectoryService, target: LdapTargetSettings, take_over: bool) -> None:
    identity = None
    if take_over:
        sink = service.sink(target)
        mark = await sink.open()
        await sink.close()
        identity = None if mark is None else mark.identity
    async with service.database.write() as connection:
        await publication.ensure(connection, target.name, at_ms=service.clock())
        to = await outbox.head(connection)
        await publication.ask_load(connection, target.name, to=to, identity=identity)


async def _export(
    service: DirectoryService,
    target: LdapTargetSettings,
    path: Path,
    suffix: str | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="ascii") as file:
        export = LdifExport(service.database, target, service.clock, file, suffix=suffix)
        position = await export.write(progress)
    part.rename(path)
    return {"file": str(path), "entries": export.entries, "refused": len(export.refused), "position": position}


@directory.command()
@_target_option
@click.argument("reference", required=False)
@click.option("--wait/--no-wait", default=True, help="Wait until it was tried.")
@config_option
@json_option
def retry(name: str | None, reference: str | None, wait: bool, config_file: str | None, as_json: bool) -> None:
    """Deliver once more what a directory refused: all of it, or one REFERENCE of `qianyan directory status`."""

    async def again() -> dict[str, Any]:
        async with _open(config_file) as service:
            target = service.target(name)
            async with service.database.write() as connection:
                count = await publication.retry(connection, target.name, reference)
            if count and wait:
                await drive(service, target)
            async with service.database.read() as connection:
                refused, _ = await publication.counts(connection, target.name)
            return {"target": target.name, "tried": count, "refused": refused}

    value = run(again())
    print_result(value, as_json, lambda: f"{value['tried']} tried again, {value['refused']} refused now")


@directory.command()
@click.argument("name")
@config_option
@json_option
def forget(name: str, config_file: str | None, as_json: bool) -> None:
    """Forget how far target NAME is, once it is out of the settings: the outbox is no longer kept for it."""

    async def remove() -> dict[str, Any]:
        async with _open(config_file) as service, service.database.write() as connection:
            if not await publication.forget(connection, name):
                raise NotFound(f"nothing is known of a target {name!r}", code="target_unknown")
        return {"forgotten": name}

    value = run(remove())
    print_result(value, as_json, lambda: f"{name} is forgotten")
