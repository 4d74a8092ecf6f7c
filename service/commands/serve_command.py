"""`qianyan serve`, and the worker process that its supervisor starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from core.errors import SettingsError
from service.commands.shared import config_option, passphrase_for
from service.listeners import Listening, bind, describe, inherited
from service.logs import configure_logs
from service.notify import READY, notify
from service.server import Role
from service.server import serve as run_server
from service.settings import Loaded, load, notify_socket
from service.supervisor import WorkerFailed, supervise


def _load(config_file: str | None) -> Loaded:
    loaded = load(config_file)
    configure_logs(level=loaded.settings.log.level, style=loaded.settings.log.format)
    return loaded


def _announce(listening: Listening) -> None:
    click.echo(f"public  {listening.public_url}\nprivate {listening.private_url}")
    notify(notify_socket(), READY)


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Serve with N processes that are replaced when they end, and reloaded one by one on SIGHUP.  "
    "[default: one process, without a supervisor]",
)
@config_option
def serve(workers: int | None, config_file: str | None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Logs go to standard error, one JSON object a line (setting log.format).
    """
    loaded = _load(config_file)
    passphrase = passphrase_for(loaded)
    if workers is not None:
        try:
            supervise(loaded, passphrase, workers, _announce)
        except WorkerFailed as error:
            sys.exit(error.status)  # the worker has said why
        return
    (sockets,) = bind(loaded)
    listening = describe(loaded, [sockets])
    run_server(loaded, passphrase, sockets, lambda: _announce(listening))


@click.command(hidden=True)
@click.option("--slot", required=True, type=int)
@click.option("--restarts", required=True, type=int)
@click.option("--sockets", "descriptors", required=True, type=(int, int))
@click.option("--run-directory", required=True, type=click.Path(path_type=Path))
@config_option
def worker(
    slot: int, restarts: int, descriptors: tuple[int, int], run_directory: Path, config_file: str | None
) -> None:
    """One worker of `serve --workers`: the passphrase comes on standard input, whose end means stop."""
    loaded = _load(config_file)
    # Byte by byte and unbuffered: nothing of the passphrase may stay behind in a buffer that cannot be wiped.
    passphrase = bytearray()
    while (octet := os.read(sys.stdin.fileno(), 1)) not in (b"\n", b""):
        passphrase += octet
    if not passphrase:
        raise SettingsError("a worker is started by 'qianyan serve --workers', not by hand", code="worker")
    role = Role(leader=slot == 0, slot=slot, restarts=restarts, run_directory=run_directory)
    run_server(loaded, passphrase, inherited(*descriptors), lambda: click.echo("ready"), role)
