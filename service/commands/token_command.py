"""`qianyan token`: create, list, withdraw."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from core.audit import AuditEvent
from core.clock import from_datetime, system_clock
from core.store import audit, callers, counters, tokens
from core.store.callers import NO_LIMITS, CallerRecord, Limits
from core.store.database import Database
from service.commands.caller_options import (
    as_json as caller_json,
)
from service.commands.caller_options import (
    changed_limits,
    check_name,
    limit_options,
    limits_text,
    moment,
    scope_option,
    state,
)
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_store,
)
from service.tokens import digest, make_token

_DAY_MS = 86_400_000


@click.group()
def token() -> None:
    """Tokens that admit callers to the private listener."""


async def create_token(
    database: Database,
    token_id: str,
    scopes: frozenset[str],
    who: str,
    *,
    expires_at_ms: int | None = None,
    limits: Limits = NO_LIMITS,
) -> str:
    """Makes a token and records its digest; the token itself is returned and not kept."""
    value = make_token()
    detail: dict[str, str | int] = {"scopes": " ".join(sorted(scopes))}
    if expires_at_ms is not None:
        detail["expires_at"] = moment(expires_at_ms) or ""
    async with database.write() as connection:
        now_ms = await counters.advance_time(connection, system_clock())
        await tokens.add(connection, token_id, digest(value), scopes, at_ms=now_ms, expires_at_ms=expires_at_ms)
        if limits != NO_LIMITS:
            await callers.set_limits(connection, callers.token_caller(token_id), limits, at_ms=now_ms)
            detail["limits"] = limits_text(limits)
        await audit.append(connection, AuditEvent(who, "token.create", token_id, detail=detail), at_ms=now_ms)
    return value


class Expiry(click.ParamType[int]):
    """A time, as milliseconds since the epoch."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`90d` from now, `2027-01-31` (the start of that day in UTC), or RFC 3339."""
        text = str(value)
        if text[:-1].isdigit() and text[-1:] in ("d", "h"):
            return system_clock() + int(text[:-1]) * (_DAY_MS if text[-1] == "d" else _DAY_MS // 24)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail("write 90d, 12h, 2027-01-31 or 2027-01-31T08:00:00Z", param, ctx)
        at_ms = from_datetime(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
        if at_ms <= system_clock():
            self.fail("that time is past", param, ctx)
        return at_ms


@token.command()
@click.argument("token_id", metavar="ID")
@scope_option
@click.option("--expires", "expires_at_ms", type=Expiry(), help="From when on it admits nobody: 90d, 12h, or a time.")
@limit_options
@config_option
@json_option
def create(
    token_id: str,
    scopes: tuple[str, ...],
    expires_at_ms: int | None,
    config_file: str | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a token named ID and print it, once: only its digest is kept."""
    check_name(token_id, "ID")
    wanted = changed_limits(NO_LIMITS, limits)

    async def make() -> str:
        async with with_store(config_file) as database:
            return await create_token(
                database, token_id, frozenset(scopes), actor(), expires_at_ms=expires_at_ms, limits=wanted
            )

    value = run(make())
    shown = {"id": token_id, "scopes": sorted(scopes), "expires_at": moment(expires_at_ms), "token": value}
    print_result(shown, as_json, lambda: value)


@token.command("list")
@config_option
@json_option
def list_tokens(config_file: str | None, as_json: bool) -> None:
    """List every token: scopes, expiry, when it was last used (to some minutes); never the token itself."""

    async def read() -> list[CallerRecord]:
        async with with_store(config_file) as database, database.read() as connection:
            return await callers.load_all(connection, withdrawn=True)

    now_ms = system_clock()
    records = [record for record in run(read()) if record.matched_by is None]
    if as_json:
        print_json([{**caller_json(record, now_ms), "id": record.id.partition(":")[2]} for record in records])
        return
    rows = [
        (
            record.id.partition(":")[2],
            state(record, now_ms),
            " ".join(sorted(record.scopes)),
            moment(record.created_at_ms),
            moment(record.expires_at_ms),
            moment(record.seen_ms),
        )
        for record in records
    ]
    print_table(["id", "state", "scopes", "created", "expires", "last used"], rows, empty="no tokens")


@token.command()
@click.argument("token_id", metavar="ID")
@config_option
@json_option
def withdraw(token_id: str, config_file: str | None, as_json: bool) -> None:
    """Withdraw token ID: a running service refuses it from now on."""

    async def write() -> None:
        async with with_store(config_file) as database:
            async with database.write() as connection:
                now_ms = await counters.advance_time(connection, system_clock())
                await tokens.withdraw(connection, token_id, at_ms=now_ms)
                await audit.append(connection, AuditEvent(actor(), "token.withdraw", token_id), at_ms=now_ms)
            await database.settle()

    run(write())
    print_result({"id": token_id, "withdrawn": True}, as_json, lambda: f"{token_id} is withdrawn")
