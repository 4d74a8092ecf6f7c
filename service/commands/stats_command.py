"""`qianyan stats`: show, check, rebuild."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

import click

from core.audit import AuditEvent
from core.clock import system_clock
from core.store import audit, statistics, statistics_rebuild
from core.store.database import open_database
from core.store.settings import StoreTarget
from core.store.statistics import DIMENSIONS, PERIODS
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    print_json,
    print_result,
    print_table,
    run,
    with_store,
)
from service.statistics import as_csv, columns, read_question
from service.statistics import as_json as answer_json

_DIFFERENT = 3
_STATEMENT_TIMEOUT_S = 3600.0


@click.group(invoke_without_command=True)
@click.pass_context
def stats(ctx: click.Context) -> None:
    """Statistics: what was issued and done, and how certificates stand, by kind, RA, region, customer and time.

    Without a command: everything in one line. Days are those of China Standard Time.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


def _only_options(command: Any) -> Any:
    for name in reversed(DIMENSIONS):
        command = click.option(f"--{name}", name, metavar="TEXT", help=f"Only this {name}.")(command)
    return command


@stats.command()
@click.option("--from", "from_", metavar="DAY", help="First day, such as 2026-01-01.  [default: the beginning]")
@click.option("--until", metavar="DAY", help="First day that is not asked about.  [default: tomorrow]")
@click.option("--by", default="", metavar="LIST", help=f"Broken down by: {', '.join(DIMENSIONS)}; with commas between.")
@click.option("--period", type=click.Choice(PERIODS), help="Broken down by time.")
@click.option(
    "--report",
    type=click.Choice(["business", "states"]),
    default="business",
    show_default=True,
    help="What was done in that time, or how all certificates stand today.",
)
@click.option("--csv", "as_comma", is_flag=True, help="Print CSV.")
@_only_options
@config_option
@json_option
def show(
    from_: str | None,
    until: str | None,
    by: str,
    period: str | None,
    report: str,
    as_comma: bool,
    config_file: str | None,
    as_json: bool,
    **only: Any,
) -> None:
    """Answer a question, from counters: as fast with ten million certificates as with ten."""
    now_ms = system_clock()
    members = {"from": from_, "until": until, "by": by, "period": period, **only}
    question = read_question({name: value for name, value in members.items() if value is not None}, now_ms)

    async def ask() -> statistics.Answer:
        async with with_store(config_file) as database, database.read() as connection:
            return await statistics.ask(connection, question, now_ms=now_ms)

    answer = run(ask())
    if as_json:
        print_json(answer_json(question, answer, now_ms))
    elif as_comma:
        click.echo(as_csv(question, answer, report), nl=False)
    else:
        head, rows = columns(question, answer.states if report == "states" else answer.business, report)
        print_table(head, rows, empty="nothing was counted")


def _patient(target: StoreTarget) -> StoreTarget:
    return replace(target, settings=target.settings.model_copy(update={"statement_timeout_s": _STATEMENT_TIMEOUT_S}))


@stats.command()
@config_option
@json_option
def rebuild(config_file: str | None, as_json: bool) -> None:
    """Count everything anew from the rows. Nothing can be issued or revoked meanwhile: minutes for ten million."""
    loaded = load_settings(config_file)

    async def count() -> int:
        database = await open_database(_patient(loaded.store))
        try:
            async with database.write() as connection:
                found = await statistics_rebuild.rebuild(connection)
                event = AuditEvent(actor(), "statistics.rebuild", "statistics", detail={"counters": found})
                await audit.append(connection, event, at_ms=system_clock())
                return found
        finally:
            await database.close()

    found = run(count())
    print_result({"counters": found}, as_json, lambda: f"{found} counters made anew")


@stats.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> None:
    """Compare the counters with the rows; exits 3 where they differ. Changes nothing."""
    loaded = load_settings(config_file)

    async def compare() -> list[statistics_rebuild.Difference]:
        database = await open_database(_patient(loaded.store))
        try:
            async with database.read() as connection:
                return await statistics_rebuild.differences(connection)
        finally:
            await database.close()

    found = run(compare())
    value = {"same": not found, "differences": [asdict(one) for one in found]}
    said = "the counters are what the rows say"
    if found:
        one = found[0]
        said = (
            f"{len(found)} counters or more differ; the first: day {one.day}, {one.event}, heading {one.segment}: "
            f"{one.counted} counted, {one.rows} by the rows; 'qianyan stats rebuild' counts anew"
        )
    print_result(value, as_json, lambda: said)
    if found:
        sys.exit(_DIFFERENT)
