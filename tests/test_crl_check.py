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
from core.store import crls
from crl._entries import Entries, Row
from crl.builder import CrlContents, make_draft
from crl.check import Problem, check_published, refuse
from crl.view import read_crl
from signer.engine.verify import verify_signature
from tests.crl_world import DAY_MS, NOON_MS, PUBLIC_URL, SetClock, World, listed, make_world
from tests.judges import der as walk

URL = f"{PUBLIC_URL}/crl/issuing/0.crl"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """CRL 1 lists 1, 2 and 3; since then 4 and 5 were revoked, and 3 came off hold."""
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.issue(1, 2, 3, 4, 5, 6)
        await world.issue(7, partition=1)
        await world.revoke(1, 2)
        await world.revoke(3, reason=RevocationReason.CERTIFICATE_HOLD)
        await world.service().build("issuing", 0)
        assert isinstance(world.clock, SetClock)
        world.clock.advance(60)
        await world.revoke(4, 5)
        await world.release(3)
        yield world


Making = tuple[Entries, CrlContents, list[Row], int]
Erring = Callable[[Making], Making]


def changed(*rows: Row) -> Erring:
    return lambda made: (made[0], made[1], [*made[2], *rows], made[3])


def listing(serial: int, reason: int = 1, revoked_ms: int = NOON_MS + 60_000, invalidity_s: int | None = None) -> Row:
    return bytes([serial]), revoked_ms // 1000 * 16 + reason, 1 << 31, invalidity_s


def without(serial: int) -> Erring:
    return changed((bytes([serial]), None, 0, None))


def shifted(name: str, by_ms: int) -> Erring:
    return lambda made: (made[0], replace(made[1], **{name: getattr(made[1], name) + by_ms}), *made[2:])


def saying(**values: object) -> Erring:
    return lambda made: (made[0], replace(made[1], **values), *made[2:])  # type: ignore[arg-type]


def erring(err: Erring, *, delta: bool = False) -> Callable[..., object]:
    """A `make_draft` that errs with the full CRL, or with the delta."""

    def make(entries: Entries, contents: CrlContents, changes: list[Row], kept_from_s: int) -> object:
        made: Making = (entries, contents, list(changes), kept_from_s)
        return make_draft(*(err(made) if delta == (contents.base_number is not None) else made))

    return make


OTHER_NAME = build_name({"C": "CN", "CN": "另一个机构"}).public_bytes()

BAD = {
    "drops an entry": (without(1), "crl_entry_lost"),
    "lacks a new revocation": (without(5), "crl_entry_missing"),
    "lists a good certificate": (changed(listing(6)), "crl_entry_wrong"),
    "lists a released one": (changed(listing(3, 6, NOON_MS)), "crl_entry_wrong"),
    "lists a serial never issued": (changed(listing(0x77)), "crl_entry_wrong"),
    "lists one of another partition": (changed(listing(7)), "crl_entry_wrong"),
    "another reason": (changed(listing(4, 4)), "crl_entry_wrong"),
    "another time": (changed(listing(4, 1, NOON_MS)), "crl_entry_wrong"),
    "an invalidity date": (changed(listing(4, 1, invalidity_s=5)), "crl_entry_wrong"),
    "an old entry said otherwise": (changed(listing(1, 4, NOON_MS)), "crl_entry_wrong"),
    "the same number": (shifted("number", -1), "crl_number"),
    "a number left out": (shifted("number", 1), "crl_number"),
    "another scope": (saying(url=URL.replace("/0.crl", "/1.crl")), "crl_idp"),
    "another issuer": (saying(issuer=OTHER_NAME), "crl_issuer"),
    "another key": (saying(issuer_key_identifier=bytes(20)), "crl_key_identifier"),
    "from the future": (shifted("this_update_ms", 120_000), "crl_this_update"),
    "older than the one before": (shifted("this_update_ms", -90_000), "crl_life"),
    "lives too long": (shifted("next_update_ms", 2000), "crl_life"),
    "no life at all": (
        lambda made: (made[0], replace(made[1], next_update_ms=made[1].this_update_ms), *made[2:]),
        "crl_next_update",
    ),
}
BAD_DELTAS = {
    "lacks a change": (without(5), "delta_entry_missing"),
    "lacks a release": (without(3), "delta_entry_missing"),
    "lists a released one": (changed(listing(3, 6, NOON_MS)), "delta_entry_wrong"),
    "lists what did not change": (changed(listing(1, 1, NOON_MS)), "delta_entry_wrong"),
    "removes what is revoked": (changed(listing(4, 8)), "delta_entry_wrong"),
    "another reason": (changed(listing(4, 4)), "delta_entry_wrong"),
    "another base": (shifted("base_number", 1), "delta_number"),
    "another number": (shifted("number", 1), "delta_number"),
    "other times": (shifted("next_update_ms", -1000), "delta_times"),
    "another scope": (saying(url=URL.replace("/0.crl", "/1.crl")), "delta_scope"),
    "another issuer": (saying(issuer=OTHER_NAME), "crl_issuer"),
}


@pytest.mark.parametrize(("err", "code"), BAD_DELTAS.values(), ids=BAD_DELTAS.keys())
async def test_a_delta_that_errs_keeps_the_full_crl_back_too(
    world: World, err: Erring, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crl.service, "make_draft", erring(err, delta=True))
    with pytest.raises(QianyanError) as refused:
        await world.service().build("issuing", 0)
    assert refused.value.code == code
    assert world.signer.signed == 1
    assert (await world.newest()).number == 1


@pytest.mark.parametrize(("err", "code"), BAD.values(), ids=BAD.keys())
async def test_a_builder_that_errs_is_refused_before_the_key_signs(
    world: World, err: Erring, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crl.service, "make_draft", erring(err))
    with pytest.raises(QianyanError) as refused:
        await world.service().build("issuing", 0)
    assert refused.value.code == code
    assert world.signer.signed == 1
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
    monkeypatch.setattr(crl.service, "make_draft", erring(shifted("next_update_ms", 9000)))
    async with make_world(tmp_path) as world:
        await world.add_authority(not_after_ms=NOON_MS + 3_600_000)
        with pytest.raises(QianyanError) as refused:
            await world.service().build("issuing", 0)
    assert refused.value.code == "crl_next_update"


async def test_a_first_crl_must_list_everything_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl.service, "make_draft", erring(without(2)))
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
    signer.sign_now = lambda message: real(bytes(message) + b"\0")  # type: ignore[method-assign]
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

    async def then_moves(*arguments: object, **named: object) -> object:
        snapshot = await real(*arguments, **named)  # type: ignore[arg-type]
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


def with_entries(*entries: bytes) -> bytes:
    """A CRL with these entries as they are given."""
    made = make_draft(
        Entries(), CrlContents(OTHER_NAME, bytes(20), 1, URL, NOON_MS, NOON_MS + 1000), [listing(9)], 0
    ).seal(b"s")
    start, end = read_crl(made).tbs
    fields = walk.whole(made[start:end]).children()
    fields[5:6] = walk.whole(der.sequence(*entries)).children() and [walk.whole(der.sequence(*entries))]
    return join_signed(der.sequence(*(field.encoded for field in fields)), b"s")


def one(serial: bytes, *more: bytes, time: bytes = b"\x17\x0d261118120000Z") -> bytes:
    return der.sequence(der.tlv(der.INTEGER, serial), time, *more)


CRITICAL = der.sequence(der.sequence(bytes.fromhex("0603551d150101ff04030a0101")))


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([one(b"\x02"), one(b"\x01")], "crl_unsorted"),
        ([one(b"\x02"), one(b"\x02")], "crl_duplicate"),
        ([one(b"\x01", CRITICAL)], "crl_entry_critical"),
        ([one(b"\x01", time=b"\x18\x0f20261118120000Z")], "crl_time_form"),
        ([one(b"\x00")], "crl_serial"),
    ],
)
def test_entries_with_a_fault_of_their_own(entries: list[bytes], code: str) -> None:
    assert code in [found for found, _ in read_crl(with_entries(*entries), second_max_bytes=0).faults]


@pytest.mark.parametrize(
    "entry",
    [
        one(b""),
        one(b"\x00\x01"),
        one(b"\x81"),
        one(bytes([1]) * 21),
        one(b"\x01", time=b"\x17\x0d261318120000Z"),
        one(b"\x01", time=b"\x17\x0d260229120000Z"),
        one(b"\x01", time=b"\x17\x0d26111812000aZ"),
        one(b"\x01", time=b"\x17\x0b2611181200Z"),
        one(b"\x01", der.sequence()),
        one(b"\x01", der.sequence(der.sequence(bytes.fromhex("0603551d1504030a0107")))),
        one(b"\x01", der.sequence(*[der.sequence(bytes.fromhex("0603551d1504030a0101"))] * 2)),
        one(b"\x01", der.null()),
        b"\x30\x81\x12" + one(b"\x01")[2:],
        b"\x30\x80" + one(b"\x01")[2:] + b"\0\0",
    ],
)
def test_entries_that_are_no_der_make_it_no_crl(entry: bytes) -> None:
    good = one(b"\x05")
    crl = with_entries(good)
    at = crl.index(good)
    rebuilt = with_entries(good, good.replace(b"\x05", b"\x06"))
    assert read_crl(rebuilt, second_max_bytes=0).faults == []
    with pytest.raises(Malformed):
        read_crl(_spliced(crl, at, len(good), entry), second_max_bytes=0)


def _spliced(crl: bytes, at: int, length: int, entry: bytes) -> bytes:
    """The CRL with an entry put in place of the one at `at`, every length around it right again."""
    start, end = read_crl(crl).tbs
    parts = [field.encoded for field in walk.whole(crl[start:end]).children()]
    parts[5] = der.sequence(entry)
    assert crl[at : at + length] in crl
    return join_signed(der.sequence(*parts), b"s")


async def test_a_delta_and_its_full_crl_from_outside(world: World) -> None:
    full = await published(world)
    async with world.database.read() as connection:
        record = await crls.latest(connection, "issuing", 0, delta=True)
    assert record is not None
    delta = record.crl
    at = URL.replace(".crl", "-delta.crl")
    assert codes(world, {URL: full, at: delta}) == [[], []]
    assert codes(world, {URL: delta, at: full}) == [["crl_idp"], ["crl_idp"]]
    other = der_with(delta, full)
    assert "delta_entry_wrong" in codes(world, {URL: full, at: other})[1]


def der_with(delta: bytes, full: bytes) -> bytes:
    """The delta with the entries of the full CRL, 3 as well: what it removes is listed, and the other way round."""
    start, end = read_crl(delta).tbs
    parts = [field.encoded for field in walk.whole(delta[start:end]).children()]
    parts[5] = der.sequence(one(b"\x03"))
    return join_signed(der.sequence(*parts), b"s")


def test_big_numbers_are_compared_as_numbers() -> None:
    numbers = [1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, (1 << 158) - 1, (1 << 159) - 1]
    rows: list[Row] = [(n.to_bytes((n.bit_length() + 7) // 8, "big"), 16, 1 << 31, None) for n in numbers]
    made = make_draft(Entries(), CrlContents(OTHER_NAME, bytes(20), 1, URL, NOON_MS, NOON_MS + 1000), rows[::-1], 0)
    view = read_crl(made)
    assert view.faults == []
    assert [row[0] for row in view.entries.rows()] == numbers
    assert all(view.entries.find(n) is not None for n in numbers)
    assert view.entries.find(0x81) is None
