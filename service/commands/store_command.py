"""`qianyan store`."""

from __future__ import annotations

import click

from core.store.database import upgrade_database
from service.commands.shared import config_option, json_option, load_settings, print_result, run


@click.group()
def store() -> None:
    """The store."""


@store.command()
@config_option
@json_option
def upgrade(config_file: str | None, as_json: bool) -> None:
    """Bring the store to this version's schema, all of it or nothing. Stop the service and back it up first."""
    loaded = load_settings(config_file)
    before, after = run(upgrade_database(loaded.store_url))
    said = "nothing to do" if before == after else f"upgraded from {before} to {after}"
    print_result({"from": before, "to": after}, as_json, lambda: said)
