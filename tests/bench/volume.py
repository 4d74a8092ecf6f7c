"""Millions of certificates in a PostgreSQL store, made by the server itself: a measure of volume, not of loading.

They are those of another authority, whose key is elsewhere, and end in the same years as what the service issues: its
look-ups meet them in every index, while its lists and status sets say nothing of them. No service may run meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg

AUTHORITY: Final = "former"
PIECE: Final = 50_000
CONNECTIONS: Final = 3
_YEARS: Final = 4

#: $1 and $2: the first and last row; $3: the id before the first; $4: now, in milliseconds; $5: this month. As wide as
#: what is issued; keys and serials are spread as real ones are.
_ROWS: Final = f"""
INSERT INTO certificates (id, authority_id, serial, usage, profile, subject, public_key, not_before_ms, not_after_ms,
  partition, status_month, status_index, certificate, issued_at_ms, state, holder_id)
SELECT $3::bigint + n, '{AUTHORITY}', '\\x40' || substr(hash, 1, 15), CASE n % 2 WHEN 0 THEN 'encrypt' ELSE 'sign' END,
  'person', decode(repeat('30', 90), 'hex'), '\\x04' || hash || hash, $4::bigint, $4::bigint + month * 2629746000, 0,
  $5::integer + month, n, decode(repeat('41', 780), 'hex'), $4::bigint, 'good', 'f-' || (n / 2)
FROM (SELECT n, sha256(int8send(n)) AS hash, (n % {_YEARS * 12})::integer AS month
      FROM generate_series($1::bigint, $2::bigint) AS n) AS made
"""
_IDENTITIES: Final = f"""
INSERT INTO certificate_serials (id, authority_id, serial, status_month)
SELECT $3::bigint + n, '{AUTHORITY}', '\\x40' || substr(sha256(int8send(n)), 1, 15),
  $4::integer + (n % {_YEARS * 12})::integer
FROM generate_series($1::bigint, $2::bigint) AS n
"""
_FEED: Final = f"""
INSERT INTO feed (seq, kind, authority_id, serial, at_ms)
SELECT $3::bigint + n, 'issued', '{AUTHORITY}', '\\x40' || substr(sha256(int8send(n)), 1, 15), $4::bigint
FROM generate_series($1::bigint, $2::bigint) AS n
"""


async def _connect(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    await connection.execute("SET synchronous_commit = off")  # what is lost with the machine is made again
    return connection


async def fill(url: str, total: int, said: Callable[[int], None] = lambda _: None) -> float:
    """`total` more certificates; returns the seconds that it took. `said` is told how many there are."""
    began = time.perf_counter()
    connection = await _connect(url)
    last_id = await connection.fetchval("SELECT coalesce(max(id), 0) FROM certificate_serials")
    last_seq = await connection.fetchval("SELECT value FROM counters WHERE name = 'feed'")
    now_ms = await connection.fetchval("SELECT value FROM counters WHERE name = 'last_time_ms'")
    today = datetime.fromtimestamp(now_ms / 1000, UTC)
    this_month = today.year * 12 + today.month - 1
    await connection.execute(
        "INSERT INTO authorities (id, subject, public_key, partitions, created_at_ms)"
        f" VALUES ('{AUTHORITY}', '0', '0', 1, $1)",
        now_ms,
    )
    for year in range(this_month // 12, (this_month + _YEARS * 12) // 12 + 1):
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS certificates_{year} PARTITION OF certificates"
            f" FOR VALUES FROM ({year * 12}) TO ({year * 12 + 12})"
        )
    pieces = iter(range(1, total + 1, PIECE))
    done = 0

    async def work() -> None:
        nonlocal done
        mine = await _connect(url)
        for first in pieces:
            last = min(first + PIECE - 1, total)
            async with mine.transaction():
                await mine.execute(_IDENTITIES, first, last, last_id, this_month)
                await mine.execute(_ROWS, first, last, last_id, now_ms, this_month)
                await mine.execute(_FEED, first, last, last_seq, now_ms)
            done += last - first + 1
            said(done)
        await mine.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    await connection.execute("UPDATE counters SET value = $1 WHERE name = 'feed'", last_seq + total)
    await connection.execute("SELECT setval('certificate_serials_id_seq', $1)", last_id + total)
    for statement in ("VACUUM (ANALYZE) certificates, certificate_serials, feed", "ANALYZE", "CHECKPOINT"):
        await connection.execute(statement)
    await connection.close()
    return time.perf_counter() - began
