"""`qianyan holder`: find, show, history, rekey."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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

T = TypeVar("T")


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
@config_option
@json_option
def rekey(config_file: str | None, as_json: bool) -> None:
    """Seal what is kept of every holder under a new key. A service may run meanwhile; broken off, run it again."""
    count = _ask(config_file, lambda holders: holders.rekey(actor=actor()))
    print_result({"holders": count}, as_json, lambda: f"{count} holders sealed under a new key")
