"""`qianyan store`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import click
import orjson

from core.errors import SettingsError
from core.store import copy as copying
from core.store.copy import Condition
from core.store.database import Database, create_database, open_database, upgrade_database
from core.store.settings import StoreSettings, StoreTarget
from service.commands.shared import config_option, json_option, load_settings, print_result, run
from service.commands.store_backup_command import backup, check_backup_command, restored_command
from service.commands.store_years_command import partitions_command, retire, retired
from service.settings import Loaded

_FOUND = 3
_STATEMENT_TIMEOUT_S = 3600.0


def _patient(target: StoreTarget) -> StoreTarget:
    """What is done here may take minutes on millions of rows."""
    return replace(target, settings=target.settings.model_copy(update={"statement_timeout_s": _STATEMENT_TIMEOUT_S}))


@click.group()
def store() -> None:
    """The store: a file, or a PostgreSQL database."""


for _command in (backup, check_backup_command, restored_command, partitions_command, retire, retired):
    store.add_command(_command)


@store.command()
@click.option(
    "--prepare",
    is_flag=True,
    help="Only what takes long (PostgreSQL); the version before may go on serving. Then stop it and run this again.",
)
@click.option("--afresh", is_flag=True, help="Throw away what was prepared, and begin again (PostgreSQL).")
@config_option
@json_option
def upgrade(prepare: bool, afresh: bool, config_file: str | None, as_json: bool) -> None:
    """Bring the store to this version's schema. Stop the service and back it up first.

    On PostgreSQL, what has to write every certificate anew is done piece by piece: it says how far it is on standard
    error (with --json one object a line), goes on where it was when it is run again, and locks nobody out. The rest is
    all of it or nothing.
    """
    loaded = load_settings(config_file)
    told = UpgradeProgress(as_json=as_json)
    before, after = run(upgrade_database(_patient(loaded.store), told, prepare=prepare, afresh=afresh))
    if before == after:
        said = "nothing to do"
    elif prepare:
        said = f"prepared; the store is at {after}: stop the service, then run 'qianyan store upgrade'"
    else:
        said = f"upgraded from {before} to {after}"
    print_result({"from": before, "to": after, "prepared": prepare}, as_json, lambda: said)


class UpgradeProgress:
    """Says on standard error how far an upgrade is: where a step begins or ends, and every two seconds between."""

    _EVERY_S = 2.0

    def __init__(self, *, as_json: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._as_json = as_json
        self._clock = clock
        self._step = ""
        self._said_at = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` of `total`; of rows both are ids, which have gaps."""
        now = self._clock()
        if step == self._step and done != total and now - self._said_at < self._EVERY_S:
            return
        self._step, self._said_at = step, now
        if self._as_json:
            click.echo(orjson.dumps({"step": step, "done": done, "total": total}), err=True)
        else:
            click.echo(f"{step}: {done} of {total} ({100 * done // max(1, total)} %)", err=True)


def _as_json(found: Condition) -> dict[str, object]:
    return {
        "revision": found.revision,
        "rows": found.rows,
        "feed_head": found.feed_head,
        "audit_rows": found.audit_rows,
        "audit_head": found.audit_head.hex(),
        "faults": list(found.faults),
    }


def _in_words(found: Condition) -> str:
    rows = ", ".join(f"{name} {count}" for name, count in found.rows.items() if count)
    state = "; ".join(found.faults) or "no fault found"
    return f"{state}; revision {found.revision}; feed at {found.feed_head}; audit verified: {found.audit_rows}; {rows}"


@store.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> None:
    """Look through the whole store; changes nothing. Exit status 3 where something is wrong.

    Opens it as the service would (schema, and on PostgreSQL the durability that is demanded of the server), counts the
    rows, and verifies the change feed, the audit chain and the pairs of certificates.
    """
    loaded = load_settings(config_file)

    async def look() -> Condition:
        database = await open_database(_patient(loaded.store))
        try:
            return await copying.check(database)
        finally:
            await database.close()

    found = run(look())
    print_result(_as_json(found), as_json, lambda: _in_words(found))
    if found.faults:
        sys.exit(_FOUND)


@store.command()
@click.option("--to", "url", required=True, metavar="URL", help="The new store: an empty database. No password in it.")
@click.option("--password-file", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="Its password.")
@config_option
@json_option
def copy(url: str, password_file: str | None, config_file: str | None, as_json: bool) -> None:
    """Copy the store into another, empty one: SQLite to PostgreSQL. Stop the service first.

    All of it or nothing: row counts, change feed and audit chain of the copy are compared before it is committed. The
    settings file is not changed: set store.url (and store.password_file) to the new one afterwards.
    """
    loaded = load_settings(config_file)
    values = {**loaded.settings.store.model_dump(), "url": url, "password_file": password_file}
    changed = loaded.settings.model_copy(update={"store": StoreSettings.model_validate(values)})
    there = _patient(Loaded(changed, loaded.file).store)
    found = run(_copy(loaded, there))
    print_result(_as_json(found), as_json, lambda: f"copied; {_in_words(found)}; now set store.url to {url}")


async def _copy(loaded: Loaded, there: StoreTarget) -> Condition:
    if there.url == loaded.store_url:
        raise SettingsError("that is the store itself", code="store_copy")
    source = await open_database(_patient(loaded.store))
    try:
        target = await _create_or_open(there)
        try:
            return await copying.copy(source, target, _progress)
        finally:
            await target.close()
    finally:
        await source.close()


async def _create_or_open(target: StoreTarget) -> Database:
    """The target with a schema: made now, or by a copy that was broken off, in which case it is empty."""
    try:
        return await create_database(target)
    except SettingsError as error:
        if error.code != "store_exists":
            raise
    return await open_database(target)


def _progress(table: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{table}: {done} of {total} ", nl=done == total, err=True)
