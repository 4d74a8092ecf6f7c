"""The store as it stands when the simulated year begins: written in bulk, as issuance and revocation would leave it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from core.asn1.distribution import crl_distribution_points
from core.asn1.names import build_name
from core.asn1.x509 import Extension, join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import to_datetime
from core.model import RevocationReason, serial_to_bytes
from core.store.certificates import NewCertificate
from tests.crl_world import KeySigner
from tests.simulate.plan import DAY_MS, LIFE_DAYS, Holder, Plan, new_serial

ISSUING: Final = "issuing"
USAGES: Final = ("sign", "encrypt")
_COLUMNS: Final = (
    "id, authority_id, serial, usage, profile, subject, public_key, not_before_ms, not_after_ms, partition,"
    " status_month, status_index, certificate, issued_at_ms, state, revoked_at_ms, reason"
)
_INSERT: Final = f"INSERT INTO certificates ({_COLUMNS}) VALUES ({','.join('?' * 17)})"


def status_month(at_ms: int) -> int:
    """The month that a certificate is kept under."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.year * 12 + at.month - 1


class Maker:
    """Certificates whose every octet is real: of one holder's key, with the address of their partition's CRL."""

    def __init__(self, issuer: bytes, signer: KeySigner) -> None:
        self._issuer = issuer
        self._signer = signer
        point = KeySigner("holder").public_key
        self._spki = subject_public_key_info(point)
        self._identifier = Extension.of(x509.SubjectKeyIdentifier(key_identifier(point)))

    def make(self, serial: int, url: str, begins_ms: int, ends_ms: int) -> tuple[bytes, bytes]:
        """(subject, certificate), DER."""
        subject = build_name({"C": "CN", "O": "测试", "CN": f"持有人{serial % 10**9:09}"}).public_bytes()
        tbs = tbs_certificate(
            serial=serial,
            issuer=self._issuer,
            subject=subject,
            not_before=to_datetime(begins_ms),
            not_after=to_datetime(ends_ms),
            spki=self._spki,
            extensions=[self._identifier, crl_distribution_points(url)],
        )
        return subject, join_signed(tbs, self._signer.sign_now(tbs))


def new_row(
    authority_id: str, serial: int, usage: str, partition: int, ends_ms: int, index: int, made: tuple[bytes, bytes]
) -> NewCertificate:
    """A certificate to record. made: (subject, certificate); empty for one of whom only the status matters."""
    return NewCertificate(
        authority_id=authority_id,
        serial=serial,
        usage=usage,
        profile="person",
        subject=made[0],
        public_key=b"",
        not_before_ms=ends_ms - LIFE_DAYS * DAY_MS,
        not_after_ms=ends_ms,
        partition=partition,
        status_month=status_month(ends_ms),
        status_index=index,
        certificate=made[1],
    )


def issue(path: Path, rows: Iterable[tuple[str, int, int, int]], begins_ms: int, first: int) -> None:
    """Writes new certificates of whom only the status matters, and their feed entries, in one transaction.

    rows: (authority, partition, serial, end in ms). first: the first one's status index.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("BEGIN IMMEDIATE")
    last = connection.execute("SELECT max(id) FROM certificate_serials").fetchone()[0]
    head = connection.execute("SELECT value FROM counters WHERE name = 'feed'").fetchone()[0]
    values = [
        (last + n, authority_id, serial_to_bytes(serial), USAGES[n % 2], "person", b"", b"", begins_ms, ends_ms,
         partition, status_month(ends_ms), first + n, b"", begins_ms, "good", None, None)
        for n, (authority_id, partition, serial, ends_ms) in enumerate(rows, 1)
    ]  # fmt: skip
    connection.executemany(
        "INSERT INTO certificate_serials (id, authority_id, serial, status_month) VALUES (?, ?, ?, ?)",
        [(*row[:3], row[10]) for row in values],
    )
    connection.executemany(_INSERT, values)
    connection.executemany(
        "INSERT INTO feed (seq, kind, authority_id, serial, at_ms) VALUES (?, 'issued', ?, ?, ?)",
        [(head + n, *row[1:3], begins_ms) for n, row in enumerate(values, 1)],
    )
    connection.execute("UPDATE counters SET value = ? WHERE name = 'feed'", (head + len(values),))
    connection.execute("COMMIT")
    connection.close()


def fill(path: Path, plan: Plan, holders: Iterable[Holder], url: str, begin_ms: int, maker: Maker) -> int:
    """Two certificates for each holder, in partition 0, and the revocations of the year before; returns how many.

    Certificates whose status never changes are known by serial and status alone, but for one.
    """
    chance = random.Random(plan.seed + 1)
    months = [status_month(begin_ms + day * DAY_MS) for day in range(LIFE_DAYS + 1)]
    earlier = round(plan.holders * plan.earlier) * 2
    known = [
        (serial, holder.ends_day, usage)
        for holder in holders
        for serial, usage in zip(holder.serials, USAGES, strict=True)
    ]
    count = plan.holders * 2

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(count):
            made, state = (b"", b""), ("good", None, None)
            day, usage, serial = chance.randint(1, LIFE_DAYS), USAGES[number % 2], new_serial(chance)
            if number == 0:
                day = LIFE_DAYS
            elif number <= len(known):
                serial, day, usage = known[number - 1]
            elif number <= len(known) + earlier:
                at_ms = begin_ms - chance.randrange(365 * DAY_MS)
                state = ("revoked", max(at_ms, begin_ms + (day - LIFE_DAYS) * DAY_MS), int(RevocationReason.SUPERSEDED))
            ends_ms = begin_ms + day * DAY_MS
            begins_ms = ends_ms - LIFE_DAYS * DAY_MS
            if number <= len(known):
                made = maker.make(serial, url, begins_ms, ends_ms)
            yield (number + 1, ISSUING, serial_to_bytes(serial), usage, "person", made[0], b"", begins_ms, ends_ms, 0,
                   months[day], number, made[1], begins_ms, *state)  # fmt: skip

    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;")
    with connection:
        connection.executemany(_INSERT, rows())
        connection.execute(
            "INSERT INTO certificate_serials SELECT id, authority_id, serial, status_month FROM certificates"
        )
        head = connection.execute("SELECT value FROM counters WHERE name = 'feed'").fetchone()[0]
        connection.execute(
            "INSERT INTO feed (seq, kind, authority_id, serial, at_ms) SELECT ? + row_number() OVER (ORDER BY id),"
            " 'revoked', authority_id, serial, revoked_at_ms FROM certificates WHERE state = 'revoked'",
            (head,),
        )
        connection.execute("UPDATE counters SET value = value + ? WHERE name = 'feed'", (earlier,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return count
