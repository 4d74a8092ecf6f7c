"""BouncyCastle, OpenSSL and pkilint on our CRLs, and our check on BouncyCastle's: valid, and with one bit turned."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from core.asn1.distribution import distribution_point_name
from core.clock import from_datetime, to_datetime
from core.model import RevocationReason
from crl.check import check_published
from signer.engine.verify import verify_signature
from tests import judges
from tests.crl_world import DAY_MS, NOON_MS, PUBLIC_URL, World, make_world
from tests.judges import der, foreign, lint, openssl
from tests.judges.bouncycastle import BouncyCastle

URL = f"{PUBLIC_URL}/crl/issuing/0.crl"
REASONS = dict(enumerate(RevocationReason, start=0x70))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority()
        yield world


async def crl_of(world: World) -> bytes:
    """A CRL with every reason, one of them with an invalidity date."""
    await world.issue(*REASONS, 0x99)
    for serial, reason in REASONS.items():
        await world.revoke(serial, reason=reason)
    await world.revoke(0x99, invalidity_at_ms=NOON_MS - DAY_MS)
    return (await world.service().build("issuing", 0)).crl


async def test_bouncycastle_accepts_it_and_reads_what_we_meant(world: World, bouncycastle: BouncyCastle) -> None:
    view = bouncycastle.check_crl(await crl_of(world), world.certificate, [*REASONS, 0x42], list_all=True)
    assert view.number == 1
    assert view.this_update == to_datetime(NOON_MS)
    assert view.next_update == to_datetime(NOON_MS) + timedelta(seconds=86_399)
    assert view.serials == {*REASONS, 0x99}
    assert {serial: entry.reason for serial, entry in view.listed.items()} == {
        serial: int(reason) or -1 for serial, reason in REASONS.items()
    }
    assert all(entry.date == to_datetime(NOON_MS) for entry in view.listed.values())
    assert view.critical == ["2.5.29.28"]
    assert view.extensions == ["2.5.29.35", "2.5.29.20", "2.5.29.28"]
    assert (view.idp_critical, view.idp_uris, view.indirect) == (True, [URL], False)
    assert view.idp_name == distribution_point_name(URL)[2:]  # without the tag of the field that holds it


async def test_bouncycastle_and_openssl_refuse_it_with_one_bit_turned(world: World, bouncycastle: BouncyCastle) -> None:
    crl = await crl_of(world)
    listed_at = crl.index(der.read(b"\x02\x01\x74").encoded)
    for bad in (der.flip_signature(crl), crl[: listed_at + 2] + b"\x75" + crl[listed_at + 3 :]):
        with pytest.raises(judges.Refused):
            bouncycastle.check_crl(bad, world.certificate)
        with pytest.raises(judges.Refused):
            openssl.verify_signed(bad, world.certificate)


async def test_openssl_verifies_and_reads_it(world: World) -> None:
    crl = await crl_of(world)
    openssl.verify_signed(crl, world.certificate)
    text = openssl.crl_text(crl)
    for said in ("Version 2", "SM2-with-SM3", f"URI:{URL}", "Issuing Distribution Point: critical", "Key Compromise"):
        assert said in text


async def test_pkilint_has_no_complaint(world: World) -> None:
    assert lint.complaints(lint.lint_crl(await crl_of(world))) == []


async def test_pkilint_has_no_complaint_about_an_empty_one_under_browser_rules(world: World) -> None:
    crl = (await world.service().build("issuing", 0)).crl
    assert lint.complaints(lint.lint_crl(crl, browser_rules=True)) == []


def test_our_check_accepts_a_foreign_crl_and_refuses_it_flipped(bouncycastle: BouncyCastle) -> None:
    theirs = foreign.make_world(bouncycastle)
    now_ms = from_datetime(theirs.now)

    def problems(crl: bytes, issuer: bytes = theirs.issuing) -> list[str]:
        (report,) = check_published({foreign.CRL_URI: crl}, issuer, verify_signature, now_ms=now_ms)
        return [problem.code for problem in report.problems]

    assert problems(theirs.crl) == []
    assert problems(der.flip_signature(theirs.crl)) == ["crl_signature"]
    assert "crl_issuer" in problems(theirs.crl, theirs.root)
    assert "crl_idp" in problems(theirs.root_crl, theirs.root)
