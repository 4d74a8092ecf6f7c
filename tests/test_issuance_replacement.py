"""Renewal, change, reissue: what the new pair takes over, how the old one ends, and who wins a race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from core.asn1 import der
from core.asn1.x509 import Extension
from core.errors import Conflict, QianyanError, Refused
from core.model import CertificateState, RevocationReason
from core.store import certificates, escrow, events, schema
from core.store.certificates import CertificateRecord
from signer._native import sm2
from signer.issuance.grounds import REASONS, Ground, read_reason
from signer.issuance.issued import Issued
from tests.issuance_support import (
    ORGANISATION,
    Installation,
    Request,
    audit_rows,
    installation,
    lint_complaints,
    snapshot,
    subject_of,
)

ACTOR = "token:ra-1"
DAY_MS = 86_400_000
TAX_NUMBER = Extension("1.2.156.10260.4.1.5", False, der.tlv(0x13, b"91440101MA59BX1Q2X"))


@dataclass
class Holder:
    """An installation with one pair issued."""

    world: Installation
    request: Request
    issued: Issued

    @property
    def serial(self) -> int:
        return self.issued.certificates[0].serial

    async def records(self, issued: Issued | None = None) -> list[CertificateRecord]:
        async with self.world.database.read() as connection:
            return [await certificates.find(connection, c.serial) for c in (issued or self.issued).certificates]

    async def states(self, issued: Issued | None = None) -> set[CertificateState]:
        return {record.state for record in await self.records(issued)}

    def near_the_end(self, days: int = 20) -> None:
        self.world.clock.offset_ms = (365 - days) * DAY_MS

    async def renew(self, serial: int | None = None, **more: object) -> Issued:
        return await self.world.issuer.renew(serial or self.serial, actor=ACTOR, **more)  # type: ignore[arg-type]

    async def reissue(self, request: Request | None = None, ground: Ground = Ground.LOST, **more: object) -> Issued:
        csr = (request or Request()).encode()
        return await self.world.issuer.reissue(self.serial, csr, ground, actor=ACTOR, **more)  # type: ignore[arg-type]

    async def change(self, request: Request, **more: object) -> Issued:
        return await self.world.issuer.change(self.serial, request.encode(), actor=ACTOR, **more)  # type: ignore[arg-type]

    async def refused(self, call: Awaitable[object], code: str) -> None:
        before = await snapshot(self.world.database)
        with pytest.raises(QianyanError) as refusal:
            await call
        assert refusal.value.code == code
        assert await snapshot(self.world.database) == before
        assert (await audit_rows(self.world.database))[-1][0::2] == ("certificate.refuse", code)


@pytest_asyncio.fixture
async def holder(tmp_path: Path) -> AsyncIterator[Holder]:
    async with installation(tmp_path) as world:
        request = Request(extensions=[TAX_NUMBER])
        yield Holder(world, request, await world.issuer.issue(request.encode(), "organisation", actor=ACTOR))


def renamed(key: sm2.PrivateKey) -> Request:
    return Request(subject_of({**ORGANISATION, "O": "改名有限公司", "CN": "改名有限公司"}), key=key)


def tax_numbers(issued: Issued) -> list[bytes]:
    oid = x509.ObjectIdentifier(TAX_NUMBER.oid)
    parsed = [x509.load_der_x509_certificate(c.der) for c in issued.certificates]
    return [one.extensions.get_extension_for_oid(oid).value.public_bytes() for one in parsed]


async def test_a_renewal_runs_from_the_old_end(holder: Holder) -> None:
    old = await holder.records()
    holder.near_the_end()
    renewed = await holder.renew()
    new = await holder.records(renewed)
    for before, after in zip(old, new, strict=True):
        assert after.not_after_ms == before.not_after_ms + 365 * DAY_MS
        assert (after.usage, after.subject, after.public_key) == (before.usage, before.subject, before.public_key)
        assert after.serial != before.serial
    assert tax_numbers(renewed) == tax_numbers(holder.issued)
    assert renewed.enveloped_key is None, "a key that stays is not handed out again"
    assert await holder.states() == await holder.states(renewed) == {CertificateState.GOOD}
    assert lint_complaints(renewed.certificates[0].der) == []
    async with holder.world.database.read() as connection:
        kept = [await escrow.get(connection, pair[1].id) for pair in (old, new)]
        assert await events.successor(connection, old[0].id) == new[0].id
    assert kept[0] == kept[1]
    action, _, outcome, detail = (await audit_rows(holder.world.database))[-1]
    assert (action, outcome) == ("certificate.renew", "ok")
    assert f'"replaces":"{holder.serial:032x}"' in detail


async def test_the_window(holder: Holder) -> None:
    await holder.refused(holder.renew(), "renewal_early")
    holder.near_the_end(31)
    await holder.refused(holder.renew(), "renewal_early")
    holder.near_the_end(29)
    await holder.renew()


async def test_a_renewal_with_new_keys(holder: Holder) -> None:
    holder.near_the_end()
    request = Request()
    renewed = await holder.renew(csr=request.encode())
    old, new = await holder.records(), await holder.records(renewed)
    assert new[0].public_key == request.key.public_key.to_bytes()
    assert new[1].public_key not in {record.public_key for record in old}
    assert renewed.enveloped_key is not None
    await holder.refused(holder.renew(csr=request.encode()), "already_replaced")


async def test_a_renewal_is_of_the_same_subject(holder: Holder) -> None:
    holder.near_the_end()
    await holder.refused(holder.renew(csr=renamed(sm2.PrivateKey.generate()).encode()), "subject_changed")


async def test_a_change_keeps_keys_and_end(holder: Holder) -> None:
    old = await holder.records()
    await holder.refused(holder.change(renamed(sm2.PrivateKey.generate())), "key_changed")
    changed = await holder.change(renamed(holder.request.key))
    new = await holder.records(changed)
    assert [r.public_key for r in new] == [r.public_key for r in old]
    assert [r.not_after_ms for r in new] == [r.not_after_ms for r in old]
    assert new[0].subject == renamed(holder.request.key).subject != old[0].subject
    ended = await holder.records()
    assert {r.state for r in ended} == {CertificateState.REVOKED}
    assert {r.reason for r in ended} == {RevocationReason.AFFILIATION_CHANGED}
    assert await holder.states(changed) == {CertificateState.GOOD}


async def test_a_reissue_revokes_at_once(holder: Holder) -> None:
    old = await holder.records()
    await holder.refused(holder.reissue(holder.request), "key_not_new")
    await holder.refused(holder.reissue(renamed(sm2.PrivateKey.generate())), "subject_changed")
    await holder.refused(holder.reissue(ground=Ground.COURT_DEMAND), "reissue_ground")
    issued = await holder.reissue(ground=Ground.DAMAGED)
    new = await holder.records(issued)
    assert not {r.public_key for r in new} & {r.public_key for r in old}
    assert [r.not_after_ms for r in new] == [r.not_after_ms for r in old]
    assert tax_numbers(issued) == tax_numbers(holder.issued)
    assert issued.enveloped_key is not None
    ended = await holder.records()
    assert {(r.state, r.reason) for r in ended} == {(CertificateState.REVOKED, RevocationReason.SUPERSEDED)}
    async with holder.world.database.read() as connection:
        counted = await escrow.counts(connection)
    assert (counted.in_use, counted.history) == (1, 1)


async def test_what_was_renewed_ends_with_its_successor(holder: Holder) -> None:
    holder.near_the_end()
    renewed = await holder.renew()
    changed = await holder.world.issuer.suspend(renewed.certificates[0].serial, actor=ACTOR)
    assert len(changed) == 4
    assert await holder.states() == await holder.states(renewed) == {CertificateState.HELD}
    await holder.world.issuer.release(renewed.certificates[1].serial, actor=ACTOR)
    assert await holder.states() == await holder.states(renewed) == {CertificateState.GOOD}
    await holder.world.issuer.revoke(renewed.certificates[0].serial, RevocationReason.SUPERSEDED, actor=ACTOR)
    assert await holder.states() == await holder.states(renewed) == {CertificateState.REVOKED}


async def test_what_was_suspended_by_itself_is_not_resumed_along(holder: Holder) -> None:
    holder.near_the_end()
    renewed = await holder.renew()
    await holder.world.issuer.suspend(holder.serial, actor=ACTOR)
    holder.world.clock.offset_ms += 5_000
    await holder.world.issuer.suspend(renewed.certificates[0].serial, actor=ACTOR)
    await holder.world.issuer.release(renewed.certificates[0].serial, actor=ACTOR)
    assert await holder.states() == {CertificateState.HELD}
    assert await holder.states(renewed) == {CertificateState.GOOD}


@pytest.mark.parametrize("same_key", [True, False])
async def test_a_compromised_key_ends_every_certificate_of_it(holder: Holder, same_key: bool) -> None:
    holder.near_the_end()
    renewed = await holder.renew(csr=None if same_key else Request().encode())
    await holder.world.issuer.revoke(holder.serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    assert await holder.states() == {CertificateState.REVOKED}
    assert await holder.states(renewed) == {CertificateState.REVOKED if same_key else CertificateState.GOOD}


async def test_a_reissue_of_a_renewed_pair_ends_the_line(holder: Holder) -> None:
    holder.near_the_end()
    renewed = await holder.renew()
    issued = await holder.world.issuer.reissue(
        renewed.certificates[0].serial, Request().encode(), Ground.LOST, actor=ACTOR
    )
    assert await holder.states() == await holder.states(renewed) == {CertificateState.REVOKED}
    assert await holder.states(issued) == {CertificateState.GOOD}


@pytest.mark.parametrize("operation", ["renew", "change", "reissue"])
async def test_a_retry_gets_the_same_answer(holder: Holder, operation: str) -> None:
    holder.near_the_end()
    key = ("ra-1", f"{operation}-1")
    issuer = holder.world.issuer
    changed, new = renamed(holder.request.key).encode(), Request().encode()  # a signature is another one each time

    async def ask() -> Issued:
        if operation == "renew":
            return await holder.renew(idempotency=key)
        if operation == "change":
            return await issuer.change(holder.serial, changed, actor=ACTOR, idempotency=key)
        return await issuer.reissue(holder.serial, new, Ground.LOST, actor=ACTOR, idempotency=key)

    first = await ask()
    before = await snapshot(holder.world.database)
    assert await ask() == first
    assert await snapshot(holder.world.database) == before
    with pytest.raises(Conflict) as refusal:
        await holder.reissue(Request(), idempotency=key)
    assert refusal.value.code == "idempotency_key"


async def test_of_two_at_once_one_is_told(holder: Holder) -> None:
    holder.near_the_end()
    results = await asyncio.gather(*(holder.renew() for _ in range(4)), return_exceptions=True)
    won = [result for result in results if isinstance(result, Issued)]
    told = [result.code for result in results if isinstance(result, QianyanError)]
    assert (len(won), told) == (1, ["already_replaced"] * 3)
    async with holder.world.database.read() as connection:
        assert len((await connection.execute(schema.certificates.select())).all()) == 3 + 4


async def test_a_revocation_at_the_same_time_never_leaves_a_valid_pair(holder: Holder) -> None:
    holder.near_the_end()
    revoking = holder.world.issuer.revoke(holder.serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    renewal, _ = await asyncio.gather(holder.renew(), revoking, return_exceptions=True)
    assert await holder.states() == {CertificateState.REVOKED}
    if isinstance(renewal, Issued):
        assert await holder.states(renewal) == {CertificateState.REVOKED}
    else:
        assert isinstance(renewal, Refused)
        assert renewal.code == "already_revoked"


async def test_whose_a_key_is(holder: Holder) -> None:
    other = renamed(holder.request.key)
    await holder.refused(holder.world.issuer.issue(other.encode(), "organisation", actor=ACTOR), "key_of_another")
    again = Request(key=holder.request.key)
    await holder.world.issuer.issue(again.encode(), "organisation", actor=ACTOR)
    await holder.world.issuer.revoke(holder.serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    call = holder.world.issuer.issue(again.encode(), "organisation", actor=ACTOR)
    await holder.refused(call, "key_compromised_before")


async def test_grounds_are_kept_and_mapped(holder: Holder) -> None:
    await holder.world.issuer.revoke(
        holder.serial, REASONS[Ground.COURT_DEMAND], actor=ACTOR, ground=Ground.COURT_DEMAND
    )
    assert {r.reason for r in await holder.records()} == {RevocationReason.PRIVILEGE_WITHDRAWN}
    async with holder.world.database.read() as connection:
        e = schema.certificate_events
        assert (await connection.execute(e.select().order_by(e.c.id.desc()))).first().ground == "court_demand"  # type: ignore[union-attr]
    assert '"ground":"court_demand"' in (await audit_rows(holder.world.database))[-1][3]


def test_every_ground_has_a_reason_for_a_holders_certificate() -> None:
    assert set(REASONS) == set(Ground)
    allowed = set(RevocationReason) - {RevocationReason.CERTIFICATE_HOLD}
    assert set(REASONS.values()) <= allowed - {RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE}
    assert read_reason("lost") == (RevocationReason.KEY_COMPROMISE, Ground.LOST)
    assert read_reason("certificateHold") == (RevocationReason.CERTIFICATE_HOLD, None)
    with pytest.raises(ValueError, match="court_demand"):
        read_reason("whim")


async def test_a_key_that_was_made_elsewhere_is_carried_on(holder: Holder) -> None:
    """As of a pair that was imported: its encryption key was never in escrow here."""
    async with holder.world.database.write() as connection:
        await connection.execute(schema.escrowed_keys.delete())
    holder.near_the_end()
    renewed = await holder.renew()
    assert (await holder.records(renewed))[1].public_key == (await holder.records())[1].public_key
    async with holder.world.database.read() as connection:
        assert (await escrow.counts(connection)).in_use == 0
    again = renewed.certificates[0].serial
    issued = await holder.world.issuer.reissue(again, Request().encode(), Ground.LOST, actor=ACTOR)
    assert issued.enveloped_key is not None
