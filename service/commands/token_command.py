"""`qianyan token`: create, withdraw."""

from __future__ import annotations

import click

from core.audit import AuditEvent
from core.clock import system_clock
from core.store import audit, counters, tokens
from core.store.database import Database
from service.commands.shared import actor, config_option, json_option, print_result, run, with_store
from service.tokens import SCOPES, digest, make_token


@click.group()
def token() -> None:
    """Tokens that admit callers to the private listener."""


async def create_token(database: Database, token_id: str, scopes: frozenset[str], who: str) -> str:
    """Makes a token and records its digest; the token itself is returned and not kept."""
    value = make_token()
    async with database.write() as connection:
        now_ms = await counters.advance_time(connection, system_clock())
        await tokens.add(connection, token_id, digest(value), scopes, at_ms=now_ms)
        event = AuditEvent(who, "token.create", token_id, detail={"scopes": " ".join(sorted(scopes))})
        await audit.append(connection, event, at_ms=now_ms)
    return value


@token.command()
@click.argument("token_id", metavar="ID")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(sorted(SCOPES)),
    help="What the token admits to; give it several times for several.",
)
@config_option
@json_option
def create(token_id: str, scopes: tuple[str, ...], config_file: str | None, as_json: bool) -> None:
    """Make a token named ID and print it, once: only its digest is kept."""
    if not 1 <= len(token_id) <= 48 or not token_id.replace("-", "").replace("_", "").isalnum():
        raise click.BadParameter("1 to 48 letters, digits, - and _", param_hint="ID")

    async def make() -> str:
        async with with_store(config_file) as database:
            return await create_token(database, token_id, frozenset(scopes), actor())

    value = run(make())
    print_result({"id": token_id, "scopes": sorted(scopes), "token": value}, as_json, lambda: value)


@token.command()
@click.argument("token_id", metavar="ID")
@config_option
@json_option
def withdraw(token_id: str, config_file: str | None, as_json: bool) -> None:
    """Withdraw token ID: a running service refuses it from now on."""

    async def write() -> None:
        async with with_store(config_file) as database, database.write() as connection:
            now_ms = await counters.advance_time(connection, system_clock())
            await tokens.withdraw(connection, token_id, at_ms=now_ms)
            await audit.append(connection, AuditEvent(actor(), "token.withdraw", token_id), at_ms=now_ms)

    run(write())
    print_result({"id": token_id, "withdrawn": True}, as_json, lambda: f"{token_id} is withdrawn")
