"""A store with one authority, certificates with status indexes, and the service that makes status sets of them.

The store, the certificates and every signature are real; only the clock is the test's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry

from core import oids
from core.asn1 import der
from core.asn1.names import build_name
from core.asn1.x509 import Extension, join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import to_datetime
from core.model import KeyPurpose, KeyState, RevocationReason
from core.store import authorities, certificates, keys, status_sets
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from core.store.database import Database, open_database
from core.store.follow import FeedFollower
from core.store.keys import KeyRecord
from core.store.status_sets import Published
from qianyan_status import StatusSet, load
from signer.engine.verify import verify_signature
from status.set.build import month_of
from status.set.service import StatusSetService
from status.set.settings import StatusSetSettings
from tests.crl_world import DAY_MS, NOON_MS, KeySigner, SetClock, make_certificate
from tests.store_world import create_store, store_url

YEAR_MS = 365 * DAY_MS
SUBJECT = build_name({"C": "CN", "CN": "张三"}).public_bytes()
ISSUER = build_name({"C": "CN", "O": "测试", "CN": "签验测试签发机构"}).public_bytes()


def leaf(
    by: KeySigner,
    *,
    serial: int,
    not_before_ms: int,
    not_after_ms: int,
    place: tuple[int, int] | None,
    more: tuple[Extension, ...] = (),
    key: bytes | None = None,
) -> bytes:
    """A holder's certificate; `place`: the month and index of its status extension."""
    extensions = [Extension.of(x509.AuthorityKeyIdentifier(key_identifier(by.public_key), None, None)), *more]
    if place is not None:
        value = der.sequence(der.integer(place[0]), der.integer(place[1]))
        extensions.append(Extension(oids.STATUS_INDEX_DEFAULT, False, value))
    tbs = tbs_certificate(
        serial=serial,
        issuer=ISSUER,
        subject=SUBJECT,
        not_before=to_datetime(not_before_ms),
        not_after=to_datetime(not_after_ms),
        spki=subject_public_key_info(key or by.public_key),
        extensions=extensions,
    )
    return join_signed(tbs, by.sign_now(tbs))


class SetWorld:
    """See the module."""

    def __init__(self, database: Database, follower: FeedFollower, settings: StatusSetSettings) -> None:
        self.database = database
        self.follower = follower
        self.clock = SetClock()
        self.signer = KeySigner("issuing")
        self.issuer = make_certificate(self.signer, not_after_ms=NOON_MS + 10 * YEAR_MS)
        self.registry = CollectorRegistry()
        self.service = self.new_service(settings, self.registry)

    def new_service(self, settings: StatusSetSettings, registry: CollectorRegistry | None = None) -> StatusSetService:
        """Another builder over the same store."""
        return StatusSetService(
            self.database,
            self.follower,
            lambda _: self.signer,
            verify_signature,
            self.clock,
            settings,
            index_oid=oids.STATUS_INDEX_DEFAULT,
            registry=registry,
        )

    async def start(self) -> None:
        """Records the authority."""
        now_ms = self.clock()
        key = KeyRecord("issuing", KeyPurpose.CERTIFICATE, KeyState.ACTIVE, self.signer.public_key, "x", now_ms, now_ms)
        row = Authority("issuing", None, "issuing", ISSUER, self.signer.public_key, self.issuer, None, None, 2, now_ms)
        async with self.database.write() as connection:
            await keys.add(connection, key)
            await authorities.add(connection, row)

    async def issue(self, *, ends_ms: int | None = None, encoded: bool = True) -> tuple[int, bytes]:
        """(serial, DER) of a new certificate; without `encoded` an empty one, faster."""
        return (await self.issue_many(1, ends_ms=ends_ms, encoded=encoded))[0]

    async def issue_many(
        self, count: int, *, ends_ms: int | None = None, encoded: bool = False
    ) -> list[tuple[int, bytes]]:
        """Several, in one transaction."""
        ends_ms = ends_ms or self.clock() + YEAR_MS
        month = month_of(ends_ms)
        made = []
        async with self.database.write() as connection:
            first = await certificates.take_status_index(connection, "issuing", month, count)
            for index in range(first, first + count):
                serial = int.from_bytes(os.urandom(15), "big") + 1
                body = b"-"
                if encoded:
                    body = leaf(
                        self.signer,
                        serial=serial,
                        not_before_ms=self.clock() - 1000,
                        not_after_ms=ends_ms,
                        place=(month, index),
                    )
                new = NewCertificate(
                    authority_id="issuing",
                    serial=serial,
                    usage="sign",
                    profile="person",
                    subject=SUBJECT,
                    public_key=self.signer.public_key,
                    not_before_ms=self.clock() - 1000,
                    not_after_ms=ends_ms,
                    partition=serial % 2,
                    status_month=month,
                    status_index=index,
                    certificate=body,
                )
                await certificates.record(connection, new, at_ms=self.clock())
                made.append((serial, body))
        return made

    async def revoke(self, serial: int, reason: RevocationReason = RevocationReason.KEY_COMPROMISE) -> None:
        """Revokes or holds."""
        async with self.database.write() as connection:
            record = await certificates.find(connection, serial)
            await certificates.revoke(connection, record, reason, at_ms=self.clock())

    async def release(self, serial: int) -> None:
        """Ends a hold."""
        async with self.database.write() as connection:
            await certificates.release(connection, await certificates.find(connection, serial), at_ms=self.clock())

    async def published(self) -> Published:
        """What is published now."""
        async with self.database.read() as connection:
            found = await status_sets.latest(connection, "issuing")
        assert found is not None
        return found

    def load(self, published: Published, *, delta: bool = True, last_position: int = 0) -> StatusSet:
        """What a relying party makes of it, at the world's time."""
        return load(
            published.base.body,
            published.delta.body if delta else None,
            issuer=self.issuer,
            verify=verify_signature,
            last_position=last_position,
            clock=lambda: self.clock() // 1000,
        )

    def metric(self, name: str, **labels: str) -> float:
        """A metric of the service."""
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def open_set_world(
    directory: Path, settings: StatusSetSettings | None = None, *, url: str | None = None
) -> AsyncIterator[SetWorld]:
    """A world on a new store in `directory`, or on the one at `url`, which nothing is in."""
    database = await (open_database(url) if url else create_store(store_url(directory)))
    follower = await FeedFollower.start(database)
    world = SetWorld(database, follower, settings or StatusSetSettings())
    try:
        await world.start()
        yield world
    finally:
        follower.close()
        await database.close()


def seconds(year: int, month: int, day: int) -> int:
    """Midnight UTC in seconds since 1970."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())
