"""Paths to several anchors: what makes one, what does not, within what bounds; BouncyCastle as the reference."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.asn1 import der
from core.asn1.x509 import Extension, join_signed, key_identifier, split_signed
from core.clock import system_clock, to_datetime
from core.errors import Malformed, SettingsError, TooLarge
from core.errors import Refused as Unacceptable
from core.model import CertificateState, CertificateStatus, RevocationReason
from signer._native import sm2
from signer.signing.examination import Case, examine
from signer.signing.hierarchy import Hierarchy
from signer.signing.parsed import ParseCache, parse
from signer.signing.paths import PathFinder, SignatureCache
from signer.signing.records import verify_records
from signer.signing.trust import Trust, load_trust
from signer.signing.verdicts import VerifyItem, standing
from signer.signing.verification_settings import ForeignStatusSettings, VerificationSettings
from tests.engine_world import open_world
from tests.judges import Refused
from tests.judges.bouncycastle import BouncyCastle
from tests.signing_world import DAY_MS, Holder, Office, Realm, authority, certificate, make_realm, usage

NOW_MS = system_clock()
MESSAGE = b"signed"
CA = Extension.of(x509.BasicConstraints(ca=True, path_length=None), critical=True)
SIGNS = (usage("digital_signature"),)
CERT_SIGN = usage("key_cert_sign", "crl_sign")


def named(issuer: Office) -> Extension:
    identifier = key_identifier(issuer.key.public_key.to_bytes())
    return Extension.of(x509.AuthorityKeyIdentifier(identifier, None, None))


def leaf(issuer: Office, extensions: Sequence[Extension] = SIGNS, *, days: tuple[float, float] = (-1, 30)) -> Holder:
    key = sm2.PrivateKey.generate()
    encoded = certificate(
        77, issuer, "leaf", key.public_key.to_bytes(), [*extensions, named(issuer)],
        NOW_MS + int(days[0] * DAY_MS), NOW_MS + int(days[1] * DAY_MS), issuer.key,
    )  # fmt: skip
    return Holder(key, encoded, 77)


def cross(subject: Office, issuer: Office, *, serial: int = 50, extensions: Sequence[Extension] | None = None) -> bytes:
    """A certificate for an office's name and key, by another."""
    public = subject.key.public_key.to_bytes()
    own = Extension.of(x509.SubjectKeyIdentifier(key_identifier(public)))
    kind = [CERT_SIGN, CA] if extensions is None else list(extensions)
    return certificate(
        serial, issuer, subject.id, public, [*kind, own, named(issuer)],
        NOW_MS - 9 * DAY_MS, NOW_MS + 900 * DAY_MS, issuer.key,
    )  # fmt: skip


def chain_case(
    holder: Holder,
    anchors: Sequence[bytes],
    brought: Sequence[bytes] = (),
    *,
    at_ms: int = NOW_MS,
    bounds: VerificationSettings | None = None,
    configured: Sequence[bytes] = (),
) -> Case:
    """Everything but the status."""
    trust = Trust.of([parse(encoded) for encoded in anchors], [parse(encoded) for encoded in configured])
    extra = [parse(encoded) for encoded in brought]
    finder = PathFinder(Hierarchy(()), trust, extra, SignatureCache(10_000), bounds or VerificationSettings())
    item = VerifyItem(
        holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE, at_ms=at_ms, depth="chain"
    )
    (case,) = examine([item], finder, ParseCache(100), NOW_MS, 65_536)
    return case


@pytest.fixture(scope="module")
def root() -> Office:
    return authority("root", None, NOW_MS)


@pytest.fixture(scope="module")
def middle(root: Office) -> Office:
    return authority("middle", root, NOW_MS, serial=2)


def test_a_path_by_an_anchor_and_an_intermediate(root: Office, middle: Office, bouncycastle: BouncyCastle) -> None:
    holder = leaf(middle)
    for brought, configured in (([middle.certificate], []), ([], [middle.certificate])):
        case = chain_case(holder, [root.certificate], brought, configured=configured)
        assert case.reason is None
        assert [link.encoded for link in case.paths[0]] == [middle.certificate, root.certificate]
    bouncycastle.validate_path(root.certificate, [holder.certificate, middle.certificate], at=to_datetime(NOW_MS))
    assert chain_case(holder, [root.certificate]).reason == "chain"
    assert chain_case(holder, [middle.certificate]).reason is None  # an anchor need not be a root
    assert chain_case(holder, [], [middle.certificate, root.certificate]).reason == "chain"


def test_of_several_anchors_and_cross_certificates_one_path_is_enough(root: Office, middle: Office) -> None:
    other = authority("other root", None, NOW_MS)
    holder = leaf(middle)
    crossed = cross(middle, other)
    assert chain_case(holder, [other.certificate], [middle.certificate, crossed]).reason is None
    over_root = cross(root, other)
    case = chain_case(holder, [other.certificate], [middle.certificate, over_root])
    assert [link.encoded for link in case.paths[0]] == [middle.certificate, over_root, other.certificate]
    both = chain_case(holder, [root.certificate, other.certificate], [middle.certificate, crossed])
    assert len(both.paths) == 2


@pytest.mark.parametrize(
    "extensions",
    [
        [CERT_SIGN],
        [CA],
        [CA, usage("digital_signature", "crl_sign")],
        [CA, CERT_SIGN, Extension("2.25.1", True, der.null())],
        [Extension.of(x509.BasicConstraints(ca=False, path_length=None)), CERT_SIGN],
        [CA, CERT_SIGN, Extension.of(x509.NameConstraints([x509.DNSName("a.cn")], None), critical=True)],
        [CA, CERT_SIGN, Extension.of(x509.NameConstraints([x509.DNSName("a.cn")], None))],
        [CA, CERT_SIGN, Extension.of(x509.PolicyConstraints(0, None), critical=True)],
        [CA, CERT_SIGN, Extension.of(x509.InhibitAnyPolicy(0), critical=True)],
    ],
)
def test_what_may_not_stand_above_another(root: Office, extensions: list[Extension]) -> None:
    broken = authority("broken", root, NOW_MS, serial=3, extensions=extensions)
    assert chain_case(leaf(broken), [root.certificate], [broken.certificate]).reason == "chain"


def test_path_length_counts_what_is_not_self_issued(root: Office, bouncycastle: BouncyCastle) -> None:
    short = authority("short", root, NOW_MS, serial=4, path_length=0)
    below = authority("below", short, NOW_MS, serial=5)
    assert chain_case(leaf(short), [root.certificate], [short.certificate]).reason is None
    holder = leaf(below)
    assert chain_case(holder, [root.certificate], [short.certificate, below.certificate]).reason == "chain"
    with pytest.raises(Refused):
        bouncycastle.validate_path(
            root.certificate, [holder.certificate, below.certificate, short.certificate], at=to_datetime(NOW_MS)
        )
    renewed = Office("short", sm2.PrivateKey.generate(), short.name)
    rolled = cross(renewed, short)  # the same name under a new key: self-issued, so that it does not count
    holder = leaf(renewed)
    assert chain_case(holder, [root.certificate], [short.certificate, rolled]).reason is None
    bouncycastle.validate_path(
        root.certificate, [holder.certificate, rolled, short.certificate], at=to_datetime(NOW_MS)
    )


def test_every_link_is_judged_at_the_time_asked_about(root: Office) -> None:
    ended = authority("ended", root, NOW_MS, serial=6, from_days=-9, to_days=-3)
    holder = leaf(ended, days=(-8, 30))
    for days, reason in ((-4, None), (-2, "chain"), (0, "chain"), (-8.5, "not_yet_valid")):
        at_ms = NOW_MS + int(days * DAY_MS)
        assert chain_case(holder, [root.certificate], [ended.certificate], at_ms=at_ms).reason == reason


def test_an_authority_of_the_right_name_and_another_key(root: Office, middle: Office) -> None:
    impostor = authority("middle", root, NOW_MS, serial=9)
    holder = leaf(middle)
    case = chain_case(holder, [root.certificate], [impostor.certificate])
    assert case.reason == "chain"
    nameless = certificate(
        78, middle, "leaf", holder.key.public_key.to_bytes(), list(SIGNS), NOW_MS - DAY_MS, NOW_MS + DAY_MS, middle.key
    )
    both = [impostor.certificate, middle.certificate]  # without a key identifier both are tried
    assert chain_case(Holder(holder.key, nameless, 78), [root.certificate], both).reason is None


def test_a_loop_leads_nowhere(root: Office) -> None:
    a, b = authority("a", None, NOW_MS), authority("b", None, NOW_MS)
    brought = [cross(a, b), cross(b, a), a.certificate, b.certificate]
    assert chain_case(leaf(a), [root.certificate], brought).reason == "chain"


def test_a_thicket_is_given_up_within_its_bounds(root: Office) -> None:
    """Thirty authorities of one name that all sign each other: more paths than could ever be walked."""
    offices = [Office("thicket", sm2.PrivateKey.generate(), authority("thicket", None, NOW_MS).name) for _ in range(6)]
    brought = []
    for one in offices:
        for other in offices:
            public = one.key.public_key.to_bytes()
            if one is not other:
                brought.append(
                    certificate(
                        60, other, "thicket", public, [CERT_SIGN, CA], NOW_MS - DAY_MS, NOW_MS + DAY_MS, other.key
                    )
                )
    holder = leaf(offices[0])
    bounds = VerificationSettings(max_candidates=40, max_path_signatures=25, max_depth=16)
    signatures = SignatureCache(10_000)
    finder = PathFinder(
        Hierarchy(()), Trust.of([parse(root.certificate)]), [parse(one) for one in brought], signatures, bounds
    )
    item = VerifyItem(holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE, depth="chain")
    (case,) = examine([item], finder, ParseCache(100), NOW_MS, 65_536)
    assert case.reason == "chain"
    assert "bounds" in (case.detail or "")
    searches = len(case.candidates)
    assert len(signatures._known) <= searches + searches * 25


def test_a_path_is_no_longer_than_allowed(root: Office) -> None:
    offices = [root]
    for number in range(4):
        offices.append(authority(f"level {number}", offices[-1], NOW_MS, serial=20 + number))
    holder, brought = leaf(offices[-1]), [office.certificate for office in offices[1:]]
    assert chain_case(holder, [root.certificate], brought, bounds=VerificationSettings(max_depth=5)).reason is None
    assert chain_case(holder, [root.certificate], brought, bounds=VerificationSettings(max_depth=4)).reason == "chain"


# ---- certificates as they are in the field


def raw_basic(value: bytes, *, critical: bool = True) -> Extension:
    return Extension("2.5.29.19", critical, value)


@pytest.mark.parametrize("critical", [False, True])
def test_a_false_that_is_written_out_is_read(root: Office, critical: bool, bouncycastle: BouncyCastle) -> None:
    holder = leaf(root, [*SIGNS, raw_basic(bytes.fromhex("3003010100"), critical=critical)])
    case = chain_case(holder, [root.certificate])
    assert (case.reason, case.detail) == (None, None)
    assert case.parsed is not None
    assert case.parsed.basic_constraints is not None
    assert not case.parsed.basic_constraints.ca
    assert case.parsed.encoded == holder.certificate
    bouncycastle.validate_path(root.certificate, [holder.certificate], at=to_datetime(NOW_MS))


@pytest.mark.parametrize(
    "value",
    ["30030101", "300301010000", "3003010101", "30060101000201ff", "3006010100020100", "3081030101 00", "0500", ""],
)
def test_nothing_else_that_is_not_der_is_read(root: Office, value: str) -> None:
    holder = leaf(root, [*SIGNS, raw_basic(bytes.fromhex(value))])
    assert chain_case(holder, [root.certificate]).reason == "malformed"


def test_a_false_that_is_written_out_makes_no_authority(root: Office) -> None:
    fake = authority("fake", root, NOW_MS, serial=8, extensions=[CERT_SIGN, raw_basic(bytes.fromhex("3003010100"))])
    assert chain_case(leaf(fake), [root.certificate], [fake.certificate]).reason == "chain"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=3),
    extras=st.sampled_from([0, 1, 2]),
)
@example(changes=[(110, 0)], extras=0)  # the subject's text gets the tag of nothing
@example(changes=[(234, 0)], extras=1)  # the flag beside a `cA FALSE` that is written out does
def test_a_mutated_certificate_is_valid_only_where_the_reference_says_so(
    changes: list[tuple[int, int]], extras: int, root: Office, bouncycastle: BouncyCastle
) -> None:
    """The to-be-signed bytes are changed and signed again by the authority, so that only their meaning is judged."""
    kinds = [
        list(SIGNS),
        [*SIGNS, raw_basic(bytes.fromhex("3003010100"))],
        [*SIGNS, Extension.of(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)],
    ]
    holder = leaf(root, kinds[extras])
    tbs = bytearray(split_signed(holder.certificate).tbs)
    for at, octet in changes:
        tbs[at % len(tbs)] = octet
    raw = sm2.signature_to_der(root.key.sign(bytes(tbs)))
    changed = Holder(holder.key, join_signed(bytes(tbs), raw), 0)
    case = chain_case(changed, [root.certificate])
    assert case.reason in (None, "malformed", "signature", "chain", "expired", "not_yet_valid", "key_usage")
    if case.reason is None:
        bouncycastle.validate_path(root.certificate, [changed.certificate], at=to_datetime(NOW_MS))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 5_000), octet=st.integers(0, 255), cut=st.integers(0, 3))
def test_no_bytes_make_the_reading_of_a_certificate_raise_anything_else(
    at: int, octet: int, cut: int, middle: Office
) -> None:
    changed = bytearray(middle.certificate)
    changed[at % len(changed)] = octet
    with contextlib.suppress(Malformed, Unacceptable):
        parse(bytes(changed[: len(changed) - cut]))


async def test_ten_megabytes_of_certificate_and_off_curve_keys(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        realm = await make_realm(world)
        holder = await realm.issue()
        good = VerifyItem(holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE)
        huge = b"\x30\x84" + (10 << 20).to_bytes(4, "big") + bytes(10 << 20)
        off_curve = b"\x04" + bytes(31) + b"\x01" + bytes(31) + b"\x02"
        spoiled = holder.certificate.replace(holder.key.public_key.to_bytes(), off_curve)
        bad = [
            VerifyItem(good.signature, certificate=huge, data=MESSAGE),
            VerifyItem(good.signature, public_key=off_curve, data=MESSAGE),
            VerifyItem(good.signature, certificate=spoiled, data=MESSAGE),
            VerifyItem(good.signature, certificate=b"\x30\x80" + bytes(1_000), data=MESSAGE),
        ]
        items = [item for wrong in bad for item in (good, wrong)]
        verdicts = await realm.service.verify(items, intermediates=[huge, b"", b"\x30\x00", off_curve])
        assert [verdict.reason for verdict in verdicts] == [None, "malformed"] * len(bad)
        with pytest.raises(TooLarge):
            await realm.service.verify([good], intermediates=[b""] * 33)


# ---- ours beside others'


@pytest.fixture
async def realm(tmp_path: Path) -> AsyncIterator[Realm]:
    async with open_world(tmp_path) as world:
        yield await make_realm(world)


async def test_our_own_status_decides_whatever_path_leads_up(realm: Realm, root: Office) -> None:
    """A cross-certificate by a foreign root for our authority: its certificates are still judged by our store."""
    crossed = cross(realm.issuing, root)
    realm.service._trust = Trust.of([parse(root.certificate)], [parse(crossed)])
    good, gone = await realm.issue(), await realm.issue()
    await realm.revoke(gone.serial, RevocationReason.SUPERSEDED, realm.now_ms - 1_000)
    items = [VerifyItem(h.key.sign(MESSAGE), certificate=h.certificate, data=MESSAGE) for h in (good, gone)]
    assert [verdict.reason for verdict in await realm.service.verify(items)] == [None, "revoked"]


async def test_a_foreign_certificate_without_sources_is_of_unknown_status(realm: Realm, root: Office) -> None:
    realm.service._trust = Trust.of([parse(root.certificate)])
    holder = leaf(root)
    item = VerifyItem(holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE)
    (verdict,) = await realm.service.verify([item])
    assert verdict.reason == "unknown_status"
    assert verdict.authority_id is None


async def test_thousands_of_items_are_one_batch_and_each_certificate_is_parsed_once(realm: Realm) -> None:
    holders = [await realm.issue() for _ in range(3)]
    items = [
        VerifyItem(holder.key.sign(b"%d" % number), certificate=holder.certificate, data=b"%d" % (number | 1))
        for number in range(2_000)
        for holder in (holders[number % 3],)
    ]
    verdicts = await realm.service.verify(items)
    assert [verdict.valid for verdict in verdicts] == [bool(number & 1) for number in range(2_000)]
    assert len(realm.service._parsed) == 3


def test_the_caches_are_bounded(root: Office) -> None:
    parsing, signatures = ParseCache(2), SignatureCache(2)
    holders = [parse(leaf(root).certificate) for _ in range(4)]
    for parsed in holders:
        parsing.parse(parsed.encoded)
        signatures.put(parsed, parsed, True)
    assert len(parsing) == len(signatures._known) == 2


def status(reason: RevocationReason, at_ms: int = 1_000, invalidity_at_ms: int | None = None) -> CertificateStatus:
    state = CertificateState.HELD if reason is RevocationReason.CERTIFICATE_HOLD else CertificateState.REVOKED
    return CertificateStatus(1, state, at_ms, reason, invalidity_at_ms)


@pytest.mark.parametrize(
    ("found", "before", "after"),
    [
        (status(RevocationReason.SUPERSEDED), None, "revoked"),
        (status(RevocationReason.CERTIFICATE_HOLD), None, "suspended"),
        (status(RevocationReason.KEY_COMPROMISE), "revoked", "revoked"),
        (status(RevocationReason.KEY_COMPROMISE, 1_000, 950), None, "revoked"),
        (status(RevocationReason.KEY_COMPROMISE, 1_000, 500), "revoked", "revoked"),
        (status(RevocationReason.AFFILIATION_CHANGED, 1_000, 500), "revoked", "revoked"),
        (CertificateStatus(1, None), "unknown_status", "unknown_status"),
        (CertificateStatus(1, CertificateState.GOOD), None, None),
    ],
)
def test_what_a_status_says_of_a_time(found: CertificateStatus, before: str | None, after: str | None) -> None:
    assert standing(found, 900) == before
    assert standing(found, 1_000) == after


# ---- files


def test_anchors_from_files_and_directories(tmp_path: Path, root: Office, middle: Office) -> None:
    pem = b"".join(
        x509.load_der_x509_certificate(office.certificate).public_bytes(Encoding.PEM) for office in (root, middle)
    )
    (tmp_path / "bundle.pem").write_bytes(b"# of the province\n" + pem)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "root.cer").write_bytes(root.certificate)
    (tmp_path / "more" / "README").write_text("not looked at")
    trust = load_trust(["bundle.pem"], ["more"], tmp_path.joinpath)
    assert [parsed.encoded for parsed in trust.anchors] == [root.certificate, middle.certificate]
    assert [parsed.encoded for parsed in trust.intermediates] == [root.certificate]
    assert trust.is_anchor(parse(middle.certificate))


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "cannot be read"), (b"junk", "not an SM2 certificate"), (b"-----BEGIN X", "not an SM2 certificate"),
     ("leaf", "not the certificate of an authority"), ("broken", "does not verify"), (bytes(2 << 20), "more than")],
)  # fmt: skip
def test_an_anchor_that_is_none_stops_the_start(tmp_path: Path, root: Office, content: Any, word: str) -> None:
    made = {"leaf": leaf(root).certificate, "broken": root.certificate[:-1] + bytes([root.certificate[-1] ^ 1])}
    if content is not None:
        (tmp_path / "x.pem").write_bytes(made.get(content, content))
    with pytest.raises(SettingsError, match=word):
        load_trust(["x.pem"], [], tmp_path.joinpath)


@pytest.mark.parametrize(
    "allow", ["ftp://a.cn/", "http://a.cn", "http://u@a.cn/", "http://a.cn/?x", "http:///x", "a.cn/", "http://A.cn/#f"]
)
def test_an_allow_list_entry_that_could_be_misread_is_refused(allow: str) -> None:
    with pytest.raises(ValueError, match="must"):
        ForeignStatusSettings(allow=(allow,))


# ---- octets


@pytest.mark.parametrize("octets", [65, 64])
def test_records_in_octets(octets: int) -> None:
    keys = [sm2.PrivateKey.generate() for _ in range(5)]
    records, expected = [], []
    for number in range(60):
        key = keys[number % 5]
        digest = number.to_bytes(32, "big")
        point = key.public_key.to_bytes()[65 - octets :]
        signature = bytearray(key.sign_digest(digest))
        kind = number % 4
        if kind == 1:
            signature[number % 64] ^= 1
        if kind == 2:
            point = b"\x04"[: octets - 64] + bytes(63) + b"\x07"
        if kind == 3:
            digest = bytes(32)
        records.append(digest + point + signature)
        expected.append(int(kind == 0))
    assert verify_records(b"".join(records), octets) == bytes(expected)
    assert verify_records(records[2], octets) == b"\0"
    for body in (b"", records[0][:-1], records[0] + b"\0"):
        with pytest.raises(Malformed):
            verify_records(body, octets)


async def test_records_are_bounded_and_counted(realm: Realm) -> None:
    key = sm2.PrivateKey.generate()
    record = bytes(32) + key.public_key.to_bytes() + key.sign_digest(bytes(32))
    bodies = await asyncio.gather(*(realm.service.verify_records(record * 500, 65) for _ in range(4)))
    assert bodies == [b"\1" * 500] * 4
    realm.service.bounds = VerificationSettings(max_records=3)
    with pytest.raises(TooLarge):
        await realm.service.verify_records(record * 4, 65)
