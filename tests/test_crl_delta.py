"""Delta CRLs: what they list, that they fit their full CRLs, and what other implementations make of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from core.asn1.distribution import crl_distribution_points, freshest_crl
from core.asn1.names import build_name
from core.asn1.x509 import join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import to_datetime
from core.model import RevocationReason
from core.store import certificates, crls
from core.store.crls import CrlRecord
from crl.check import check_published
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests import judges
from tests.crl_world import DAY_MS, NOON_MS, PUBLIC_URL, SetClock, World, listed, make_world, number_of
from tests.judges import lint, openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.store_world import certificate as stored

HOLD = RevocationReason.CERTIFICATE_HOLD
URL = f"{PUBLIC_URL}/crl/issuing/0.crl"
DELTA_URL = f"{PUBLIC_URL}/crl/issuing/0-delta.crl"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.issue(*range(1, 20))
        await world.revoke(1)
        await world.revoke(2, 3, reason=HOLD)
        yield world


@pytest.fixture
def clock(world: World) -> SetClock:
    assert isinstance(world.clock, SetClock)
    return world.clock


async def delta_of(world: World) -> CrlRecord:
    async with world.database.read() as connection:
        record = await crls.latest(connection, "issuing", 0, delta=True)
    assert record is not None
    return record


def reasons(crl: bytes) -> dict[int, str]:
    found = {}
    for serial, entry in listed(crl).items():
        extension = next((e.value for e in entry.extensions if isinstance(e.value, x509.CRLReason)), None)
        found[serial] = extension.reason.name if extension else "unspecified"
    return found


async def test_the_first_crl_has_no_delta_and_later_ones_do(world: World, clock: SetClock) -> None:
    service = world.service()
    first = await service.build("issuing", 0)
    async with world.database.read() as connection:
        assert await crls.latest(connection, "issuing", 0, delta=True) is None
    clock.advance(5)
    await world.revoke(4, 2)
    await world.release(3)
    await world.revoke(5, reason=RevocationReason.UNSPECIFIED)
    full = await service.build("issuing", 0)
    delta = await delta_of(world)
    assert (delta.number, delta.base_number, delta.entries) == (full.number, first.number, 4)
    assert (delta.this_update_ms, delta.next_update_ms) == (full.this_update_ms, full.next_update_ms)
    assert reasons(delta.crl) == {2: "key_compromise", 3: "remove_from_crl", 4: "key_compromise", 5: "unspecified"}
    assert reasons(full.crl) == {1: "key_compromise", 2: "key_compromise", 4: "key_compromise", 5: "unspecified"}


async def test_extensions_of_full_and_delta(world: World, clock: SetClock) -> None:
    service = world.service()
    await service.build("issuing", 0)
    clock.advance(5)
    full = x509.load_der_x509_crl((await service.build("issuing", 0)).crl)
    delta = x509.load_der_x509_crl((await delta_of(world)).crl)
    freshest = full.extensions.get_extension_for_class(x509.FreshestCRL)
    assert not freshest.critical
    assert freshest.value.public_bytes() == freshest_crl(URL).value
    assert freshest.value[0].full_name == [x509.UniformResourceIdentifier(DELTA_URL)]
    indicator = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert (indicator.critical, indicator.value.crl_number) == (True, 1)
    same = [c.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value for c in (full, delta)]
    assert same[0] == same[1]
    with pytest.raises(x509.ExtensionNotFound):
        delta.extensions.get_extension_for_class(x509.FreshestCRL)
    assert list(delta) == []


async def test_any_full_crl_from_the_base_on_becomes_the_newest_by_the_delta(world: World, clock: SetClock) -> None:
    """As a client puts them together (RFC 5280 section 5.2.4)."""
    service = world.service()
    fulls = [(await service.build("issuing", 0)).crl]
    steps = (lambda: world.revoke(4), lambda: world.release(2), lambda: world.revoke(2, reason=HOLD),
             lambda: world.revoke(3), lambda: world.release(2), lambda: world.revoke(6, 7))  # fmt: skip
    for step in steps:
        clock.advance(30)
        await step()
        fulls.append((await service.build("issuing", 0)).crl)
        delta = await delta_of(world)
        assert delta.base_number == 1
        for older in fulls:
            have = reasons(older)
            for serial, reason in reasons(delta.crl).items():
                have.pop(serial, None)
                if reason != "remove_from_crl":
                    have[serial] = reason
            assert have == reasons(fulls[-1])


async def test_a_base_older_than_a_crls_life_is_given_up(world: World, clock: SetClock) -> None:
    service = world.service()
    await service.build("issuing", 0)
    clock.advance(43_200)
    await world.revoke(4)
    await service.build("issuing", 0)
    clock.advance(43_200)
    await service.build("issuing", 0)
    assert (await delta_of(world)).base_number == 1
    clock.advance(1)
    await service.build("issuing", 0)
    delta = await delta_of(world)
    assert (delta.base_number, delta.entries) == (2, 0)


async def test_deltas_can_be_left_out(world: World, clock: SetClock) -> None:
    service = world.service(delta=False)
    await service.build("issuing", 0)
    clock.advance(5)
    full = x509.load_der_x509_crl((await service.build("issuing", 0)).crl)
    with pytest.raises(x509.ExtensionNotFound):
        full.extensions.get_extension_for_class(x509.FreshestCRL)
    assert (await service.status())[0].delta_number is None


async def test_each_change_is_timed_to_full_and_delta(world: World, clock: SetClock) -> None:
    registry = CollectorRegistry()
    service = world.service(registry)
    await service.build("issuing", 0)
    await world.revoke(4)
    clock.advance(7)
    await world.revoke(5)
    clock.advance(2)
    await service.build("issuing", 0)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"qianyan_crl_visible_seconds_{name}", labels)

    for channel in ("full", "delta"):
        assert value("count", channel=channel) == 2
        assert value("sum", channel=channel) == pytest.approx(9 + 2)
        assert value("bucket", channel=channel, le="2.0") == 1
    await service.build("issuing", 0)
    assert value("count", channel="full") == 2, "each one once"


async def test_a_late_crl_is_said_to_be_late_long_before_its_end(world: World, clock: SetClock) -> None:
    registry = CollectorRegistry()
    service = world.service(registry)
    await service.build("issuing", 0)
    clock.advance(44_000)
    assert not (await service.status())[0].late
    assert registry.get_sample_value("qianyan_crl_late") == 0
    clock.advance(2_000)
    (status,) = await service.status()
    assert (status.late, status.fresh) == (True, True)
    assert registry.get_sample_value("qianyan_crl_late") == 1


# ---- other implementations


async def leaf(world: World, serial: int) -> bytes:
    """A real certificate of the authority, recorded, that names partition 0."""
    issuer = x509.load_der_x509_certificate(world.certificate)
    tbs = tbs_certificate(
        serial=serial,
        issuer=issuer.subject.public_bytes(),
        subject=build_name({"C": "CN", "CN": f"{serial}"}).public_bytes(),
        not_before=to_datetime(NOON_MS) - timedelta(days=1),
        not_after=to_datetime(NOON_MS) + timedelta(days=300),
        spki=subject_public_key_info(sm2.PrivateKey.generate().public_key.to_bytes()),
        extensions=[crl_distribution_points(URL), freshest_crl(URL)],
    )
    encoded = join_signed(tbs, world.signer.sign_now(tbs))
    new = stored(serial, 1000 + serial % 1000, certificate=encoded, not_after_ms=NOON_MS + 300 * DAY_MS)
    async with world.database.write() as connection:
        await certificates.record(connection, new, at_ms=world.clock())
    return encoded


async def test_bouncycastles_path_checker_finds_the_revoked_through_full_and_delta(
    world: World, clock: SetClock, bouncycastle: BouncyCastle
) -> None:
    serials = [int.from_bytes(os.urandom(15), "big") | 1 << 118 for _ in range(3)]
    good, early, late = [await leaf(world, serial) for serial in serials]
    await world.revoke(serials[1])
    service = world.service()
    await service.build("issuing", 0)
    clock.advance(5)
    second = await service.build("issuing", 0)
    clock.advance(5)
    await world.revoke(serials[2])
    third = await service.build("issuing", 0)
    delta = (await delta_of(world)).crl
    at = to_datetime(clock())

    def check(certificate: bytes, *crls_given: bytes, revoked: bool, deltas: bool = False) -> None:
        def validate() -> None:
            bouncycastle.validate_path(world.certificate, [certificate], at=at, crls=crls_given, deltas=deltas)

        if revoked:
            with pytest.raises(judges.Refused, match="Certificate revocation"):
                validate()
        else:
            validate()

    check(good, third.crl, revoked=False)
    check(early, third.crl, revoked=True)
    check(late, third.crl, revoked=True)
    check(late, second.crl, revoked=False)  # the older full CRL alone does not know
    check(late, second.crl, delta, revoked=True, deltas=True)
    check(good, second.crl, delta, revoked=False, deltas=True)
    view = bouncycastle.check_crl(delta, world.certificate, [serials[2]], list_all=True)
    assert (view.number, view.base_number) == (3, 1)
    assert view.serials == {serials[2]}
    assert sorted(view.critical) == ["2.5.29.27", "2.5.29.28"]


async def test_pkilint_and_openssl_on_full_partitioned_and_delta(world: World, clock: SetClock) -> None:
    await world.add_authority("second", partitions=2)
    await world.issue(99, authority_id="second", partition=1)
    service = world.service()
    await service.build_due()
    clock.advance(5)
    await world.revoke(4, 99)
    await world.release(3)
    clock.advance(5)
    assert await service.build_due() == 2
    for body in ((await world.newest()).crl, (await world.newest("second", 1)).crl, (await delta_of(world)).crl):
        assert lint.complaints(lint.lint_crl(body)) == []
        openssl.verify_signed(body, world.certificate)
    assert "Delta CRL Indicator: critical" in openssl.crl_text((await delta_of(world)).crl)
    assert "Remove From CRL" in openssl.crl_text((await delta_of(world)).crl)


async def test_from_outside_a_pair_is_good_and_a_stale_mix_is_said(world: World, clock: SetClock) -> None:
    service = world.service()
    old = (await service.build("issuing", 0)).crl
    clock.advance(5)
    await world.revoke(4)
    full = (await service.build("issuing", 0)).crl
    delta = (await delta_of(world)).crl

    def codes(given: dict[str, bytes]) -> list[list[str]]:
        reports = check_published(given, world.certificate, verify_signature, now_ms=clock())
        return [[problem.code for problem in report.problems] for report in reports]

    assert codes({URL: full, DELTA_URL: delta}) == [[], []]
    assert codes({URL: old, DELTA_URL: delta}) == [[], []], "older, and they fit: its base is not past it"
    clock.advance(90_000)
    base = (await service.build("issuing", 0)).crl
    clock.advance(5)
    await service.build("issuing", 0)
    assert number_of(base) == 3
    newer = (await delta_of(world)).crl
    assert codes({URL: full, DELTA_URL: newer})[1] == ["delta_base"]
    assert key_identifier(world.signer.public_key) in newer
