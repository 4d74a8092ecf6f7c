"""The end of a write transaction: feed entries, audit and outbox rows and the store's time, written in one go before
the commit.

Their numbers come from counter rows that stay locked from here to the commit, which makes them gap-free and in commit
order: two transactions that took 7 and 8 cannot commit 8 first. So the lock is taken last, by every transaction in the
same order, and held for three statements and the commit, however long the transaction before it was. That lock is what
bounds the store's write rate: about 1 / (three round trips + one commit) transactions a second, whatever the cores.

Owns the pending rows of a transaction; `core.store.feed`, `audit`, `outbox` and `counters` put them in. A read of
the feed, the record or the counters within the transaction flushes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import GENESIS, AuditEvent, chain, encode_detail
from core.model import serial_to_bytes
from core.store import counted as counting
from core.store.copy_in import copy_in
from core.store.counted import Counted
from core.store.postgres import FEED_CHANNEL
from core.store.schema import audit, counters, feed, outbox
from core.store.upsert import upsert

LAST_TIME: Final = "last_time_ms"
#: In the order in which they are locked.
_COUNTERS: Final = ("audit", "feed", LAST_TIME, "outbox")

#: A commit gets no time limit from the server (ours stays): one that struck while the standby is waited for would
#: confirm what the standby lacks.
NO_TIME_LIMIT: Final = text("SET LOCAL statement_timeout = 0")

_OPTION: Final = "qianyan_tail"

#: From how many rows on COPY is quicker than arrays.
_COPY_FROM: Final = 256


@dataclass(slots=True)
class PendingFeed:
    """A feed row without its number."""

    kind: str
    authority_id: str | None
    serial: int | None
    subject_id: str | None
    at_ms: int


@dataclass(slots=True)
class PendingOutbox:
    """An outbox row without its number."""

    topic: str
    reference: str
    at_ms: int


@dataclass(slots=True)
class Tail:
    """What a transaction writes at its end. `last_time_ms` 0: the store's time stays. `flushed`: something was.

    unlimited: its statements have no time limit any more. values: the counters as they stand, where it has locked them.
    """

    feed: list[PendingFeed] = field(default_factory=list)
    audit: list[tuple[AuditEvent, int]] = field(default_factory=list)
    outbox: list[PendingOutbox] = field(default_factory=list)
    last_time_ms: int = 0
    flushed: bool = False
    unlimited: bool = False
    values: dict[str, int] | None = None
    counted: Counted = field(default_factory=Counted)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.feed or self.audit or self.outbox or self.last_time_ms) and self.counted.empty


def options() -> dict[str, Any]:
    """Execution options that give a connection a tail."""
    return {_OPTION: Tail()}


def of(connection: AsyncConnection) -> Tail:
    """The transaction's tail. Only `Database.write()` gives one."""
    assert connection.sync_connection is not None
    tail = connection.sync_connection.get_execution_options().get(_OPTION)
    if not isinstance(tail, Tail):
        raise TypeError("this connection is not in Database.write()")
    return tail


def writing(connection: AsyncConnection) -> bool:
    """Whether the connection is in `Database.write()`."""
    assert connection.sync_connection is not None
    return _OPTION in connection.sync_connection.get_execution_options()


async def begin(connection: AsyncConnection) -> None:
    """Locks the counters now rather than at the end: nobody else's transaction with a tail commits until this one has
    ended."""
    tail = of(connection)
    if tail.values is None:
        await lift_time_limit(connection)
        tail.values = await _lock(connection)


async def lift_time_limit(connection: AsyncConnection) -> None:
    """Executes NO_TIME_LIMIT, once in a transaction: for statements with many rows. SQLite has no limit."""
    if connection.dialect.name != "postgresql":
        return
    tail = of(connection) if writing(connection) else None
    if tail is None or not tail.unlimited:
        await connection.execute(NO_TIME_LIMIT)
    if tail is not None:
        tail.unlimited = True


async def flush(connection: AsyncConnection) -> None:
    """Writes what is pending; nothing where nothing is, or outside a write transaction."""
    assert connection.sync_connection is not None
    tail = connection.sync_connection.get_execution_options().get(_OPTION)
    if tail is None or tail.empty:
        return
    pending = Tail(tail.feed, tail.audit, tail.outbox, tail.last_time_ms, counted=tail.counted.take())
    tail.feed, tail.audit, tail.outbox, tail.last_time_ms, tail.flushed = [], [], [], 0, True
    values = await _lock(connection) if tail.values is None else tail.values
    feed_rows = _feed_rows(pending.feed, values["feed"])
    audit_rows = await _audit_rows(connection, pending.audit, values["audit"])
    outbox_rows = _outbox_rows(pending.outbox, values["outbox"])
    values["feed"] += len(feed_rows)
    values["outbox"] += len(outbox_rows)
    values["audit"] += len(audit_rows)
    values[LAST_TIME] = max(values[LAST_TIME], pending.last_time_ms)
    counts = await counting.rows(connection, pending.counted)
    write = _write_postgres if connection.dialect.name == "postgresql" else _write_rows
    await write(connection, feed_rows, audit_rows, outbox_rows, counts, values)


async def _lock(connection: AsyncConnection) -> dict[str, int]:
    """The counters' values, their rows locked in a fixed order."""
    statement = (
        select(counters.c.name, counters.c.value)
        .where(counters.c.name.in_(_COUNTERS))
        .order_by(counters.c.name)
        .with_for_update()
    )
    while True:
        values = {row.name: int(row.value) for row in await connection.execute(statement)}
        missing = [{"name": name, "value": 0} for name in _COUNTERS if name not in values]
        if not missing:
            return values
        await connection.execute(upsert(connection, counters).values(missing).on_conflict_do_nothing())


def _feed_rows(pending: Sequence[PendingFeed], last: int) -> list[dict[str, Any]]:
    return [
        {
            "seq": seq,
            "kind": entry.kind,
            "authority_id": entry.authority_id,
            "serial": None if entry.serial is None else serial_to_bytes(entry.serial),
            "subject_id": entry.subject_id,
            "at_ms": entry.at_ms,
        }
        for seq, entry in enumerate(pending, last + 1)
    ]


def _outbox_rows(pending: Sequence[PendingOutbox], last: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "topic": entry.topic, "reference": entry.reference, "created_at_ms": entry.at_ms}
        for number, entry in enumerate(pending, last + 1)
    ]


async def _audit_rows(
    connection: AsyncConnection, pending: Sequence[tuple[AuditEvent, int]], last: int
) -> list[dict[str, Any]]:
    """The rows, chained to the last one. That one is read after its counter was locked: an older snapshot lacks it."""
    if not pending:
        return []
    head = GENESIS
    if last:
        head = (await connection.execute(select(audit.c.hash).where(audit.c.seq == last))).scalar_one()
    rows = []
    for seq, (event, at_ms) in enumerate(pending, last + 1):
        detail = encode_detail(event)
        head = chain(head, seq, at_ms, event, detail)
        rows.append(
            {
                "seq": seq,
                "at_ms": at_ms,
                "actor": event.actor,
                "action": event.action,
                "subject": event.subject,
                "outcome": event.outcome,
                "detail": detail,
                "hash": head,
            }
        )
    return rows


async def _write_rows(
    connection: AsyncConnection,
    feed_rows: list[dict[str, Any]],
    audit_rows: list[dict[str, Any]],
    outbox_rows: list[dict[str, Any]],
    counts: list[dict[str, Any]],
    values: dict[str, int],
) -> None:
    if feed_rows:
        await connection.execute(insert(feed), feed_rows)
    if audit_rows:
        await connection.execute(insert(audit), audit_rows)
    if outbox_rows:
        await connection.execute(insert(outbox), outbox_rows)
    if counts:
        await connection.execute(counting.ADD, counts)
    changed = [{"counter": name, "number": value} for name, value in values.items()]
    named = counters.c.name == bindparam("counter")
    await connection.execute(update(counters).where(named).values(value=bindparam("number")), changed)


#: One statement for all of it, NO_TIME_LIMIT included, so that the locks are held for few round trips and the commit.
_WRITE: Final = text(f"""
WITH feed_rows AS (
  INSERT INTO feed (seq, kind, authority_id, serial, subject_id, at_ms)
  SELECT * FROM unnest(CAST(:f_seq AS bigint[]), CAST(:f_kind AS text[]), CAST(:f_authority_id AS text[]),
    CAST(:f_serial AS bytea[]), CAST(:f_subject_id AS text[]), CAST(:f_at_ms AS bigint[]))
), audit_rows AS (
  INSERT INTO audit (seq, at_ms, actor, action, subject, outcome, detail, hash)
  SELECT * FROM unnest(CAST(:a_seq AS bigint[]), CAST(:a_at_ms AS bigint[]), CAST(:a_actor AS text[]),
    CAST(:a_action AS text[]), CAST(:a_subject AS text[]), CAST(:a_outcome AS text[]), CAST(:a_detail AS text[]),
    CAST(:a_hash AS bytea[]))
), outbox_rows AS (
  INSERT INTO outbox (id, topic, reference, created_at_ms)
  SELECT * FROM unnest(CAST(:o_id AS bigint[]), CAST(:o_topic AS text[]), CAST(:o_reference AS text[]),
    CAST(:o_created_at_ms AS bigint[]))
), counts AS (
  INSERT INTO statistics_counts (day, event, segment, count)
  SELECT * FROM unnest(CAST(:s_day AS integer[]), CAST(:s_event AS text[]), CAST(:s_segment AS integer[]),
    CAST(:s_count AS bigint[]))
  ON CONFLICT (day, event, segment) DO UPDATE SET count = statistics_counts.count + excluded.count
), numbers AS (
  UPDATE counters SET value = given.value
  FROM unnest(CAST(:names AS text[]), CAST(:numbers AS bigint[])) AS given (name, value)
  WHERE counters.name = given.name
)
SELECT set_config('statement_timeout', '0', true),
  CASE WHEN CAST(:told AS boolean) THEN pg_notify('{FEED_CHANNEL}', '') END
""")  # noqa: S608 - the channel is ours


async def _write_postgres(
    connection: AsyncConnection,
    feed_rows: list[dict[str, Any]],
    audit_rows: list[dict[str, Any]],
    outbox_rows: list[dict[str, Any]],
    counts: list[dict[str, Any]],
    values: dict[str, int],
) -> None:
    def columns(prefix: str, names: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {f"{prefix}_{name}": [row[name] for row in rows] for name in names.split()}

    told = bool(feed_rows)
    if len(feed_rows) + len(audit_rows) + len(outbox_rows) >= _COPY_FROM:
        for table, rows in ((feed, feed_rows), (audit, audit_rows), (outbox, outbox_rows)):
            await copy_in(connection, table, rows)
        feed_rows, audit_rows, outbox_rows = [], [], []
    parameters = {
        **columns("f", "seq kind authority_id serial subject_id at_ms", feed_rows),
        **columns("a", "seq at_ms actor action subject outcome detail hash", audit_rows),
        **columns("o", "id topic reference created_at_ms", outbox_rows),
        **columns("s", "day event segment count", counts),
        "names": list(values),
        "numbers": list(values.values()),
        "told": told,
    }
    await connection.execute(_WRITE, parameters)
