"""What the commands share: options, opening the parts, printing for people and machines."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from core.errors import SettingsError
from core.store.database import Database
from service.logs import configure_logs
from service.opening import find_passphrase, open_store
from service.settings import Loaded, load

if TYPE_CHECKING:
    from service.node import Node

T = TypeVar("T")

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="Settings file.  [default: $QIANYAN_CONFIG, else ./qianyan.toml]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def actor() -> str:
    """Who runs the command, for the audit record."""
    return f"cli:{getpass.getuser()}"


def load_settings(config_file: str | None) -> Loaded:
    """The settings, with logging set up: errors only, because a command says itself what is wrong, in one line."""
    loaded = load(config_file)
    configure_logs(level="error", style="console")
    return loaded


def passphrase_for(loaded: Loaded) -> bytearray:
    """The key store's passphrase: by file, environment, or a prompt where there is a terminal."""
    found = find_passphrase(loaded)
    if found is not None:
        return found
    return prompt_passphrase(loaded.settings.keys.passphrase_env, confirm=False)


def prompt_passphrase(variable: str, *, confirm: bool) -> bytearray:
    """Asks at the terminal. Raises SettingsError saying how else to give it where there is none."""
    if not sys.stdin.isatty():
        raise SettingsError(
            f"no passphrase: set keys.passphrase_file or the variable {variable}, or run at a terminal",
            code="passphrase_missing",
        )
    text = click.prompt("Passphrase of the key store", hide_input=True, confirmation_prompt=confirm, err=True)
    return bytearray(text.encode())


def with_store(config_file: str | None) -> AbstractAsyncContextManager[Database]:
    """The store alone, for commands that need no key."""
    return open_store(load_settings(config_file))


def with_node(config_file: str | None) -> AbstractAsyncContextManager[Node]:
    """Every part, for commands that sign."""
    from service.node import open_node  # most of the time that a command takes to start, and only some need it

    loaded = load_settings(config_file)
    return open_node(loaded, passphrase_for(loaded))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine to its end."""
    return asyncio.run(coroutine)


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table for people; `empty` is said where there is nothing."""
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console  # half as much again as what most commands take to start
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_result(value: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """JSON, or the text for people."""
    if as_json:
        print_json(value)
    else:
        click.echo(text())
