"""`qianyan key`: list, create, freeze, resume, compromise."""

from __future__ import annotations

import click

from core.clock import rfc3339, system_clock
from core.model import KeyPurpose, KeyState
from core.store import keys
from core.store.database import open_database
from core.store.keys import KeyRecord
from service.commands import key_service_command
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
    with_store,
)
from signer.engine.engine import change_key_state


@click.group()
def key() -> None:
    """Signing keys: what they are for and whether they may sign."""


key.add_command(key_service_command.request)
key.add_command(key_service_command.give_service)


def _as_json(record: KeyRecord) -> dict[str, object]:
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
    }


@key.command("list")
@config_option
@json_option
def list_keys(config_file: str | None, as_json: bool) -> None:
    """List every key."""

    async def read() -> list[KeyRecord]:
        async with with_store(config_file) as database, database.read() as connection:
            return await keys.list_all(connection)

    records = run(read())
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    rows = [
        (record.id, record.purpose.value, record.state.value, record.owner, rfc3339(record.created_at_ms))
        for record in records
    ]
    print_table(["id", "purpose", "state", "owner", "created"], rows, empty="no keys")


@key.command()
@click.argument("key_id", metavar="ID")
@click.option("--owner", default="operator", show_default=True, help="Who answers for the key.")
@click.option(
    "--device-index", type=click.IntRange(0), help="The key is in the hardware modules already, at this index."
)
@config_option
@json_option
def create(key_id: str, owner: str, device_index: int | None, config_file: str | None, as_json: bool) -> None:
    """Make a new key ID for data signing; it is kept encrypted in the key store.

    With --device-index, register a key that the hardware modules ([hsm]) hold: each that has it must prove so.
    """

    async def make() -> KeyRecord:
        async with with_node(config_file) as node:
            if device_index is None:
                await node.engine.create_key(key_id, KeyPurpose.DATA, owner, actor())
            else:
                await node.engine.register_device_key(key_id, KeyPurpose.DATA, owner, device_index, actor())
            async with node.database.read() as connection:
                return await keys.get(connection, key_id)

    record = run(make())
    print_result(_as_json(record), as_json, lambda: f"created {record.id} ({record.public_key.hex()})")


def _change(key_id: str, state: KeyState, config_file: str | None, as_json: bool) -> None:
    async def write() -> KeyRecord:
        # Without the look at the clock that other commands take: a key can be stopped with a wrong one.
        database = await open_database(load_settings(config_file).store_url)
        try:
            return await change_key_state(database, key_id, state, actor(), system_clock)
        finally:
            await database.close()

    record = run(write())
    print_result(_as_json(record), as_json, lambda: f"{record.id} is {record.state.value}")


@key.command()
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def freeze(key_id: str, config_file: str | None, as_json: bool) -> None:
    """Stop key ID from signing, at once and on every running service; `resume` undoes it."""
    _change(key_id, KeyState.FROZEN, config_file, as_json)


@key.command()
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def resume(key_id: str, config_file: str | None, as_json: bool) -> None:
    """Let a frozen key ID sign again."""
    _change(key_id, KeyState.ACTIVE, config_file, as_json)


@key.command()
@click.argument("key_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def compromise(key_id: str, yes: bool, config_file: str | None, as_json: bool) -> None:
    """Mark key ID as compromised: it never signs again, and this cannot be undone."""
    if not yes:
        click.confirm(f"Mark key {key_id} as compromised? It never signs again.", abort=True, err=True)
    _change(key_id, KeyState.COMPROMISED, config_file, as_json)
