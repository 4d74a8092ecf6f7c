"""`qianyan config`."""

from __future__ import annotations

from typing import Any

import click
from pydantic import BaseModel

from core.store import authorities
from core.store.database import Database
from service.commands.shared import config_option, json_option, load_settings, print_json, print_result, run
from service.opening import find_passphrase, open_store
from service.settings import ServiceSettings
from signer.signing.trust import load_trust


@click.group()
def config() -> None:
    """The settings file."""


@config.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> None:
    """Check the settings, and that what they name can be opened; changes nothing."""
    loaded = load_settings(config_file)
    found = find_passphrase(loaded)
    verification = loaded.settings.verification
    load_trust(verification.anchors, verification.intermediates, loaded.path)

    async def look() -> list[str]:
        async with open_store(loaded) as database:
            return await _authority_ids(database)

    known = run(look())
    value = {"file": str(loaded.file), "store": loaded.store_url, "authorities": known, "passphrase": found is not None}
    source = "found" if found is not None else "will be asked for"
    print_result(value, as_json, lambda: f"{loaded.file} is good; authorities: {', '.join(known)}; passphrase {source}")


async def _authority_ids(database: Database) -> list[str]:
    async with database.read() as connection:
        return [authority.id for authority in await authorities.list_all(connection)]


def describe(model: type[BaseModel], prefix: str = "") -> list[dict[str, Any]]:
    """Every setting: its dotted name, type, default and meaning."""
    rows: list[dict[str, Any]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows += describe(annotation, f"{prefix}{name}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, frozenset):
            default = sorted(default)
        shown = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
        rows.append(
            {
                "name": f"{prefix}{name}",
                "type": shown,
                "required": field.is_required(),
                "default": default,
                "meaning": field.description or "",
            }
        )
    return rows


@config.command("list")
@json_option
def list_settings(as_json: bool) -> None:
    """Every setting with its default and meaning."""
    rows = describe(ServiceSettings)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        default = "required" if row["required"] else f"default {row['default']!r}"
        click.echo(f"{row['name']} ({row['type']}, {default})\n    {row['meaning']}")
