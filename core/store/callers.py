"""Who may call the private listener, by token or by certificate, and how much each may ask for.

Owns ids of callers (`token:NAME`, `cert:NAME`), their limits, what was taken out of a day's quota, and when each was
last seen. Every change that a running service has to know of is said in the feed, in the same transaction. Knows
digests; not how a certificate is parsed or a token is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound, TooLarge
from core.store import feed
from core.store.schema import caller_days, caller_limits, caller_seen, client_certificates, tokens
from core.store.upsert import hold, upsert

#: How many callers can have limits: as many as the workers of a node count together.
PLACES_MAX: Final = 4_096
#: How long what was taken out of a quota is kept, in days.
_DAYS_KEPT: Final = 31

MatchedBy = Literal["fingerprint", "subject"]


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so much; None: no limit. A burst left out is one second's worth."""

    requests_per_s: int | None = None
    requests_burst: int | None = None
    signatures_per_s: int | None = None
    signatures_burst: int | None = None
    concurrent: int | None = None
    signatures_per_day: int | None = None


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class CallerRecord:
    """A caller as the store has it.

    digest: SM3 of the token, or the certificate's match digest. matched_by, certificate: None for a token.
    place: where its limits are counted; None without limits. seen_ms: last admitted, to some minutes.
    """

    id: str
    digest: bytes
    scopes: frozenset[str]
    created_at_ms: int
    withdrawn: bool
    expires_at_ms: int | None = None
    matched_by: MatchedBy | None = None
    certificate: bytes | None = None
    limits: Limits = NO_LIMITS
    place: int | None = None
    seen_ms: int | None = None


def token_caller(token_id: str) -> str:
    """The caller's id of a token."""
    return f"token:{token_id}"


def certificate_caller(name: str) -> str:
    """The caller's id of a registered certificate."""
    return f"cert:{name}"


async def add_certificate(
    connection: AsyncConnection,
    name: str,
    certificate: bytes,
    matched_by: MatchedBy,
    match_digest: bytes,
    scopes: frozenset[str],
    *,
    at_ms: int,
) -> None:
    """Registers a certificate (DER) as a caller. Raises Conflict (code "caller_exists", "certificate_registered")."""
    same = (client_certificates.c.match_digest == match_digest) & client_certificates.c.withdrawn.is_(False)
    other = (await connection.execute(select(client_certificates.c.id).where(same))).scalar_one_or_none()
    if other is not None:
        raise Conflict(f"that certificate is registered already, as {other!r}", code="certificate_registered")
    row = {
        "id": name,
        "matched_by": matched_by,
        "match_digest": match_digest,
        "certificate": certificate,
        "scopes": " ".join(sorted(scopes)),
        "created_at_ms": at_ms,
        "withdrawn": False,
    }
    try:
        await connection.execute(insert(client_certificates).values(row))
    except IntegrityError as error:
        raise Conflict(f"there is a caller {name!r} already", code="caller_exists") from error
    await _tell(connection, certificate_caller(name), at_ms)


async def withdraw_certificate(connection: AsyncConnection, name: str, *, at_ms: int) -> None:
    """Withdraws a registered certificate from this commit on. Raises NotFound (code "caller_unknown")."""
    in_force = (client_certificates.c.id == name) & client_certificates.c.withdrawn.is_(False)
    result = await connection.execute(update(client_certificates).where(in_force).values(withdrawn=True))
    if result.rowcount != 1:
        raise NotFound(f"there is no caller {name!r} in force", code="caller_unknown")
    await drop_limits(connection, certificate_caller(name))
    await _tell(connection, certificate_caller(name), at_ms)


async def set_limits(connection: AsyncConnection, caller_id: str, limits: Limits, *, at_ms: int) -> None:
    """Replaces a caller's limits from this commit on. Raises TooLarge (code "caller_places") where no place is left."""
    await _tell(connection, caller_id, at_ms)
    await hold(connection, "caller_places")
    if limits == NO_LIMITS:
        await drop_limits(connection, caller_id)
        return
    mine = caller_limits.c.caller_id == caller_id
    if (await connection.execute(update(caller_limits).where(mine).values(asdict(limits)))).rowcount:
        return
    taken = set((await connection.execute(select(caller_limits.c.place))).scalars())
    place = next((number for number in range(PLACES_MAX) if number not in taken), None)
    if place is None:
        raise TooLarge(f"at most {PLACES_MAX} callers have limits", code="caller_places")
    await connection.execute(insert(caller_limits).values(caller_id=caller_id, place=place, **asdict(limits)))


async def drop_limits(connection: AsyncConnection, caller_id: str) -> None:
    """Forgets a caller's limits and frees its place; whoever calls this tells the feed."""
    await connection.execute(delete(caller_limits).where(caller_limits.c.caller_id == caller_id))


async def load_all(connection: AsyncConnection, *, withdrawn: bool = False) -> list[CallerRecord]:
    """Every caller in force, or with `withdrawn` also those that were; tokens first, each by name."""
    limits = {
        row.caller_id: (
            row.place,
            Limits(
                row.requests_per_s,
                row.requests_burst,
                row.signatures_per_s,
                row.signatures_burst,
                row.concurrent,
                row.signatures_per_day,
            ),
        )
        for row in await connection.execute(select(caller_limits))
    }
    seen = {row.caller_id: row.at_ms for row in await connection.execute(select(caller_seen))}
    found = []
    for table, name in ((tokens, token_caller), (client_certificates, certificate_caller)):
        statement = select(table).order_by(table.c.id)
        if not withdrawn:
            statement = statement.where(table.c.withdrawn.is_(False))
        for row in await connection.execute(statement):
            caller_id = name(row.id)
            place, limit = limits.get(caller_id, (None, NO_LIMITS))
            is_token = table is tokens
            found.append(
                CallerRecord(
                    caller_id,
                    row.digest if is_token else row.match_digest,
                    frozenset(row.scopes.split()),
                    row.created_at_ms,
                    row.withdrawn,
                    row.expires_at_ms if is_token else None,
                    None if is_token else row.matched_by,
                    None if is_token else row.certificate,
                    limit,
                    place,
                    seen.get(caller_id),
                )
            )
    return found


async def take_from_day(
    connection: AsyncConnection, caller_id: str, day: int, wanted: int, ahead: int, quota: int
) -> int:
    """Takes `wanted` signatures out of a day's quota, and up to `ahead` more to hold; returns how many were taken.

    0: fewer than `wanted` are left, and nothing was taken. Never takes past `quota`, whoever else takes. What is taken
    ahead is at most an eighth of what is left, so that little is held back when a quota runs out.
    """
    mine = (caller_days.c.caller_id == caller_id) & (caller_days.c.day == day)
    # Two writers at once would both find no row, or the same one; SQLite has one writer at a time.
    await hold(connection, "caller_day", caller_id)
    row = (await connection.execute(select(caller_days.c.taken).where(mine).with_for_update())).one_or_none()
    left = quota - (0 if row is None else row.taken)
    if left < wanted:
        return 0
    count = max(wanted, min(ahead, left // 8))
    if row is None:
        await connection.execute(insert(caller_days).values(caller_id=caller_id, day=day, taken=count))
        old = (caller_days.c.caller_id == caller_id) & (caller_days.c.day < day - _DAYS_KEPT)
        await connection.execute(delete(caller_days).where(old))
    else:
        await connection.execute(update(caller_days).where(mine).values(taken=caller_days.c.taken + count))
    return count


async def give_back_to_day(connection: AsyncConnection, caller_id: str, day: int, count: int) -> None:
    """Returns what was taken and not used."""
    mine = (caller_days.c.caller_id == caller_id) & (caller_days.c.day == day)
    await connection.execute(update(caller_days).where(mine).values(taken=caller_days.c.taken - count))


async def taken_of_day(connection: AsyncConnection, day: int) -> dict[str, int]:
    """Per caller, how many signatures were taken out of the day's quota."""
    rows = await connection.execute(select(caller_days).where(caller_days.c.day == day))
    return {row.caller_id: row.taken for row in rows}


async def note_seen(connection: AsyncConnection, seen: Mapping[str, int]) -> None:
    """Records when callers were last admitted, by id, in milliseconds."""
    if not seen:
        return
    # In one order, so that two workers wait for each other and do not lock each other out.
    rows = [{"caller_id": caller_id, "at_ms": at_ms} for caller_id, at_ms in sorted(seen.items())]
    statement = upsert(connection, caller_seen).values(rows)
    statement = statement.on_conflict_do_update(index_elements=["caller_id"], set_={"at_ms": statement.excluded.at_ms})
    await connection.execute(statement)


async def _tell(connection: AsyncConnection, caller_id: str, at_ms: int) -> None:
    await feed.append(connection, [feed.FeedChange("caller", subject_id=caller_id)], at_ms=at_ms)
