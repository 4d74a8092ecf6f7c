"""Verification over a real store: every reason, their order, and that no bytes do anything but get a reason."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.asn1.x509 import Extension
from core.clock import to_datetime
from core.errors import Busy
from core.model import RevocationReason
from signer._native import sm2
from signer.signing.examination import examine
from signer.signing.hierarchy import Hierarchy
from signer.signing.parsed import ParseCache
from signer.signing.paths import PathFinder, SignatureCache
from signer.signing.settings import SigningSettings
from signer.signing.trust import Trust
from signer.signing.verification import Verdict, VerifyItem
from signer.signing.verification_settings import VerificationSettings
from tests.engine_world import open_world
from tests.judges import openssl, peers
from tests.signing_world import DAY_MS, Holder, Realm, add_authority, authority, make_realm, usage

MESSAGE = b"what was signed"


@pytest.fixture
async def realm(tmp_path: Path) -> AsyncIterator[Realm]:
    async with open_world(tmp_path) as world:
        yield await make_realm(world)


def by(holder: Holder, *, message: bytes = MESSAGE, at_ms: int | None = None) -> VerifyItem:
    return VerifyItem(holder.key.sign(message), certificate=holder.certificate, data=MESSAGE, at_ms=at_ms)


def extended(purpose: x509.ObjectIdentifier) -> Extension:
    return Extension.of(x509.ExtendedKeyUsage([purpose]))


async def judge(realm: Realm, item: VerifyItem) -> Verdict:
    (verdict,) = await realm.service.verify([item])
    return verdict


async def test_a_sound_signature_is_valid(realm: Realm) -> None:
    holder = await realm.issue()
    verdict = await judge(realm, by(holder))
    assert verdict.valid
    assert verdict == Verdict(None, None, holder.serial, "issuing", realm.now_ms)


async def test_der_and_raw_data_and_digest_and_user_id(realm: Realm) -> None:
    holder = await realm.issue()
    raw = holder.key.sign(MESSAGE, user_id=b"someone")
    digest = holder.key.public_key.digest(MESSAGE, user_id=b"someone")
    for signature in (raw, sm2.signature_to_der(raw)):
        for item in (
            VerifyItem(signature, certificate=holder.certificate, data=MESSAGE, user_id=b"someone"),
            VerifyItem(signature, certificate=holder.certificate, digest=digest),
            VerifyItem(signature, public_key=holder.key.public_key.to_bytes(), digest=digest),
        ):
            assert (await judge(realm, item)).valid
    other = VerifyItem(raw, certificate=holder.certificate, data=MESSAGE)
    assert (await judge(realm, other)).reason == "signature"


async def test_signatures_of_openssl_and_tongsuo_are_valid_and_changed_ones_are_not(realm: Realm) -> None:
    scalar = bytearray(32)
    holder = await realm.issue()
    holder.key.export_into(scalar)
    public = holder.key.public_key.to_bytes()
    made = [
        openssl.sign(bytes(scalar), public, MESSAGE),
        peers.tongsuo_sign(bytes(scalar), MESSAGE),
    ]
    for signature in made:
        assert (await judge(realm, VerifyItem(signature, certificate=holder.certificate, data=MESSAGE))).valid
        assert (await judge(realm, VerifyItem(signature, public_key=public, data=MESSAGE))).valid
        raw = bytearray(sm2.signature_from_der(signature))
        raw[40] ^= 1
        verdict = await judge(realm, VerifyItem(bytes(raw), public_key=public, data=MESSAGE))
        assert verdict == Verdict("signature")


@pytest.mark.parametrize("end", ["from", "to"])
async def test_the_validity_period_includes_its_ends(realm: Realm, end: str) -> None:
    holder = await realm.issue(from_days=-2, to_days=2)
    whole = realm.now_ms // 1000 * 1000
    offset = 2 * DAY_MS
    if end == "from":
        assert (await judge(realm, by(holder, at_ms=whole - offset))).valid
        assert (await judge(realm, by(holder, at_ms=whole - offset - 1000))).reason == "not_yet_valid"
    else:
        realm.clock[0] += offset
        assert (await judge(realm, by(holder))).valid
        realm.clock[0] += 1000
        assert (await judge(realm, by(holder))).reason == "expired"
        assert (await judge(realm, by(holder, at_ms=whole))).valid


async def test_a_time_that_has_not_come_is_malformed(realm: Realm) -> None:
    holder = await realm.issue()
    assert (await judge(realm, by(holder, at_ms=realm.now_ms + 3_600_000))).reason == "malformed"
    assert (await judge(realm, by(holder, at_ms=realm.now_ms + 60_000))).valid


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ([usage("digital_signature")], None),
        ([usage("content_commitment")], None),
        ([usage("key_encipherment", "data_encipherment", "key_agreement")], "key_usage"),
        ([], "key_usage"),
        ([usage("digital_signature"), extended(ExtendedKeyUsageOID.OCSP_SIGNING)], "key_usage"),
        ([usage("digital_signature"), extended(ExtendedKeyUsageOID.CLIENT_AUTH)], None),
        ([usage("digital_signature"), Extension("2.25.1", True, b"\x05\x00")], "chain"),
        ([usage("digital_signature"), Extension("2.25.1", False, b"\x05\x00")], None),
    ],
)  # fmt: skip
async def test_key_usage_and_critical_extensions(
    realm: Realm, extensions: list[Extension], expected: str | None
) -> None:
    assert (await judge(realm, by(await realm.issue(extensions=extensions)))).reason == expected


async def test_revoked_with_its_time_and_reason(realm: Realm) -> None:
    holder = await realm.issue()
    revoked_at_ms = realm.now_ms - 1000
    await realm.revoke(holder.serial, RevocationReason.SUPERSEDED, revoked_at_ms)
    verdict = await judge(realm, by(holder))
    assert not verdict.valid
    assert (verdict.reason, verdict.revoked_at_ms, verdict.revocation_reason) == (
        "revoked",
        revoked_at_ms,
        RevocationReason.SUPERSEDED,
    )


async def test_a_revocation_after_the_time_asked_about(realm: Realm) -> None:
    early, late = await realm.issue(from_days=-9), await realm.issue(from_days=-9)
    await realm.revoke(early.serial, RevocationReason.SUPERSEDED, realm.now_ms - DAY_MS)
    await realm.revoke(
        late.serial, RevocationReason.KEY_COMPROMISE, realm.now_ms - DAY_MS, invalidity_at_ms=realm.now_ms - 3 * DAY_MS
    )
    at = {days: realm.now_ms - days * DAY_MS for days in (1, 2, 3, 4)}
    assert (await judge(realm, by(early, at_ms=at[2]))).valid
    assert (await judge(realm, by(early, at_ms=at[1]))).reason == "revoked"
    assert (await judge(realm, by(late, at_ms=at[4]))).valid
    assert (await judge(realm, by(late, at_ms=at[3]))).reason == "revoked"
    assert (await judge(realm, by(late, at_ms=at[2]))).reason == "revoked"


async def test_a_hold_suspends(realm: Realm) -> None:
    holder = await realm.issue()
    await realm.revoke(holder.serial, RevocationReason.CERTIFICATE_HOLD, realm.now_ms - 1000)
    assert (await judge(realm, by(holder))).reason == "suspended"
    assert (await judge(realm, by(holder, at_ms=realm.now_ms - 5000))).valid


async def test_a_serial_that_was_never_issued(realm: Realm) -> None:
    assert (await judge(realm, by(await realm.issue(record=False)))).reason == "unknown_status"


async def test_what_does_not_chain(realm: Realm) -> None:
    stranger = authority("issuing", None, realm.now_ms)
    foreign = await realm.issue(record=False, issuer=stranger)
    by_name_alone = await realm.issue(record=False, signed_by=stranger.key)
    other_key_id = await realm.issue(record=False, aki=secrets.token_bytes(20))
    for holder in (foreign, by_name_alone, other_key_id):
        assert (await judge(realm, by(holder))).reason == "chain"


async def test_a_certificate_with_a_changed_octet_never_passes(realm: Realm) -> None:
    holder = await realm.issue()
    items = []
    for at in range(len(holder.certificate)):
        changed = bytearray(holder.certificate)
        changed[at] ^= 1
        items.append(VerifyItem(holder.key.sign(MESSAGE), certificate=bytes(changed), data=MESSAGE))
    verdicts = await realm.service.verify(items)
    assert {verdict.reason for verdict in verdicts} <= {"malformed", "signature", "chain"}


async def test_an_authority_certificate_is_not_for_data(realm: Realm) -> None:
    item = VerifyItem(realm.issuing.key.sign(MESSAGE), certificate=realm.issuing.certificate, data=MESSAGE)
    assert (await judge(realm, item)).reason == "key_usage"


CA = Extension.of(x509.BasicConstraints(ca=True, path_length=None), critical=True)


@pytest.mark.parametrize(
    "broken",
    [
        {"extensions": [usage("key_cert_sign")]},
        {"extensions": [CA]},
        {"extensions": [CA, usage("digital_signature", "crl_sign")]},
        {
            "extensions": [
                Extension.of(x509.BasicConstraints(ca=False, path_length=None), critical=True),
                usage("key_cert_sign"),
            ]
        },
        {"extensions": [CA, usage("key_cert_sign"), Extension("2.25.1", True, b"\x05\x00")]},
        {"to_days": -1},
        {"from_days": 1},
    ],
)
async def test_nothing_chains_to_an_authority_that_does_not_hold(realm: Realm, broken: dict[str, object]) -> None:
    made = authority("broken", realm.root, realm.now_ms, serial=9, **broken)  # type: ignore[arg-type]
    await add_authority(realm.world, made, "root", realm.now_ms)
    assert (await judge(realm, by(await realm.issue(issuer=made)))).reason == "chain"
    assert (await judge(realm, by(await realm.issue()))).valid


async def test_path_length_and_signatures_above_are_checked(realm: Realm) -> None:
    below = authority("below", realm.issuing, realm.now_ms, serial=7)  # issuing has path length 0
    await add_authority(realm.world, below, "issuing", realm.now_ms)
    assert (await judge(realm, by(await realm.issue(issuer=below)))).reason == "chain"
    sound = authority("sound", realm.root, realm.now_ms, serial=8)
    sound.certificate = sound.certificate[:-1] + bytes([sound.certificate[-1] ^ 1])
    await add_authority(realm.world, sound, "root", realm.now_ms)
    assert (await judge(realm, by(await realm.issue(issuer=sound)))).reason == "chain"


async def test_a_revoked_authority_takes_its_certificates_with_it(realm: Realm) -> None:
    holder = await realm.issue()
    await realm._record(realm.root, 2, realm.issuing.key, realm.issuing.certificate, 3_650)
    assert (await judge(realm, by(holder))).valid
    await realm.revoke(2, RevocationReason.CA_COMPROMISE, realm.now_ms - 1000, authority_id="root")
    assert (await judge(realm, by(holder))).reason == "chain"


async def test_the_order_of_reasons(realm: Realm) -> None:
    """Each step mends what the one before found wrong; everything after it is still wrong."""
    wrong_usage = [usage("key_agreement")]
    holder = await realm.issue(extensions=wrong_usage, to_days=-0.5)
    await realm.revoke(holder.serial, RevocationReason.SUPERSEDED, realm.now_ms - 10 * DAY_MS)
    strange = await realm.issue(
        extensions=wrong_usage, to_days=-0.5, record=False, issuer=authority("x", None, realm.now_ms)
    )
    revoked = await realm.issue(extensions=wrong_usage)
    await realm.revoke(revoked.serial, RevocationReason.SUPERSEDED, realm.now_ms - 10 * DAY_MS)
    cases = [
        (VerifyItem(b"junk", certificate=strange.certificate, data=MESSAGE), "malformed"),
        (by(strange, message=b"another"), "signature"),
        (by(strange), "chain"),
        (by(holder), "expired"),
        (by(revoked), "key_usage"),
    ]
    assert [(await judge(realm, item)).reason for item, _ in cases] == [reason for _, reason in cases]
    # All at once, and in a thread: the same.
    verdicts = await realm.service.verify([item for item, _ in cases])
    assert [verdict.reason for verdict in verdicts] == [reason for _, reason in cases]


async def test_a_bad_item_affects_no_other(realm: Realm) -> None:
    holder = await realm.issue()
    good = by(holder)
    bad = [
        VerifyItem(b"", certificate=holder.certificate, data=MESSAGE),
        VerifyItem(bytes(64), certificate=holder.certificate, data=MESSAGE),
        VerifyItem(b"\xff" * 64, certificate=holder.certificate, data=MESSAGE),
        VerifyItem(good.signature, certificate=bytes(70_000), data=MESSAGE),
        VerifyItem(good.signature, public_key=bytes(65), data=MESSAGE),
        VerifyItem(good.signature, public_key=b"", digest=bytes(32)),
    ]
    verdicts = await realm.service.verify([good, *[item for wrong in bad for item in (wrong, good)]])
    assert [verdict.valid for verdict in verdicts] == [True] + [False, True] * len(bad)
    assert [verdict.reason for verdict in verdicts[1::2]] == ["malformed", *["signature"] * 2, *["malformed"] * 3]


async def test_a_certificate_of_another_algorithm_is_malformed(realm: Realm) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "p256")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 5, to_datetime(0), to_datetime(realm.now_ms + DAY_MS))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    verdict = await judge(realm, VerifyItem(bytes(64), certificate=made, data=MESSAGE))
    assert verdict.reason == "malformed"
    assert "not an SM2 key" in (verdict.detail or "")


async def test_too_much_at_a_time_is_refused_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        realm = await make_realm(world, SigningSettings(max_verifying=10))
        item = by(await realm.issue())
        answers = await asyncio.gather(*(realm.service.verify([item] * 6) for _ in range(3)), return_exceptions=True)
        assert [isinstance(answer, Busy) for answer in answers] == [False, True, True]
        assert len(await realm.service.verify([item] * 10)) == 10


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(certificate=st.binary(max_size=600), signature=st.binary(max_size=80), key=st.binary(max_size=66))
def test_garbage_gets_a_reason_and_nothing_else(certificate: bytes, signature: bytes, key: bytes) -> None:
    finder = PathFinder(Hierarchy(()), Trust(), (), SignatureCache(8), VerificationSettings())
    items = [
        VerifyItem(signature, certificate=certificate, data=b""),
        VerifyItem(signature, public_key=key, digest=bytes(32)),
    ]
    cases = examine(items, finder, ParseCache(8), 0, 65_536)
    assert all(case.reason in ("malformed", "signature", "chain") for case in cases)


async def test_a_certificate_cut_grown_or_changed_anywhere_gets_a_reason(realm: Realm) -> None:
    holder = await realm.issue()
    whole, signature = holder.certificate, holder.key.sign(MESSAGE)
    candidates = [whole[:end] for end in range(0, len(whole), 7)]
    candidates += [whole + b"\0", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x84\xff\xff\xff\xff"]
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(1 + secrets.randbelow(4)):
            changed[secrets.randbelow(len(changed))] = secrets.randbelow(256)
        candidates.append(bytes(changed))
    items = [VerifyItem(signature, certificate=made, data=MESSAGE) for made in candidates if made != whole]
    assert not any(verdict.valid for verdict in await realm.service.verify(items))
