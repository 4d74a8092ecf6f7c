"""`qianyan key show|limit|allow|deny`: how much a key may be used, by whom, and how often it was."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import click

from core.clock import rfc3339, system_clock
from core.store import key_uses, keys
from core.store.database import Database
from core.store.key_uses import KeyUses
from core.store.keys import KeyLimits, KeyRecord
from service.commands.shared import actor, config_option, json_option, print_result, run, with_store
from signer.engine.keyuse import allow_caller, change_key_limits, deny_caller


def caller_id(text: str) -> str:
    """The id of a caller as the service has it: `token:NAME` or `cert:NAME`; a bare NAME is a token's; '*' is all."""
    return text if ":" in text or text == keys.ANY_CALLER else f"token:{text}"


def record_json(record: KeyRecord) -> dict[str, Any]:
    """A key for machines."""
    return {
        "id": record.id,
        "purpose": record.purpose.value,
        "state": record.state.value,
        "owner": record.owner,
        "backend": record.backend,
        "device_index": record.device_index,
        "public_key": record.public_key.hex(),
        "created_at": rfc3339(record.created_at_ms),
        "changed_at": rfc3339(record.changed_at_ms),
        "callers": list(record.callers),
        "max_rate": record.max_rate,
        "max_uses": record.max_uses,
        "hours": record.hours,
    }


def _lines(record: KeyRecord, uses: KeyUses) -> str:
    used = f"{uses.recorded} on record, {uses.reserved} allotted"
    limit = "" if record.max_uses is None else f", of {record.max_uses}"
    rows = {
        "purpose": record.purpose.value,
        "state": record.state.value,
        "owner": record.owner,
        "kept in": "the key store" if record.device_index is None else f"the devices, index {record.device_index}",
        "callers": " ".join(record.callers) or "none",
        "uses": used + limit,
        "rate": "no limit" if record.max_rate is None else f"{record.max_rate} a second",
        "hours": record.hours or "always",
        "certificate": "yes" if record.certificate is not None else "no",
        "created": rfc3339(record.created_at_ms),
        "changed": rfc3339(record.changed_at_ms),
        "public key": record.public_key.hex(),
    }
    return "\n".join([record.id, *(f"  {name:<12}{value}" for name, value in rows.items())])


async def read_key(database: Database, key_id: str) -> tuple[KeyRecord, KeyUses]:
    """A key and how often it was used."""
    async with database.read() as connection:
        return await keys.get(connection, key_id), await key_uses.get(connection, key_id)


def _print(found: tuple[KeyRecord, KeyUses], as_json: bool) -> None:
    record, uses = found
    value = {**record_json(record), "uses": {"recorded": uses.recorded, "allotted": uses.reserved}}
    print_result(value, as_json, lambda: _lines(record, uses))


def _changed(
    config_file: str | None, as_json: bool, key_id: str, change: Callable[[Database], Coroutine[Any, Any, KeyRecord]]
) -> None:
    async def write() -> tuple[KeyRecord, KeyUses]:
        async with with_store(config_file) as database:
            await change(database)
            return await read_key(database, key_id)

    _print(run(write()), as_json)


@click.command()
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def show(key_id: str, config_file: str | None, as_json: bool) -> None:
    """Show key ID: what it is for, its limits and callers, and how often it was used.

    "On record" are uses that the audit record counts: up to a minute behind a running service. "Allotted" are uses that
    services have taken out to make: never fewer than were made, and exact for a key with a total.
    """

    async def read() -> tuple[KeyRecord, KeyUses]:
        async with with_store(config_file) as database:
            return await read_key(database, key_id)

    _print(run(read()), as_json)


@click.command()
@click.argument("key_id", metavar="ID")
@click.option("--max-rate", type=click.IntRange(1), metavar="N", help="At most N uses a second.")
@click.option("--no-rate", is_flag=True, help="No limit on the rate.")
@click.option("--max-uses", type=click.IntRange(0), metavar="N", help="At most N uses since the key was made.")
@click.option("--no-uses", is_flag=True, help="No limit on the total.")
@click.option("--hours", metavar="HOURS", help="As 'Mon-Fri 08:00-18:00 Asia/Shanghai'; several divided by ';'.")
@click.option("--no-hours", is_flag=True, help="At any hour.")
@config_option
@json_option
def limit(
    key_id: str,
    max_rate: int | None,
    no_rate: bool,
    max_uses: int | None,
    no_uses: bool,
    hours: str | None,
    no_hours: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Change the limits of key ID; what is not named stays. Running services obey from the commit on."""
    given = {"max_rate": (max_rate, no_rate), "max_uses": (max_uses, no_uses), "hours": (hours, no_hours)}
    both = [name for name, (value, none) in given.items() if value is not None and none]
    if both:
        raise click.UsageError(f"--{both[0].replace('_', '-')} and its --no- form exclude each other")
    changes: dict[str, Any] = {name: value for name, (value, none) in given.items() if value is not None or none}
    if not changes:
        raise click.UsageError("name at least one limit to change")

    def changed(before: KeyLimits) -> KeyLimits:
        return replace(before, **changes)

    _changed(
        config_file,
        as_json,
        key_id,
        lambda database: change_key_limits(database, key_id, changed, actor(), system_clock),
    )


@click.command()
@click.argument("key_id", metavar="ID")
@click.argument("caller", metavar="CALLER")
@config_option
@json_option
def allow(key_id: str, caller: str, config_file: str | None, as_json: bool) -> None:
    """Let CALLER use key ID: token:NAME (or NAME), cert:NAME, or '*' for every caller with the scope."""
    _changed(
        config_file,
        as_json,
        key_id,
        lambda database: allow_caller(database, key_id, caller_id(caller), actor(), system_clock),
    )


@click.command()
@click.argument("key_id", metavar="ID")
@click.argument("caller", metavar="CALLER")
@config_option
@json_option
def deny(key_id: str, caller: str, config_file: str | None, as_json: bool) -> None:
    """Take CALLER from those who may use key ID. Running services refuse it from the commit on."""
    _changed(
        config_file,
        as_json,
        key_id,
        lambda database: deny_caller(database, key_id, caller_id(caller), actor(), system_clock),
    )
