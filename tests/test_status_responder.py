"""The responder over a real store: what it says, that it is never older than the store, and what it signs."""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import public_key_of_certificate
from core.clock import to_datetime
from core.errors import Busy, NotFound, Refused, TooLarge, Unavailable
from core.model import CertificateState, KeyState, RevocationReason
from core.store import certificates, counters, keys
from core.store.database import Database, open_database
from status.metrics import StatusMetrics
from status.responder import Responder
from status.response import ResponseStatus, error_response
from status.settings import OcspSettings
from status.source import StatusLookup, StoreStatusSource
from tests.judges import der as judge_der
from tests.judges import openssl
from tests.status_world import HASH_OIDS, KeySigner, World, open_world, read, request, word


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


@pytest.fixture
def signer(world: World) -> KeySigner:
    return world.issuing.signer


class HeldDatabase(Database):
    """The real store again, whose reads wait at a gate once they have their snapshot."""

    def __init__(self, database: Database) -> None:
        super().__init__(database._engine, database.url)
        self.reading, self.gate = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with super().read() as connection:
            await counters.current(connection, counters.LAST_TIME)
            self.reading.set()
            await self.gate.wait()
            yield connection


# ---- what it says


async def test_good(world: World) -> None:
    answer = await world.ask(serial := await world.issue())
    assert (word(answer), answer.serial_number) == ("good", serial)
    second = to_datetime(world.clock())
    assert answer.this_update_utc == answer.produced_at_utc == second
    assert answer.next_update_utc == second + timedelta(hours=1)
    assert answer.responder_name == x509.load_der_x509_certificate(world.issuing.signer_certificate).subject
    assert [x509.load_der_x509_certificate(world.issuing.signer_certificate)] == answer.certificates
    assert list(answer.extensions) == list(answer.single_extensions) == []


@pytest.mark.parametrize("reason", [r for r in RevocationReason if r is not RevocationReason.CERTIFICATE_HOLD])
async def test_revoked(world: World, reason: RevocationReason) -> None:
    serial = await world.issue()
    await world.revoke(serial, reason)
    revoked_at = to_datetime(world.clock())
    world.clock.advance(100)
    answer = await world.ask(serial)
    assert word(answer) == "revoked"
    assert answer.revocation_time_utc == revoked_at
    told = None if answer.revocation_reason is None else answer.revocation_reason.name
    assert told == (None if reason is RevocationReason.UNSPECIFIED else reason.label)
    assert list(answer.single_extensions) == []


async def test_hold_and_release(world: World) -> None:
    serial = await world.issue()
    assert word(await world.ask(serial)) == "good"
    await world.revoke(serial, RevocationReason.CERTIFICATE_HOLD)
    held = await world.ask(serial)
    assert (word(held), held.revocation_reason) == ("revoked", x509.ReasonFlags.certificate_hold)
    await world.release(serial)
    assert word(await world.ask(serial)) == "good"


async def test_the_invalidity_date_goes_along(world: World) -> None:
    serial = await world.issue()
    invalid_ms = world.clock() - 5_000_000
    await world.revoke(serial, invalidity_at_ms=invalid_ms)
    (extension,) = (await world.ask(serial)).single_extensions
    assert isinstance(extension.value, x509.InvalidityDate)
    assert (extension.critical, extension.value.invalidity_date_utc) == (False, to_datetime(invalid_ms))


async def test_a_serial_never_issued_is_unknown_and_known_once_issued(world: World) -> None:
    serial = 0xFEED
    answer = await world.ask(serial)
    assert word(answer) == "unknown"
    assert answer.next_update_utc == answer.this_update_utc + timedelta(seconds=60)
    made = await world.responder.respond(request(world.issuing.cert_id(serial)))
    assert not made.single
    assert world.responder.cached(request(world.issuing.cert_id(serial))) is None
    await world.issue(serial=serial)
    assert word(await world.ask(serial)) == "good"


@pytest.mark.parametrize("algorithm", HASH_OIDS)
@pytest.mark.parametrize("null", [True, False])
async def test_the_cert_id_comes_back_unchanged(world: World, algorithm: str, null: bool) -> None:
    cert_id = world.issuing.cert_id(await world.issue(), algorithm, null=null)
    answer = await world.responder.respond(request(cert_id))
    assert word(read(answer.der)) == "good"
    assert cert_id in judge_der.split_ocsp(answer.der).tbs


async def test_several_in_one(world: World) -> None:
    good, revoked = await world.issue(), await world.issue()
    await world.revoke(revoked, RevocationReason.SUPERSEDED)
    serials = [revoked, good, 0xABC, good]
    cert_ids = [world.issuing.cert_id(serial, algorithm) for serial, algorithm in zip(serials, HASH_OIDS, strict=False)]
    answer = await world.responder.respond(request(*cert_ids))
    assert not answer.single
    singles = list(read(answer.der).responses)
    assert [one.serial_number for one in singles] == serials
    assert [word(one) for one in singles] == ["revoked", "good", "unknown", "good"]
    tbs = judge_der.split_ocsp(answer.der).tbs
    assert all(cert_id in tbs for cert_id in cert_ids)


async def test_the_signature_is_the_delegated_signers(world: World, signer: KeySigner) -> None:
    answer = await world.responder.respond(request(world.issuing.cert_id(await world.issue())))
    parts = judge_der.split_ocsp(answer.der)
    openssl.verify(signer.public_key, parts.tbs, parts.signature)
    assert public_key_of_certificate(openssl.embedded_certificates(answer.der)[0]) == signer.public_key


async def test_by_key(world: World) -> None:
    responder = world.new_responder(OcspSettings(responder_id="key"))
    answer = read((await responder.respond(request(world.issuing.cert_id(await world.issue())))).der)
    assert answer.responder_name is None
    assert answer.responder_key_hash == hashlib.sha1(world.issuing.signer.public_key).digest()


async def test_a_nonce_comes_back_and_is_never_cached(world: World, signer: KeySigner) -> None:
    cert_id = world.issuing.cert_id(await world.issue())
    for nonce in (b"1", b"a" * 32, b"b" * 32, b"c" * 128, b"a" * 32):
        answer = await world.responder.respond(request(cert_id, nonce=nonce))
        (extension,) = read(answer.der).extensions
        assert isinstance(extension.value, x509.OCSPNonce)
        assert extension.value.nonce == nonce
        assert not answer.single
    assert signer.signed == 5


# ---- whom it answers for


async def test_another_issuer_is_refused(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    ours = world.issuing.cert_id(serial)
    other_key = bytearray(ours)
    other_key[ours.index(b"\x04\x20", 50) + 5] ^= 1
    for cert_ids in ([bytes(other_key)], [ours, bytes(other_key)]):
        with pytest.raises(NotFound, match="issuer"):
            await world.responder.respond(request(*cert_ids))
    assert signer.signed == 0


async def test_several_authorities_each_with_its_own_signer(world: World) -> None:
    serial = await world.issue()
    assert word(await world.ask(serial)) == "good"
    other = await world.add_branch("branch")
    await world.revoke(serial)
    await world.issue("branch", serial=serial)
    answer = await world.responder.respond(request(other.cert_id(serial)))
    assert word(read(answer.der)) == "good"
    parts = judge_der.split_ocsp(answer.der)
    openssl.verify(other.signer.public_key, parts.tbs, parts.signature)
    assert word(await world.ask(serial)) == "revoked"
    with pytest.raises(NotFound, match="one issuer"):
        await world.responder.respond(request(other.cert_id(serial), world.issuing.cert_id(serial)))


async def test_bounds(tmp_path: Path) -> None:
    async with open_world(tmp_path, OcspSettings(max_requests=2, max_request_bytes=400)) as world:
        cert_id = world.issuing.cert_id(await world.issue())
        await world.responder.respond(request(cert_id, cert_id))
        with pytest.raises(TooLarge):
            await world.responder.respond(request(cert_id, cert_id, cert_id))
        with pytest.raises(TooLarge):
            await world.responder.respond(bytes(401))


# ---- never older than the store


REVOKE_SCRIPT = """
import asyncio, sys
from core.model import RevocationReason
from core.store import certificates
from core.store.database import Database, open_database

async def main(url, serial, at_ms):
    database = await open_database(url)
    async with database.write() as connection:
        record = await certificates.find(connection, serial)
        await certificates.revoke(connection, record, RevocationReason.KEY_COMPROMISE, at_ms=at_ms)
    await database.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


async def test_a_revocation_by_another_process_is_told_by_the_very_next_answer(world: World, signer: KeySigner) -> None:
    serial, other = await world.issue(), await world.issue()
    for _ in range(3):
        assert word(await world.ask(serial)) == word(await world.ask(serial, "sha1")) == "good"
        assert word(await world.ask(other)) == "good"
    assert signer.signed == 3
    arguments = [world.database.url, str(serial), str(world.clock())]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", REVOKE_SCRIPT, *arguments)
    assert await process.wait() == 0
    assert word(await world.ask(serial)) == "revoked"
    assert word(await world.ask(serial, "sha1")) == "revoked"
    assert word(await world.ask(other)) == "good"
    assert signer.signed == 5, "the other certificate's answer was dropped too"


async def test_each_change_through_another_connection_is_told_at_once(world: World) -> None:
    serial = await world.issue()
    elsewhere = await open_database(world.database.url)
    for _ in range(10):
        assert word(await world.ask(serial)) == "good"
        await world.revoke(serial, RevocationReason.CERTIFICATE_HOLD, database=elsewhere)
        assert word(await world.ask(serial)) == "revoked"
        await world.release(serial)
    await elsewhere.close()


async def test_an_answer_overtaken_while_it_is_signed_is_neither_kept_nor_shared(
    world: World, signer: KeySigner
) -> None:
    serial = await world.issue()
    signer.gate.clear()
    before = asyncio.create_task(world.ask(serial))
    await signer.waiting.wait()
    await world.revoke(serial)
    signer.waiting.clear()
    after = asyncio.create_task(world.ask(serial))
    async with asyncio.timeout(10):
        await signer.waiting.wait()
    signer.gate.set()
    assert word(await before) == "good"
    assert word(await after) == "revoked"
    assert word(await world.ask(serial)) == "revoked"
    assert signer.signed == 2


async def test_an_overtaken_answer_is_not_kept_when_nobody_asked_again(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.gate.clear()
    before = asyncio.create_task(world.ask(serial))
    await signer.waiting.wait()
    await world.revoke(serial)
    await world.follower.ensure_current()
    signer.gate.set()
    assert word(await before) == "good"
    assert word(await world.ask(serial)) == "revoked"


async def test_a_read_under_way_is_not_shared_by_who_asks_after_it_began(world: World) -> None:
    serial = await world.issue()
    held = HeldDatabase(world.database)
    lookup = StatusLookup(held, max_waiting=10, timeout_s=10)
    before = asyncio.create_task(lookup.find("issuing", [serial]))
    await held.reading.wait()
    await world.revoke(serial)
    after = asyncio.create_task(lookup.find("issuing", [serial]))
    await asyncio.sleep(0)
    held.gate.set()
    assert [status.state for status in (await before)[0]] == [CertificateState.GOOD]
    assert [status.state for status in (await after)[0]] == [CertificateState.REVOKED]


async def test_a_new_ocsp_signer_is_used_from_the_next_answer_on(world: World) -> None:
    serial = await world.issue()
    await world.ask(serial)
    await world.set_signer(world.issuing, "ocsp-next")
    answer = await world.responder.respond(request(world.issuing.cert_id(serial)))
    parts = judge_der.split_ocsp(answer.der)
    openssl.verify(world.signers["ocsp-next"].public_key, parts.tbs, parts.signature)
    assert openssl.embedded_certificates(answer.der) == [world.issuing.signer_certificate]


async def test_answers_of_a_key_whose_state_changes_are_forgotten(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    await world.ask(serial)
    async with world.database.write() as connection:
        await keys.change_state(connection, signer.key_id, KeyState.COMPROMISED, at_ms=world.clock())
    signer.refusal = Refused("compromised", code="key_compromised")
    with pytest.raises(Refused) as caught:
        await world.ask(serial)
    assert caught.value.code == "key_compromised"


# ---- what it signs


async def test_one_signature_however_many_ask(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.gate.clear()
    asking = [asyncio.create_task(world.ask(serial)) for _ in range(50)]
    await signer.waiting.wait()
    signer.gate.set()
    assert {word(answer) for answer in await asyncio.gather(*asking)} == {"good"}
    assert signer.signed == 1
    await world.ask(serial)
    assert signer.signed == 1


async def test_a_client_that_leaves_cancels_nothing(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.gate.clear()
    first = asyncio.create_task(world.ask(serial))
    await signer.waiting.wait()
    second = asyncio.create_task(world.ask(serial))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    signer.gate.set()
    assert word(await second) == "good"
    assert signer.signed == 1


async def test_an_answer_nobody_waits_for_any_more_is_still_kept(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.gate.clear()
    asking = asyncio.create_task(world.ask(serial))
    await signer.waiting.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    signer.gate.set()
    await world.responder.close()
    assert world.responder.cached(request(world.issuing.cert_id(serial))) is not None
    assert signer.signed == 1
    with pytest.raises(Unavailable):
        await world.ask(await world.issue())


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.refusal = Busy("full")
    outcomes = await asyncio.gather(*(world.ask(serial) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Busy] * 5
    signer.refusal = None
    assert word(await world.ask(serial)) == "good"


async def test_a_request_with_frills_shares_the_plain_ones_answer(world: World, signer: KeySigner) -> None:
    cert_id = world.issuing.cert_id(await world.issue())
    frilled = request(cert_id, before=b"\xa1\x04\x82\x02cn")
    plain = await world.responder.respond(request(cert_id))
    assert await world.responder.respond(frilled) is plain
    assert signer.signed == 1


# ---- time


async def test_answers_are_made_anew_at_half_their_life(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    first = await world.ask(serial)
    world.clock.advance(1_700)
    assert (await world.ask(serial)).this_update_utc == first.this_update_utc
    world.clock.advance(101)
    assert (await world.ask(serial)).this_update_utc == to_datetime(world.clock())
    assert signer.signed == 2


async def test_an_answer_ends_before_its_signers_certificate_does(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    ends_ms = (world.clock() // 1000 + 600) * 1000
    await world.set_signer(world.issuing, "ocsp-short", ends_ms=ends_ms)
    assert (await world.ask(serial)).next_update_utc == to_datetime(ends_ms)
    world.clock.advance(601)
    with pytest.raises(Refused) as caught:
        await world.ask(serial)
    assert caught.value.code == "ocsp_signer_expired"
    assert signer.signed == 0


async def test_a_clock_behind_the_store_stops_signing(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    async with world.database.write() as connection:
        await counters.advance_time(connection, world.clock() + 3_600_000)
    with pytest.raises(Unavailable) as caught:
        await world.ask(serial)
    assert caught.value.code == "clock_behind"
    assert signer.signed == 0
    world.clock.advance(3_600)
    assert word(await world.ask(serial)) == "good"


async def test_a_clock_that_goes_back_stops_even_kept_answers(world: World) -> None:
    serial = await world.issue()
    await world.ask(serial)
    world.clock.advance(600)
    await world.ask(serial)
    world.clock.advance(-0.5)
    await world.ask(serial)
    world.clock.advance(-100)
    for asked in (serial, 0xABC):
        with pytest.raises(Unavailable) as caught:
            await world.ask(asked)
        assert caught.value.code == "clock_behind"


# ---- trouble


async def test_a_frozen_key_may_come_back_and_a_missing_one_may_not(world: World, signer: KeySigner) -> None:
    serial = await world.issue()
    signer.refusal = Refused("frozen", code="key_frozen")
    with pytest.raises(Unavailable):
        await world.ask(serial)
    signer.refusal = None
    world.signers[signer.key_id] = KeySigner(signer.key_id)
    with pytest.raises(Refused, match="not its certificate's"):
        await world.ask(serial)
    world.signers[signer.key_id] = signer
    assert word(await world.ask(serial)) == "good"


async def test_a_feed_that_cannot_be_read_stops_even_kept_answers(world: World) -> None:
    serial = await world.issue()
    await world.ask(serial)
    world.follower.close()
    with pytest.raises(Unavailable) as caught:
        await world.ask(serial)
    assert caught.value.code == "feed_unavailable"


async def test_a_store_that_cannot_be_asked_is_unavailable(world: World) -> None:
    serial = await world.issue()
    async with world.database.write() as connection:
        await connection.execute(text("ALTER TABLE certificates RENAME TO elsewhere"))
    with pytest.raises(Unavailable) as caught:
        await world.ask(serial)
    assert caught.value.code == "store_unavailable"
    async with world.database.write() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO certificates"))
    assert word(await world.ask(serial)) == "good"


async def test_lookups_share_reads_and_are_bounded(world: World) -> None:
    serials = [await world.issue() for _ in range(3)]
    lookup = StatusLookup(world.database, max_waiting=4, timeout_s=5)
    asking = [asyncio.create_task(lookup.find("issuing", [serial, 5])) for serial in serials[:2]]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await lookup.find("issuing", serials)
    found = [(await task)[0] for task in asking]
    assert [[status.serial for status in pair] for pair in found] == [[serial, 5] for serial in serials[:2]]
    assert [[status.state for status in pair] for pair in found] == [[CertificateState.GOOD, None]] * 2
    await lookup.close()


async def test_a_store_too_slow_is_unavailable(world: World) -> None:
    lookup = StatusLookup(world.database, max_waiting=4, timeout_s=0.000001)
    with pytest.raises(Unavailable) as caught:
        await lookup.find("issuing", [1])
    assert caught.value.code == "store_timeout"


async def test_the_store_source_in_bulk(world: World) -> None:
    serials = [await world.issue() for _ in range(3)]
    await world.revoke(serials[1])
    await world.revoke(serials[2], RevocationReason.CERTIFICATE_HOLD)
    source = StoreStatusSource(world.database)
    statuses = await source.statuses("issuing", [99, *reversed(serials)])
    assert [status.state for status in statuses] == [
        None,
        CertificateState.HELD,
        CertificateState.REVOKED,
        CertificateState.GOOD,
    ]
    async with world.database.read() as connection:
        assert (await certificates.find(connection, serials[1])).status == statuses[2]


def test_a_life_past_a_day_is_refused() -> None:
    assert OcspSettings(response_life_s=86_400)
    with pytest.raises(ValueError, match="86400"):
        OcspSettings(response_life_s=86_401)


def test_error_responses() -> None:
    for status in ResponseStatus:
        if status is not ResponseStatus.SUCCESSFUL:
            assert ocsp.load_der_ocsp_response(error_response(status)).response_status.value == status


async def test_metrics(world: World) -> None:
    registry = CollectorRegistry()
    responder = Responder(
        world.database, world.follower, world.signer_for, world.clock, OcspSettings(), StatusMetrics(registry)
    )
    asked = request(world.issuing.cert_id(await world.issue()))
    world.issuing.signer.gate.clear()
    asking = [asyncio.create_task(responder.respond(asked)) for _ in range(3)]
    await world.issuing.signer.waiting.wait()
    world.issuing.signer.gate.set()
    answer, *_ = await asyncio.gather(*asking)
    await responder.respond(asked)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert [value("qianyan_ocsp_cache_total", outcome=o) for o in ("miss", "joined", "hit")] == [1, 2, 1]
    assert value("qianyan_ocsp_signatures_total") == 1
    assert value("qianyan_ocsp_cache_entries") == 1
    assert (value("qianyan_ocsp_cache_bytes") or 0) > len(answer.der)
