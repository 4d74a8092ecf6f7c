"""OCSP in the eyes of implementations that no one here wrote: BouncyCastle, OpenSSL, pkilint."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from core.clock import to_datetime
from core.model import RevocationReason
from status.settings import OcspSettings
from tests.judges import Refused, der, lint, openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.status_world import World, open_world


@pytest.fixture(params=["name", "key"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_world(tmp_path, OcspSettings(responder_id=request.param)) as made:
        yield made


@pytest.mark.parametrize("digest", ["sm3", "sha1", "sha256"])
async def test_bouncycastle_accepts_and_refuses_a_flipped_bit(
    world: World, bouncycastle: BouncyCastle, digest: str
) -> None:
    serial = await world.issue()
    issuer = world.issuing.certificate
    asked = bouncycastle.make_ocsp_request(issuer, [serial], digest=digest, nonce=b"n" * 32)
    answer = (await world.responder.respond(asked)).der
    view = bouncycastle.check_ocsp(answer, issuer, serial)
    assert (view.status, view.nonce, view.digest, view.no_check) == ("good", b"n" * 32, digest, True)
    assert view.cert_id in asked
    assert view.responder_id == world.responder.settings.responder_id
    assert view.next_update == view.this_update + timedelta(hours=1)
    with pytest.raises(Refused, match="OCSP signature"):
        bouncycastle.check_ocsp(der.flip_ocsp_signature(answer), issuer, serial)
    openssl.verify_ocsp(answer, issuer)
    with pytest.raises(Refused):
        openssl.verify_ocsp(der.flip_ocsp_signature(answer), issuer)


async def test_bouncycastle_reads_each_status(world: World, bouncycastle: BouncyCastle) -> None:
    issuer = world.issuing.certificate
    serials = {await world.issue(): reason for reason in RevocationReason}
    for serial, reason in serials.items():
        await world.revoke(serial, reason, invalidity_at_ms=world.clock() - 60_000)
    asked = bouncycastle.make_ocsp_request(issuer, [*serials, 9])
    answer = (await world.responder.respond(asked)).der
    for serial, reason in serials.items():
        view = bouncycastle.check_ocsp(answer, issuer, serial)
        assert (view.status, view.reason) == ("revoked", reason if reason else -1)
        assert view.revoked_at == to_datetime(world.clock())
        assert view.single_extensions == ["2.5.29.24"]
    assert bouncycastle.check_ocsp(answer, issuer, 9).status == "unknown"


@pytest.mark.parametrize("digest", ["sm3", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("nonce", [True, False])
async def test_openssl_asks_and_reads(world: World, digest: str, nonce: bool) -> None:
    serial = await world.issue()
    leaf = await world.certificate(serial)
    asked = openssl.make_ocsp_request(world.issuing.certificate, leaf, digest=digest, nonce=nonce)
    answer = await world.responder.respond(asked)
    assert answer.single is not nonce
    text = openssl.ocsp_text(answer.der)
    assert "Cert Status: good" in text
    assert f"Serial Number: {serial:X}" in text
    assert ("OCSP Nonce" in text) is nonce
    await world.revoke(serial, RevocationReason.AFFILIATION_CHANGED)
    text = openssl.ocsp_text((await world.responder.respond(asked)).der)
    assert "Cert Status: revoked" in text
    assert "Revocation Reason: affiliationChanged (0x3)" in text


async def test_plain_requests_of_both_take_the_hot_path(world: World, bouncycastle: BouncyCastle) -> None:
    serial = await world.issue()
    issuer, leaf = world.issuing.certificate, await world.certificate(serial)
    for asked in (
        openssl.make_ocsp_request(issuer, leaf, nonce=False),
        bouncycastle.make_ocsp_request(issuer, [serial], digest="sha256"),
    ):
        assert world.responder.cached(asked) is None
        made = await world.responder.respond(asked)
        assert world.responder.cached(asked) is made


async def test_pkilint_finds_nothing(world: World, bouncycastle: BouncyCastle) -> None:
    issuer = world.issuing.certificate
    serials = [await world.issue() for _ in range(3)]
    await world.revoke(serials[1], RevocationReason.UNSPECIFIED)
    await world.revoke(serials[2], RevocationReason.CERTIFICATE_HOLD, invalidity_at_ms=world.clock() - 60_000)
    asks = [bouncycastle.make_ocsp_request(issuer, [serial], nonce=b"x" * 16) for serial in serials]
    for asked in [*asks, bouncycastle.make_ocsp_request(issuer, [*serials, 9])]:
        answer = await world.responder.respond(asked)
        assert lint.complaints(lint.lint_ocsp(answer.der)) == []
