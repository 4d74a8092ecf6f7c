"""`qianyan key`: list, create, freeze, resume, compromise; the rest of `qianyan key` is in modules beside this one."""

from __future__ import annotations

import click

from core.clock import rfc3339, system_clock
from core.model import KeyPurpose, KeyState
from core.store import keys
from core.store.database import open_database
from core.store.keys import KeyLimits, KeyRecord
from service.commands import key_backup_command, key_service_command, key_use_command
from service.commands.key_use_command import caller_id, record_json
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
from signer.engine.keyuse import change_key_state

#: What an operator makes keys for; the others are the authorities' own and made with them.
_PURPOSES = (KeyPurpose.DATA, KeyPurpose.TIMESTAMP, KeyPurpose.SEAL, KeyPurpose.ENCRYPT, KeyPurpose.AUDIT)


@click.group()
def key() -> None:
    """Signing keys: what they are for and whether they may sign."""


for _command in (
    key_use_command.show,
    key_use_command.limit,
    key_use_command.allow,
    key_use_command.deny,
    key_backup_command.backup,
    key_backup_command.restore,
):
    key.add_command(_command)
key.add_command(key_service_command.request)
key.add_command(key_service_command.give_service)


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
        print_json([record_json(record) for record in records])
        return
    rows = [
        (record.id, record.purpose.value, record.state.value, record.owner, rfc3339(record.created_at_ms))
        for record in records
    ]
    print_table(["id", "purpose", "state", "owner", "created"], rows, empty="no keys")


@key.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--purpose",
    type=click.Choice([purpose.value for purpose in _PURPOSES]),
    default=KeyPurpose.DATA.value,
    show_default=True,
    help="What it is for, and nothing else: 'encrypt' decrypts, the others sign.",
)
@click.option(
    "--caller",
    "callers",
    multiple=True,
    metavar="CALLER",
    help="Who may use it: token:NAME (or NAME), cert:NAME, or '*' for every caller with the scope; several times. "
    "Needed for every purpose but audit, whose keys only the service uses.",
)
@click.option("--max-rate", type=click.IntRange(1), metavar="N", help="At most N uses a second.")
@click.option("--max-uses", type=click.IntRange(0), metavar="N", help="At most N uses in all.")
@click.option("--hours", metavar="HOURS", help="As 'Mon-Fri 08:00-18:00 Asia/Shanghai'; several divided by ';'.")
@click.option("--owner", default="operator", show_default=True, help="Who answers for the key.")
@click.option(
    "--device-index", type=click.IntRange(0), help="The key is in the hardware modules already, at this index."
)
@config_option
@json_option
def create(
    key_id: str,
    purpose: str,
    callers: tuple[str, ...],
    max_rate: int | None,
    max_uses: int | None,
    hours: str | None,
    owner: str,
    device_index: int | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Make a new key ID for applications; it is kept encrypted in the key store.

    With --device-index, register a key that the hardware modules ([hsm]) hold: each that has it must prove so.
    """
    if not callers and purpose != KeyPurpose.AUDIT.value:
        raise click.UsageError("--caller is needed: name who may use the key, or '*' for every caller")
    limits = KeyLimits(max_rate, max_uses, hours)
    given = [caller_id(caller) for caller in callers]

    async def make() -> KeyRecord:
        async with with_node(config_file) as node:
            engine, wanted, who = node.engine, KeyPurpose(purpose), actor()
            if device_index is None:
                await engine.create_key(key_id, wanted, owner, who, callers=given, limits=limits)
            else:
                await engine.register_device_key(key_id, wanted, owner, device_index, who, callers=given, limits=limits)
            async with node.database.read() as connection:
                return await keys.get(connection, key_id)

    record = run(make())
    print_result(record_json(record), as_json, lambda: f"created {record.id} ({record.public_key.hex()})")


def _change(key_id: str, state: KeyState, config_file: str | None, as_json: bool) -> None:
    async def write() -> KeyRecord:
        # Without the look at the clock that other commands take: a key can be stopped with a wrong one.
        database = await open_database(load_settings(config_file).store)
        try:
            return await change_key_state(database, key_id, state, actor(), system_clock)
        finally:
            await database.close()

    record = run(write())
    print_result(record_json(record), as_json, lambda: f"{record.id} is {record.state.value}")


@key.command()
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def freeze(key_id: str, config_file: str | None, as_json: bool) -> None:
    """Stop key ID from being used, at once and on every running service; `resume` undoes it."""
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
