"""`qianyan recovery`: ask, approve, reject, show, list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from core.errors import Refused
from core.store.recoveries import Recovery
from service.commands.break_glass import break_glass_option, issuing_node
from service.commands.certificate_command import authority_option, read_serial, subject_of
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_table,
    run,
    with_node,
)
from service.files import write_new
from signer.issuance.recovery import Recoveries, RecoveryWish
from signer.issuance.recovery_http import as_json as recovery_json

T = TypeVar("T")
_COLUMNS = ["id", "state", "judicial", "reference", "requested_by", "approved_by", "expires_at"]


@click.group()
def recovery() -> None:
    """Recovery of encryption keys: asked for by one person, approved by two others, each with a login of their own."""


def _do(config_file: str | None, work: Callable[[Recoveries], Awaitable[T]]) -> T:
    async def step() -> T:
        async with with_node(config_file) as node:
            return await work(node.desk.recoveries)

    return run(step())


def _change(config_file: str | None, why: str | None, subject: str, work: Callable[[Recoveries], Awaitable[T]]) -> T:
    """A step that has a key recovered: by signed requests alone, where the settings say so."""

    async def step() -> T:
        async with issuing_node(config_file, why, subject) as node:
            return await work(node.desk.recoveries)

    return run(step())


def _print(found: list[Recovery], as_json: bool) -> None:
    shown = [recovery_json(one) for one in found]
    if as_json:
        print_json(shown)
        return
    rows: list[list[Any]] = [
        [", ".join(one[name]) if name == "approved_by" else one[name] for name in _COLUMNS] for one in shown
    ]
    print_table([name.replace("_", " ") for name in _COLUMNS], rows, empty="none")


@recovery.command()
@click.argument("serial")
@click.option("--reference", required=True, help="The case or order it rests on, by number.")
@click.option("--recipient", metavar="SERIAL", help="The holder's signing certificate, where not the latest one.")
@click.option("--judicial", is_flag=True, help="For a court or authority; needs --recipient-key.")
@click.option("--recipient-key", metavar="HEX", help="The public key that the order names: 65 octets.")
@authority_option
@break_glass_option
@config_option
@json_option
def ask(
    serial: str,
    reference: str,
    recipient: str | None,
    judicial: bool,
    recipient_key: str | None,
    authority: str | None,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Ask for the recovery of the encryption key of SERIAL (either certificate of the pair)."""
    try:
        key = None if recipient_key is None else bytes.fromhex(recipient_key)
    except ValueError as error:
        raise Refused("--recipient-key is written in hexadecimal digits", code="recovery_recipient") from error
    to = None if recipient is None else read_serial(recipient)
    wish = RecoveryWish(read_serial(serial), reference, authority, judicial, to, key)
    subject = subject_of(authority, serial)
    _print([_change(config_file, why, subject, lambda recoveries: recoveries.ask(wish, actor=actor()))], as_json)


@recovery.command()
@click.argument("recovery_id")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the SM2EnvelopedKey is written when this is the second approval.",
)
@break_glass_option
@config_option
@json_option
def approve(recovery_id: str, out: Path | None, why: str | None, config_file: str | None, as_json: bool) -> None:
    """Approve the recovery RECOVERY_ID; the second approval carries it out."""
    subject = f"recovery:{recovery_id[:64]}"
    found = _change(config_file, why, subject, lambda recoveries: recoveries.approve(recovery_id, actor=actor()))
    if out is not None and found.enveloped_key is not None:
        write_new(out, found.enveloped_key, mode=0o600, replace=True)
    _print([found], as_json)


@recovery.command()
@click.argument("recovery_id")
@config_option
@json_option
def reject(recovery_id: str, config_file: str | None, as_json: bool) -> None:
    """End the recovery RECOVERY_ID, where it is not done."""
    _print([_do(config_file, lambda recoveries: recoveries.reject(recovery_id, actor=actor()))], as_json)


@recovery.command()
@click.argument("recovery_id")
@config_option
@json_option
def show(recovery_id: str, config_file: str | None, as_json: bool) -> None:
    """Show one recovery; as JSON with the SM2EnvelopedKey where it is done."""
    _print([_do(config_file, lambda recoveries: recoveries.get(recovery_id))], as_json)


@recovery.command("list")
@click.option("--state", type=click.Choice(["asked", "approved", "done", "rejected"]), help="Only these.")
@config_option
@json_option
def list_command(state: str | None, config_file: str | None, as_json: bool) -> None:
    """List the latest recoveries, newest first."""
    _print(list(_do(config_file, lambda recoveries: recoveries.list_all(state))), as_json)
