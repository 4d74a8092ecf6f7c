"""`qianyan serve`."""

from __future__ import annotations

import click

from service.commands.shared import config_option, passphrase_for
from service.logs import configure_logs
from service.server import Listening
from service.server import serve as run_server
from service.settings import load


@click.command()
@config_option
def serve(config_file: str | None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Logs go to standard error, one JSON object a line (setting log.format).
    """
    loaded = load(config_file)
    configure_logs(level=loaded.settings.log.level, style=loaded.settings.log.format)
    passphrase = passphrase_for(loaded)

    def announce(listening: Listening) -> None:
        click.echo(f"public  {listening.public_url}\nprivate {listening.private_url}")

    run_server(loaded, passphrase, announce)
