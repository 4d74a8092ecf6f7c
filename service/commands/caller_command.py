"""`qianyan caller`: add, list, show, limit, withdraw. A caller is told by a certificate, or by a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import from_datetime, rfc3339, system_clock
from core.errors import NotFound, Refused
from core.store import audit, callers, counters, tokens
from core.store.callers import NO_LIMITS, CallerRecord, Limits, MatchedBy
from service.client_certificates import fingerprint, identify, read_file
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
    load_settings,
    print_json,
    print_result,
    print_table,
    run,
    with_store,
)
from service.quotas import Quotas


@click.group()
def caller() -> None:
    """Callers of the private listener: who they are, what they may do, and how much of it.

    A caller by certificate is made here (add), one by token with `qianyan token create`; both are listed, limited and
    withdrawn here, as cert:NAME and token:NAME, or as NAME where only one has it.
    """


def _found(known: list[CallerRecord], name: str) -> CallerRecord:
    """Raises NotFound (code "caller_unknown"), Refused where two have the name."""
    matching = [record for record in known if name in (record.id, record.id.partition(":")[2])]
    if not matching:
        raise NotFound(f"there is no caller {name!r}; qianyan caller list", code="caller_unknown")
    if len(matching) > 1:
        raise Refused(f"write {' or '.join(record.id for record in matching)}", code="caller_ambiguous")
    return matching[0]


async def _named(connection: AsyncConnection, name: str) -> CallerRecord:
    """A caller in force."""
    return _found(await callers.load_all(connection), name)


def certificate_json(der: bytes, matched_by: str) -> dict[str, Any]:
    """What a person compares a certificate by."""
    certificate = x509.load_der_x509_certificate(der)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_after": rfc3339(from_datetime(certificate.not_valid_after_utc)),
        "matched_by": matched_by,
        "sha256": fingerprint(der, hashes.SHA256()).hex(),
        "sm3": fingerprint(der, hashes.SM3()).hex(),
    }


@caller.command()
@click.argument("name")
@click.option(
    "--certificate",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The caller's certificate, PEM or DER; not its key.",
)
@click.option(
    "--match",
    "matched_by",
    type=click.Choice(["fingerprint", "subject"]),
    default="fingerprint",
    show_default=True,
    help="What a certificate must have in common with this one: every octet, or issuer and subject (so that its "
    "successor is taken, too; every authority in private.client_ca must then be trusted with names).",
)
@scope_option
@limit_options
@config_option
@json_option
def add(
    name: str,
    file: Path,
    matched_by: str,
    scopes: tuple[str, ...],
    config_file: str | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Admit whoever shows this certificate, as cert:NAME; a running service does so at once."""
    check_name(name, "NAME")
    wanted = changed_limits(NO_LIMITS, limits)
    der = read_file(file)
    presented, match = identify(der), cast(MatchedBy, matched_by)
    if presented.not_after_ms <= system_clock():
        raise Refused(f"the certificate in {file} has expired", code="certificate_expired")
    caller_id = callers.certificate_caller(name)
    shown = certificate_json(der, matched_by)
    detail: dict[str, str | int] = {
        "scopes": " ".join(sorted(scopes)),
        "matched_by": matched_by,
        "sha256": shown["sha256"],
        **({} if wanted == NO_LIMITS else {"limits": limits_text(wanted)}),
    }

    async def write() -> None:
        async with with_store(config_file) as database, database.write() as connection:
            now_ms = await counters.advance_time(connection, system_clock())
            digest = presented.match_digest(match)
            await callers.add_certificate(connection, name, der, match, digest, frozenset(scopes), at_ms=now_ms)
            if wanted != NO_LIMITS:
                await callers.set_limits(connection, caller_id, wanted, at_ms=now_ms)
            await audit.append(connection, AuditEvent(actor(), "caller.add", caller_id, detail=detail), at_ms=now_ms)

    run(write())
    value = {"id": caller_id, "scopes": sorted(scopes), "certificate": shown}
    print_result(value, as_json, lambda: f"{caller_id} is admitted by the certificate with SHA-256 {shown['sha256']}")


@caller.command("list")
@config_option
@json_option
def list_callers(config_file: str | None, as_json: bool) -> None:
    """List every caller, by token and by certificate, those withdrawn too."""

    async def read() -> list[CallerRecord]:
        async with with_store(config_file) as database, database.read() as connection:
            return await callers.load_all(connection, withdrawn=True)

    now_ms = system_clock()
    records = run(read())
    if as_json:
        print_json([caller_json(record, now_ms) for record in records])
        return
    rows = [
        (
            record.id,
            state(record, now_ms),
            " ".join(sorted(record.scopes)),
            moment(record.seen_ms),
            limits_text(record.limits),
        )
        for record in records
    ]
    print_table(["id", "state", "scopes", "last used", "limits"], rows, empty="no callers")


@caller.command()
@click.argument("name")
@config_option
@json_option
def show(name: str, config_file: str | None, as_json: bool) -> None:
    """Show caller NAME: its certificate's fingerprints, its limits, what is left of its day."""
    settings = load_settings(config_file).settings.private

    async def read() -> tuple[CallerRecord, int]:
        async with with_store(config_file) as database, database.read() as connection:
            record = _found(await callers.load_all(connection, withdrawn=True), name)
            day = Quotas(database, system_clock, settings.quota_day_offset_minutes).day()
            return record, (await callers.taken_of_day(connection, day)).get(record.id, 0)

    record, taken = run(read())
    value = caller_json(record, system_clock())
    if record.limits.signatures_per_day is not None:
        value["signatures_taken_today"] = taken
    if record.certificate is not None:
        value["certificate"] = certificate_json(record.certificate, record.matched_by or "")
    if as_json:
        print_json(value)
        return
    for member, content in {**value, **value.pop("certificate", {}), "limits": limits_text(record.limits)}.items():
        shown = " ".join(content) if isinstance(content, list) else content
        click.echo(f"{member:24}{'-' if shown in (None, '') else shown}")


@caller.command()
@click.argument("name")
@limit_options
@config_option
@json_option
def limit(name: str, config_file: str | None, as_json: bool, **limits: int | None) -> None:
    """Change the limits of caller NAME, on every running service at once; `none` takes a limit away.

    Rates and requests under way are counted for each node, a day's signatures over all of them.
    """
    if all(value is None for value in limits.values()):
        raise click.UsageError("say which limit; see --help")

    async def write() -> tuple[str, Limits]:
        async with with_store(config_file) as database, database.write() as connection:
            now_ms = await counters.advance_time(connection, system_clock())
            record = await _named(connection, name)
            wanted = changed_limits(record.limits, limits)
            await callers.set_limits(connection, record.id, wanted, at_ms=now_ms)
            detail: dict[str, str | int] = {"limits": limits_text(wanted) or "none"}
            await audit.append(connection, AuditEvent(actor(), "caller.limit", record.id, detail=detail), at_ms=now_ms)
            return record.id, wanted

    caller_id, wanted = run(write())
    members = {name: value for name, value in _members(wanted).items() if value is not None}
    print_result(
        {"id": caller_id, "limits": members},
        as_json,
        lambda: f"{caller_id}: {limits_text(wanted) or 'no limits'}",
    )


def _members(limits: Limits) -> dict[str, int | None]:
    return {name: getattr(limits, name) for name in Limits.__dataclass_fields__}


@caller.command()
@click.argument("name")
@config_option
@json_option
def withdraw(name: str, config_file: str | None, as_json: bool) -> None:
    """Withdraw caller NAME: a running service refuses it from now on, on open connections, too."""

    async def write() -> str:
        async with with_store(config_file) as database:
            async with database.write() as connection:
                now_ms = await counters.advance_time(connection, system_clock())
                record = await _named(connection, name)
                bare = record.id.partition(":")[2]
                if record.matched_by is None:
                    await tokens.withdraw(connection, bare, at_ms=now_ms)
                    event = AuditEvent(actor(), "token.withdraw", bare)
                else:
                    await callers.withdraw_certificate(connection, bare, at_ms=now_ms)
                    event = AuditEvent(actor(), "caller.withdraw", record.id)
                await audit.append(connection, event, at_ms=now_ms)
            await database.settle()
            return record.id

    caller_id = run(write())
    print_result({"id": caller_id, "withdrawn": True}, as_json, lambda: f"{caller_id} is withdrawn")
