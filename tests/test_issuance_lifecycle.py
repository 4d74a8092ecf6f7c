"""Revoke, hold, resume: what may follow what, that a pair moves together, what is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from core.errors import Conflict, NotFound, QianyanError, Refused, Unavailable
from core.model import CertificateState, RevocationReason
from core.store import authorities, certificates, schema
from core.store.certificates import CertificateRecord
from signer.issuance.issued import Issued
from tests.issuance_support import Installation, Request, audit_rows, installation, snapshot

Reason = RevocationReason


@dataclass
class Holder:
    """An installation with one pair issued."""

    world: Installation
    issued: Issued

    @property
    def serials(self) -> list[int]:
        return [c.serial for c in self.issued.certificates]

    async def states(self) -> list[CertificateState]:
        async with self.world.database.read() as connection:
            return [(await certificates.find(connection, serial)).state for serial in self.serials]

    async def revoke(self, reason: Reason, **more: object) -> list[CertificateRecord]:
        return await self.world.issuer.revoke(self.serials[0], reason, actor="token:ra-1", **more)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def holder(tmp_path: Path) -> AsyncIterator[Holder]:
    async with installation(tmp_path) as world:
        yield Holder(world, await world.issuer.issue(Request().encode(), "organisation", actor="token:ra-1"))


async def refuse(holder: Holder, error: type[QianyanError], code: str, reason: Reason, **more: object) -> None:
    before = await snapshot(holder.world.database)
    with pytest.raises(error) as refusal:
        await holder.revoke(reason, **more)
    assert refusal.value.code == code
    assert await snapshot(holder.world.database) == before


@pytest.mark.parametrize("which", [0, 1])
async def test_a_pair_is_revoked_together(holder: Holder, which: int) -> None:
    before = await snapshot(holder.world.database)
    changed = await holder.world.issuer.revoke(holder.serials[which], Reason.KEY_COMPROMISE, actor="token:ra-1")
    after = await snapshot(holder.world.database)
    assert [r.serial for r in changed] == [holder.serials[which], holder.serials[1 - which]]
    assert await holder.states() == [CertificateState.REVOKED] * 2
    assert {r.reason for r in changed} == {Reason.KEY_COMPROMISE}
    assert after["feed"] == before["feed"] + 2  # type: ignore[operator]
    assert after["outbox"] == before["outbox"] + 2  # type: ignore[operator]
    rows = await audit_rows(holder.world.database)
    assert [row[0] for row in rows[-2:]] == ["certificate.revoke"] * 2
    assert '"reason":"key_compromise"' in rows[-1][3]


async def test_revoked_is_final(holder: Holder) -> None:
    await holder.revoke(Reason.SUPERSEDED)
    for reason in (Reason.SUPERSEDED, Reason.KEY_COMPROMISE, Reason.CERTIFICATE_HOLD):
        await refuse(holder, Refused, "already_revoked", reason)
    with pytest.raises(Refused) as refusal:
        await holder.world.issuer.release(holder.serials[0], actor="token:ra-1")
    assert refusal.value.code == "not_held"
    assert await holder.states() == [CertificateState.REVOKED] * 2


async def test_hold_and_resume(holder: Holder) -> None:
    held = await holder.revoke(Reason.CERTIFICATE_HOLD)
    assert await holder.states() == [CertificateState.HELD] * 2
    assert held[0].revoked_at_ms is not None
    await refuse(holder, Refused, "already_held", Reason.CERTIFICATE_HOLD)
    released = await holder.world.issuer.release(holder.serials[1], actor="token:ra-1")
    assert [r.state for r in released] == [CertificateState.GOOD] * 2
    assert released[0].revoked_at_ms is None
    with pytest.raises(Refused):
        await holder.world.issuer.release(holder.serials[0], actor="token:ra-1")
    actions = [row[0] for row in await audit_rows(holder.world.database)]
    refused = "certificate.refuse"  # the second hold, and the second end of it
    assert actions[-6:] == ["certificate.hold"] * 2 + [refused] + ["certificate.resume"] * 2 + [refused]


async def test_a_held_certificate_is_revoked_since_the_hold(holder: Holder) -> None:
    held = await holder.revoke(Reason.CERTIFICATE_HOLD)
    holder.world.clock.offset_ms = 60_000
    revoked = await holder.revoke(Reason.KEY_COMPROMISE)
    assert [r.state for r in revoked] == [CertificateState.REVOKED] * 2
    assert revoked[0].revoked_at_ms == held[0].revoked_at_ms


@pytest.mark.parametrize("reason", [Reason.CA_COMPROMISE, Reason.AA_COMPROMISE])
async def test_reasons_for_authorities_are_refused(holder: Holder, reason: Reason) -> None:
    await refuse(holder, Refused, "reason", reason)


def test_remove_from_crl_is_no_reason() -> None:
    with pytest.raises(ValueError, match="unknown reason"):
        Reason.from_label("removeFromCRL")


async def test_invalidity_dates(holder: Holder) -> None:
    now = holder.world.clock()
    await refuse(holder, Refused, "invalidity_date", Reason.KEY_COMPROMISE, invalidity_at_ms=now + 60_000)
    await refuse(holder, Refused, "invalidity_date", Reason.KEY_COMPROMISE, invalidity_at_ms=-1)
    await refuse(holder, Refused, "invalidity_date", Reason.CERTIFICATE_HOLD, invalidity_at_ms=now - 60_000)
    changed = await holder.revoke(Reason.KEY_COMPROMISE, invalidity_at_ms=now - 60_000)
    assert {r.invalidity_at_ms for r in changed} == {now - 60_000}


async def test_what_is_not_there(holder: Holder) -> None:
    with pytest.raises(NotFound):
        await holder.world.issuer.revoke(12345, Reason.SUPERSEDED, actor="token:ra-1")
    await refuse(holder, NotFound, "certificate_unknown", Reason.SUPERSEDED, authority_id="root")


async def test_an_authoritys_certificate_needs_its_own_permission(holder: Holder) -> None:
    async with holder.world.database.read() as connection:
        await authorities.get(connection, "issuing")
        c = schema.certificates.c
        rows = (await connection.execute(schema.certificates.select().where(c.usage == "ocsp"))).all()
    serial = int.from_bytes(rows[0].serial, "big")
    with pytest.raises(Refused) as refusal:
        await holder.world.issuer.revoke(serial, Reason.KEY_COMPROMISE, actor="token:ra-1")
    assert refusal.value.code == "authority_certificate"
    changed = await holder.world.issuer.revoke(serial, Reason.KEY_COMPROMISE, actor="cli:root", allow_authority=True)
    assert [r.usage for r in changed] == ["ocsp"]


async def test_a_retry_gets_the_same_answer(holder: Holder) -> None:
    key = ("ra-1", "revoke-1")
    first = await holder.revoke(Reason.CERTIFICATE_HOLD, idempotency=key)
    before = await snapshot(holder.world.database)
    assert await holder.revoke(Reason.CERTIFICATE_HOLD, idempotency=key) == first
    assert await snapshot(holder.world.database) == before
    await refuse(holder, Conflict, "idempotency_key", Reason.SUPERSEDED, idempotency=key)
    await holder.world.issuer.release(holder.serials[0], actor="token:ra-1")
    again = await holder.revoke(Reason.CERTIFICATE_HOLD, idempotency=key)
    assert [r.state for r in again] == [CertificateState.HELD] * 2
    assert await holder.states() == [CertificateState.GOOD] * 2


async def test_a_clock_behind_changes_nothing(holder: Holder) -> None:
    holder.world.clock.offset_ms = -3_600_000
    await refuse(holder, Unavailable, "clock_behind", Reason.SUPERSEDED)
