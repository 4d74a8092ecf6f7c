"""The rules of certificates and their status, held to on a real store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import Conflict, NotFound, Refused
from core.model import CertificateState, RevocationReason
from core.store import authorities, certificates, feed
from core.store.certificates import CertificateRecord
from core.store.database import Database
from tests.store_world import BACKENDS, NOW_MS, abandoned, authority, certificate, fresh_store

HOLD = RevocationReason.CERTIFICATE_HOLD
COMPROMISE = RevocationReason.KEY_COMPROMISE


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


async def issue(database: Database, serial: int, index: int = 0, **changes: object) -> int:
    async with database.write() as connection:
        return await certificates.record(connection, certificate(serial, index, **changes), at_ms=NOW_MS)  # type: ignore[arg-type]


async def found(database: Database, serial: int, authority_id: str | None = None) -> CertificateRecord:
    async with database.read() as connection:
        return await certificates.find(connection, serial, authority_id)


async def revoke(
    database: Database, serial: int, reason: RevocationReason = COMPROMISE, *, at_ms: int = NOW_MS + 5
) -> None:
    async with database.write() as connection:
        await certificates.revoke(connection, await certificates.find(connection, serial), reason, at_ms=at_ms)


async def release(database: Database, serial: int) -> None:
    async with database.write() as connection:
        await certificates.release(connection, await certificates.find(connection, serial), at_ms=NOW_MS + 9)


async def test_revoked_is_final(database: Database) -> None:
    await issue(database, 1)
    await revoke(database, 1)
    for code, attempt in (
        ("already_revoked", lambda: revoke(database, 1)),
        ("already_revoked", lambda: revoke(database, 1, HOLD)),
        ("not_held", lambda: release(database, 1)),
    ):
        with pytest.raises(Refused) as refused:
            await attempt()
        assert refused.value.code == code
    status = (await found(database, 1)).status
    assert (status.state, status.reason, status.revoked_at_ms) == (CertificateState.REVOKED, COMPROMISE, NOW_MS + 5)
    async with database.read() as connection:
        assert [e.kind for e in await feed.read_after(connection, 1)] == ["issued", "revoked"]


async def test_a_hold_can_be_released_and_held_again(database: Database) -> None:
    await issue(database, 1)
    await revoke(database, 1, HOLD)
    assert (await found(database, 1)).state is CertificateState.HELD
    with pytest.raises(Refused) as refused:
        await revoke(database, 1, HOLD)
    assert refused.value.code == "already_held"
    await release(database, 1)
    status = (await found(database, 1)).status
    assert (status.state, status.reason, status.revoked_at_ms) == (CertificateState.GOOD, None, None)
    with pytest.raises(Refused) as refused:
        await release(database, 1)
    assert refused.value.code == "not_held"
    await revoke(database, 1, HOLD)
    async with database.read() as connection:
        assert [e.kind for e in await feed.read_after(connection, 1)] == ["issued", "held", "released", "held"]


async def test_a_hold_that_becomes_a_revocation_keeps_its_time(database: Database) -> None:
    await issue(database, 1)
    await revoke(database, 1, HOLD, at_ms=NOW_MS + 5)
    await revoke(database, 1, COMPROMISE, at_ms=NOW_MS + 500)
    status = (await found(database, 1)).status
    assert (status.state, status.reason, status.revoked_at_ms) == (CertificateState.REVOKED, COMPROMISE, NOW_MS + 5)


async def test_a_change_to_a_row_that_changed_meanwhile_is_refused(database: Database) -> None:
    await issue(database, 1)
    stale = await found(database, 1)
    await revoke(database, 1, HOLD)
    with pytest.raises(Conflict) as refused:
        async with database.write() as connection:
            await certificates.revoke(connection, stale, COMPROMISE, at_ms=NOW_MS)
    assert refused.value.code == "state_changed"
    assert (await found(database, 1)).reason is HOLD


async def test_a_serial_is_unique_within_its_authority(database: Database) -> None:
    async with database.write() as connection:
        await authorities.add(connection, authority("other"))
    await issue(database, 7, 0)
    with pytest.raises(Conflict) as refused:
        await issue(database, 7, 1)
    assert refused.value.code == "serial_taken"
    await issue(database, 7, 0, authority_id="other")
    with pytest.raises(Conflict) as refused:
        await found(database, 7)
    assert refused.value.code == "serial_ambiguous"
    assert (await found(database, 7, "other")).authority_id == "other"
    with pytest.raises(NotFound):
        await found(database, 8)


async def test_a_status_index_is_unique_within_authority_and_month(database: Database) -> None:
    await issue(database, 1, 3)
    with pytest.raises(Conflict):
        await issue(database, 2, 3)
    await issue(database, 2, 3, status_month=24_323)


async def test_status_indexes_are_dense_and_given_back_with_the_transaction(database: Database) -> None:
    async def take(month: int, count: int = 1) -> int:
        async with database.write() as connection:
            return await certificates.take_status_index(connection, "issuing", month, count)

    assert [await take(1), await take(1, 5), await take(1), await take(2)] == [0, 1, 6, 0]
    async with abandoned(database) as connection:
        assert await certificates.take_status_index(connection, "issuing", 1) == 7
    assert await take(1) == 7
    assert await take(1) == 8


async def test_pairs_are_linked_both_ways(database: Database) -> None:
    first = await issue(database, 1, 0)
    async with database.write() as connection:
        new = certificate(2, 1, usage="encrypt")
        second = await certificates.record(connection, new, at_ms=NOW_MS, pair_id=first)
    async with database.read() as connection:
        pair = await certificates.find_pair(connection, first)
        back = await certificates.find_pair(connection, second)
    assert pair is not None
    assert back is not None
    assert (pair.serial, pair.usage, back.serial) == (2, "encrypt", 1)


async def test_statuses_come_in_the_order_asked_and_unknown_ones_have_none(database: Database) -> None:
    await issue(database, 5, 0)
    await issue(database, (1 << 159) - 1, 1)
    await revoke(database, 5)
    async with database.read() as connection:
        statuses = await certificates.statuses(connection, "issuing", [9, (1 << 159) - 1, 5, *range(100, 6_000)])
        assert await certificates.statuses(connection, "elsewhere", [5]) == [certificates.CertificateStatus(5, None)]
    assert [s.state for s in statuses[:4]] == [None, CertificateState.GOOD, CertificateState.REVOKED, None]
    assert [s.serial for s in statuses[:3]] == [9, (1 << 159) - 1, 5]


async def test_a_certificate_of_an_authority_that_is_not_there_is_not_recorded(database: Database) -> None:
    with pytest.raises(Conflict):
        await issue(database, 1, 0, authority_id="nobody")
