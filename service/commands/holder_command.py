"""`qianyan holder`: find, show, history, rekey, drop-keys."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click

from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
)
from signer.holders.http import as_json as view_json
from signer.holders.http import event_as_json
from signer.holders.numbers import HolderKind
from signer.holders.service import Holders
from signer.registration.rekeying import Rekeying

T = TypeVar("T")
#: How often a long command says how far it is.
_SAY_EVERY_S: Final = 5.0


@click.group()
def holder() -> None:
    """Holders of certificates. What is kept of them is shown masked."""


def _ask(config_file: str | None, question: Callable[[Holders], Awaitable[T]]) -> T:
    async def work() -> T:
        async with with_node(config_file) as node:
            return await question(node.desk.holders)

    return run(work())


def _print_view(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(value)
        return
    for label in ("id", "kind", "number", "name", "phone", "address", "created_at", "changed_at"):
        click.echo(f"{label:12}{value[label] or ''}")
    rows = [[c["serial"], c["usage"], c["profile"], c["status"], c["not_after"]] for c in value["certificates"]]
    print_table(["serial", "usage", "profile", "status", "not after"], rows, empty="no certificates")


@holder.command()
@click.argument("kind", type=click.Choice([kind.value for kind in HolderKind]))
@click.argument("number", required=False)
@config_option
@json_option
def find(kind: str, number: str | None, config_file: str | None, as_json: bool) -> None:
    """Find a holder by NUMBER: unified social credit code, identity number or device id.

    Without NUMBER it is read from standard input, which no process list shows.
    """
    wanted = number if number is not None else sys.stdin.readline().strip()
    _print_view(view_json(_ask(config_file, lambda holders: holders.find(kind, wanted))), as_json)


@holder.command()
@click.argument("holder_id")
@click.option("--reveal", is_flag=True, help="Show what is kept in full; that it was looked at is on record.")
@config_option
@json_option
def show(holder_id: str, reveal: bool, config_file: str | None, as_json: bool) -> None:
    """Show the holder HOLDER_ID, masked, with the certificates."""
    value = view_json(_ask(config_file, lambda holders: holders.show(holder_id)))
    if reveal:
        kept = _ask(config_file, lambda holders: holders.reveal(holder_id, actor=actor()))
        value |= {"number": kept.number, "name": kept.name, "phone": kept.phone, "address": kept.address}
    _print_view(value, as_json)


@holder.command()
@click.argument("holder_id")
@config_option
@json_option
def history(holder_id: str, config_file: str | None, as_json: bool) -> None:
    """Show the business done for the holder HOLDER_ID, newest first (the last 200)."""
    past = [event_as_json(event) for event in _ask(config_file, lambda holders: holders.history(holder_id))]
    if as_json:
        print_json(past)
        return
    columns = ["at", "operation", "serial", "replaces", "ground", "actor"]
    print_table(columns, [[event[name] for name in columns] for event in past], empty="nothing")


@holder.command()
@click.option("--continue", "go_on", is_flag=True, help="Go on with one that was broken off: no new key is made.")
@config_option
@json_option
def rekey(go_on: bool, config_file: str | None, as_json: bool) -> None:
    """Seal everything that is kept of persons under a new key.

    Of holders, of people of registration authorities, and the signed requests with what is in them. A service may run
    meanwhile; it seals under the key before for a minute more, so give the command again with --continue after that.
    Then, an hour later, `qianyan holder drop-keys`.
    """
    said = time.monotonic()

    def tell(kind: str, done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            click.echo(f"{kind}s: {done} so far", err=True)

    done = _rekey(config_file, lambda rekeying: rekeying.run(actor=actor(), new=not go_on, tell=tell))
    value = {f"{kind}s": count for kind, count in done.items()}
    print_result(
        value,
        as_json,
        lambda: ", ".join(f"{count} {name}" for name, count in value.items()) + " sealed anew",
    )


@holder.command("drop-keys")
@click.option("--with-archives", is_flag=True, help="Also where archives of signed requests need them.")
@config_option
@json_option
def drop_keys(with_archives: bool, config_file: str | None, as_json: bool) -> None:
    """Remove every key but the newest that personal data was sealed under.

    Refused while anything in the store is under one, and in the first hour of a new key. A backup of the store has the
    keys of its time in it.
    """
    ids = _rekey(config_file, lambda rekeying: rekeying.drop(actor=actor(), with_archives=with_archives))
    print_result({"dropped": ids}, as_json, lambda: f"{len(ids)} keys removed" if ids else "there is no older key")


def _rekey(config_file: str | None, work: Callable[[Rekeying], Awaitable[T]]) -> T:
    async def step() -> T:
        async with with_node(config_file) as node:
            return await work(node.office.rekeying)

    return run(step())
