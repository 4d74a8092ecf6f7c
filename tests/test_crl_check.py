"""The check that stands between a builder and the world: every kind of bad CRL, made by a builder that errs."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import crl.builder
import crl.service
from core.asn1 import der
from core.asn1.distribution import issuing_distribution_point
from core.asn1.names import build_name
from core.asn1.x509 import join_signed
from core.errors import Malformed, QianyanError
from core.model import RevocationReason
from core.store.certificates import RevokedEntry
from crl.builder import CrlContents, build_tbs
from crl.check import Problem, check_published, refuse
from crl.view import read_crl
from signer.engine.verify import verify_signature
from tests.crl_world import DAY_MS, NOON_MS, PUBLIC_URL, SetClock, World, listed, make_world

URL = f"{PUBLIC_URL}/crl/issuing/0.crl"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """CRL 1 lists 1, 2 and 3; since then 4 and 5 were revoked, and 3 came off hold."""
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.issue(1, 2, 3, 4, 5, 6)
        await world.revoke(1, 2)
        await world.revoke(3, reason=RevocationReason.CERTIFICATE_HOLD)
        await world.service().build("issuing", 0)
        assert isinstance(world.clock, SetClock)
        world.clock.advance(60)
        await world.revoke(4, 5)
        await world.release(3)
        yield world


Erring = Callable[[CrlContents], CrlContents]


def without(serial: int) -> Erring:
    return lambda c: replace(c, entries=[e for e in c.entries if e.serial != serial])


def edited(serial: int, **changes: object) -> Erring:
    def err(contents: CrlContents) -> CrlContents:
        entries = [replace(e, **changes) if e.serial == serial else e for e in contents.entries]  # type: ignore[arg-type]
        return replace(contents, entries=entries)

    return err


def extra(serial: int) -> Erring:
    entry = RevokedEntry(serial, NOON_MS, RevocationReason.KEY_COMPROMISE, None, NOON_MS + DAY_MS)
    return lambda c: replace(c, entries=sorted([*c.entries, entry], key=lambda e: e.serial))


def shifted(name: str, by_ms: int) -> Erring:
    return lambda c: replace(c, **{name: getattr(c, name) + by_ms})


OTHER_NAME = build_name({"C": "CN", "CN": "另一个机构"}).public_bytes()

BAD = {
    "drops an entry": (without(1), "crl_entry_lost"),
    "lacks a new revocation": (without(5), "crl_entry_missing"),
    "lists a good certificate": (extra(6), "crl_entry_wrong"),
    "lists a released one": (extra(3), "crl_entry_wrong"),
    "lists a serial never issued": (extra(0x7777), "crl_entry_wrong"),
    "another reason": (edited(4, reason=RevocationReason.SUPERSEDED), "crl_entry_wrong"),
    "another time": (edited(4, revoked_at_ms=NOON_MS), "crl_entry_wrong"),
    "unsorted": (lambda c: replace(c, entries=c.entries[::-1]), "crl_unsorted"),
    "a serial twice": (lambda c: replace(c, entries=[c.entries[0], *c.entries]), "crl_duplicate"),
    "the same number": (shifted("number", -1), "crl_number"),
    "a number left out": (shifted("number", 1), "crl_number"),
    "another scope": (lambda c: replace(c, url=c.url.replace("/0.crl", "/1.crl")), "crl_idp"),
    "another issuer": (lambda c: replace(c, issuer=OTHER_NAME), "crl_issuer"),
    "another key": (lambda c: replace(c, issuer_key_identifier=bytes(20)), "crl_key_identifier"),
    "from the future": (shifted("this_update_ms", 120_000), "crl_this_update"),
    "older than the one before": (shifted("this_update_ms", -90_000), "crl_life"),
    "lives too long": (shifted("next_update_ms", 2000), "crl_life"),
    "no life at all": (lambda c: replace(c, next_update_ms=c.this_update_ms), "crl_next_update"),
}


@pytest.mark.parametrize(("err", "code"), BAD.values(), ids=BAD.keys())
async def test_a_builder_that_errs_is_refused_before_the_key_signs(
    world: World, err: Erring, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crl.service, "build_tbs", lambda contents: build_tbs(err(contents)))
    with pytest.raises(QianyanError) as refused:
        await world.service().build("issuing", 0)
    assert refused.value.code == code
    assert len(world.signer.signed) == 1
    assert (await world.newest()).number == 1


async def test_the_same_builder_without_the_error_is_accepted(world: World) -> None:
    assert list(listed((await world.service().build("issuing", 0)).crl)) == [1, 2, 4, 5]


async def test_an_idp_that_is_not_critical(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        crl.builder, "issuing_distribution_point", lambda url: replace(issuing_distribution_point(url), critical=False)
    )
    with pytest.raises(QianyanError) as refused:
        await world.service().build("issuing", 0)
    assert refused.value.code == "crl_critical"


async def test_past_the_end_of_the_issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        crl.service, "build_tbs", lambda c: build_tbs(replace(c, next_update_ms=c.next_update_ms + 9000))
    )
    async with make_world(tmp_path) as world:
        await world.add_authority(not_after_ms=NOON_MS + 3_600_000)
        with pytest.raises(QianyanError) as refused:
            await world.service().build("issuing", 0)
    assert refused.value.code == "crl_next_update"


async def test_a_first_crl_must_list_everything_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl.service, "build_tbs", lambda contents: build_tbs(without(2)(contents)))
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.issue(1, 2)
        await world.revoke(1, 2)
        with pytest.raises(QianyanError) as refused:
            await world.service().build("issuing", 0)
    assert refused.value.code == "crl_entry_missing"


async def test_a_signature_over_other_bytes(world: World) -> None:
    signer = world.signer
    real = signer.sign_now
    signer.sign_now = lambda message: real(message + b"\0")  # type: ignore[method-assign]
    with pytest.raises(QianyanError) as refused:
        await world.service().build("issuing", 0)
    assert refused.value.code == "crl_signature"
    assert (await world.newest()).number == 1


async def test_a_revocation_between_reading_and_checking_is_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses that move on while a CRL is built are for the next one."""
    service = world.service()
    real = crl.service.steps.take_snapshot

    async def then_moves(*arguments: object) -> object:
        snapshot = await real(*arguments)  # type: ignore[arg-type]
        await world.revoke(6)
        await world.revoke(3, reason=RevocationReason.CERTIFICATE_HOLD)
        return snapshot

    monkeypatch.setattr(crl.service.steps, "take_snapshot", then_moves)
    assert list(listed((await service.build("issuing", 0)).crl)) == [1, 2, 4, 5]
    monkeypatch.undo()
    assert list(listed((await service.build("issuing", 0)).crl)) == [1, 2, 3, 4, 5, 6]


def test_refuse_says_everything_and_names_the_first() -> None:
    refuse([])
    with pytest.raises(QianyanError, match="one thing; another") as refused:
        refuse([Problem("first", "one thing"), Problem("second", "another")])
    assert refused.value.code == "first"


async def published(world: World) -> bytes:
    return (await world.service().build("issuing", 0)).crl


def codes(world: World, crls: dict[str, bytes], *, now_ms: int = NOON_MS + 60_000) -> list[list[str]]:
    reports = check_published(crls, world.certificate, verify_signature, now_ms=now_ms)
    return [[problem.code for problem in report.problems] for report in reports]


async def test_from_outside_a_good_crl_has_no_problem(world: World) -> None:
    crl = await published(world)
    (report,) = check_published({URL: crl}, world.certificate, verify_signature, now_ms=NOON_MS + 60_000)
    assert report.problems == []
    assert report.size == len(crl)
    assert report.view is not None
    assert (report.view.number, report.view.idp_url, len(report.view.entries)) == (2, URL, 4)


async def test_from_outside_what_is_wrong_is_named(world: World, tmp_path: Path) -> None:
    crl = await published(world)
    assert codes(world, {URL: crl[:-1] + bytes([crl[-1] ^ 1])}) == [["crl_signature"]]
    assert codes(world, {URL: crl}, now_ms=NOON_MS + 2 * DAY_MS) == [["crl_expired"]]
    assert codes(world, {URL: crl}, now_ms=NOON_MS - DAY_MS) == [["crl_this_update"]]
    assert codes(world, {URL + "x": crl}) == [["crl_idp"]]
    assert codes(world, {URL: b"<html>"}) == [["crl"]]
    (tmp_path / "other").mkdir()
    async with make_world(tmp_path / "other") as other:
        await other.add_authority()
        assert codes(other, {URL: crl}) == [["crl_key_identifier", "crl_signature"]]


async def test_a_serial_in_two_partitions(world: World) -> None:
    crl = await published(world)
    assert codes(world, {URL: crl, URL + "x": crl}) == [[], ["crl_idp", "crl_serial_twice"]]


async def test_every_flipped_byte_is_either_unreadable_or_found(world: World) -> None:
    crl = await published(world)
    for at in range(len(crl)):
        flipped = crl[:at] + bytes([crl[at] ^ 0x20]) + crl[at + 1 :]
        assert codes(world, {URL: flipped}) != [[]], f"byte {at}"


def test_reading_garbage_raises_malformed() -> None:
    name = OTHER_NAME
    for garbage in (b"", b"\x30\x00", der.sequence(name), join_signed(der.sequence(der.integer(1), name), b"x")):
        with pytest.raises(Malformed):
            read_crl(garbage)
