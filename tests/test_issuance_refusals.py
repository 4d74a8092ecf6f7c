"""Bad input: each gets its error naming the field, is on record, and leaves the store as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from core import oids
from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.x509 import Extension
from core.errors import Malformed, NotFound, QianyanError, Refused, TooLarge
from signer._native import sm2
from signer.issuance import gm_extensions
from signer.issuance.csr import parse_request
from tests.issuance_support import (
    Installation,
    Request,
    audit_rows,
    installation,
    raw_name,
    snapshot,
    subject_of,
)
from tests.judges import openssl

UTF8, PRINTABLE, T61 = 0x0C, 0x13, 0x14
CN, C = (oids.COMMON_NAME, oids.COUNTRY)
ORGANISATION_NAME = (oids.ORGANIZATION, UTF8, "签验".encode())


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path) as made:
        yield made


def flipped(request: bytes, at: int) -> bytes:
    changed = bytearray(request)
    changed[at] ^= 1
    return bytes(changed)


def off_curve() -> bytes:
    point = bytearray(sm2.PrivateKey.generate().public_key.to_bytes())
    point[-1] ^= 1
    return bytes(point)


def minus_g() -> bytes:
    """−G: its private key n−1 makes no signature, and a verifier that takes it accepts any s."""
    p = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
    x = "32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7"
    y = 0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0
    return bytes.fromhex("04" + x) + (p - y).to_bytes(32, "big")


def subject(*attributes: tuple[str, int, bytes]) -> bytes:
    return Request(raw_name(*attributes)).encode()


def rsa_spki() -> bytes:
    key = openssl.run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER")
    return openssl.run("pkey", "-inform", "DER", "-pubout", "-outform", "DER", stdin=key)


GOOD = Request().encode()
EXTENSION = Extension(oids.IDENTIFY_CODE, False, der.tlv(0x80, b"1"))
UNKNOWN_ATTRIBUTE = der.sequence(der.oid("1.2.3.4"), der.tlv(der.SET, der.null()))

MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "csr"),
    "garbage": (b"\x30\x03abc", "csr"),
    "cut": (GOOD[:-1], "csr"),
    "trailing": (GOOD + b"\0", "csr"),
    "pem garbage": (b"-----BEGIN CERTIFICATE REQUEST-----\n!!!\n-----END CERTIFICATE REQUEST-----\n", "csr"),
    "version 1": (Request(version=1).encode(), "csr"),
    "broken attributes": (Request(attributes=der.sequence(der.oid("1.2.840.113549.1.9.14"))).encode(), "csr"),
    "extension of wrong type": (
        Request(extensions=[Extension(oids.TAXATION_NUMBER, False, der.tlv(UTF8, b"1"))]).encode(),
        f"csr.extensions.{oids.TAXATION_NUMBER}",
    ),
    "extension cut": (
        Request(extensions=[Extension(oids.TAXATION_NUMBER, False, b"\x13\x05ab")]).encode(),
        f"csr.extensions.{oids.TAXATION_NUMBER}",
    ),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "signature": (flipped(GOOD, len(GOOD) - 1), "csr.signature"),
    "signed part": (flipped(GOOD, GOOD.index("粤".encode()) + 2), "csr.signature"),
    "empty user id": (Request(user_id=b"").encode(), "csr.signature"),
    "other algorithm": (Request(algorithm=der.sequence(der.oid("1.2.840.10045.4.3.2"))).encode(), "csr.signature"),
    "off curve": (Request(spki=codec.subject_public_key_info(off_curve())).encode(), "csr.public_key"),
    "minus G": (Request(spki=codec.subject_public_key_info(minus_g())).encode(), "csr.public_key"),
    "RSA": (Request(spki=rsa_spki()).encode(), "csr.public_key"),
    "CN of 65": (subject((C, PRINTABLE, b"CN"), ORGANISATION_NAME, (CN, UTF8, b"a" * 65)), "subject.CN"),
    "CN of 65 Chinese": (subject(ORGANISATION_NAME, (CN, UTF8, "签".encode() * 65)), "subject.CN"),
    "CN as T61String": (subject(ORGANISATION_NAME, (CN, T61, b"abc")), "subject.CN"),
    "CN empty": (subject(ORGANISATION_NAME, (CN, UTF8, b"")), "subject.CN"),
    "CN with a control character": (subject(ORGANISATION_NAME, (CN, UTF8, b"a\x07b")), "subject.CN"),
    "CN twice": (subject(ORGANISATION_NAME, (CN, UTF8, b"a"), (CN, UTF8, b"b")), "subject.CN"),
    "no CN": (subject(ORGANISATION_NAME), "subject.CN"),
    "no O": (subject((CN, UTF8, b"a")), "subject.O"),
    "C in lower case": (subject((C, PRINTABLE, b"cn"), ORGANISATION_NAME, (CN, UTF8, b"a")), "subject.C"),
    "another country": (subject((C, PRINTABLE, b"US"), ORGANISATION_NAME, (CN, UTF8, b"a")), "subject.C"),
    "unknown field": (
        subject(ORGANISATION_NAME, ("1.2.840.113549.1.9.1", 0x16, b"a@b.cn")),
        "subject.1.2.840.113549.1.9.1",
    ),
    "empty subject": (subject(), "subject.CN"),
    "extension not allowed": (Request(extensions=[EXTENSION]).encode(), f"csr.extensions.{oids.IDENTIFY_CODE}"),
    "asks to be an authority": (
        Request(extensions=[Extension.of(x509.BasicConstraints(True, None), critical=True)]).encode(),
        "csr.extensions.2.5.29.19",
    ),
    "alternative name not allowed": (
        Request(extensions=[Extension.of(x509.SubjectAlternativeName([x509.DNSName("a.cn")]))]).encode(),
        "csr.extensions.2.5.29.17",
    ),
    "value too long": (
        Request(extensions=[Extension(oids.TAXATION_NUMBER, False, der.tlv(PRINTABLE, b"1" * 65))]).encode(),
        f"csr.extensions.{oids.TAXATION_NUMBER}",
    ),
    "value not printable": (
        Request(extensions=[Extension(oids.TAXATION_NUMBER, False, der.tlv(PRINTABLE, b"a*b"))]).encode(),
        f"csr.extensions.{oids.TAXATION_NUMBER}",
    ),
    "unknown attribute": (Request(attributes=UNKNOWN_ATTRIBUTE).encode(), "csr.attributes.1.2.3.4"),
}


async def refused(world: Installation, csr: bytes, profile: str = "organisation") -> QianyanError:
    """The error, after seeing that nothing but the audit record has changed, and that it has."""
    before = await snapshot(world.database)
    with pytest.raises(QianyanError) as refusal:
        await world.issuer.issue(csr, profile, actor="token:ra-1", idempotency=("ra-1", "order-1"))
    assert await snapshot(world.database) == before
    assert world.signed == []
    action, subject_id, outcome, detail = (await audit_rows(world.database))[-1]
    assert (action, outcome, detail) == ("certificate.refuse", refusal.value.code, "{}")
    assert subject_id.startswith("csr:")
    assert "\n" not in refusal.value.detail
    return refusal.value


@pytest.mark.parametrize("name", sorted(MALFORMED))
async def test_malformed(world: Installation, name: str) -> None:
    csr, field = MALFORMED[name]
    error = await refused(world, csr)
    assert isinstance(error, Malformed)
    assert (error.field or "").startswith(field)


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_refused(world: Installation, name: str) -> None:
    csr, field = REFUSED[name]
    error = await refused(world, csr)
    assert isinstance(error, Refused)
    assert error.field == field


async def test_unknown_profile(world: Installation) -> None:
    error = await refused(world, GOOD, "no-such-profile")
    assert (type(error), error.code, error.field) == (Refused, "profile_unknown", "profile")


async def test_too_large(world: Installation) -> None:
    error = await refused(world, GOOD + bytes(64 * 1024))
    assert isinstance(error, TooLarge)


async def test_unknown_authority(world: Installation) -> None:
    before = await snapshot(world.database)
    with pytest.raises(NotFound):
        await world.issuer.issue(GOOD, "organisation", actor="token:ra-1", authority_id="other")
    assert await snapshot(world.database) == before


@pytest.mark.parametrize("key_id", ["root", "issuing", "ocsp-issuing"])
async def test_an_authoritys_own_key_is_refused(world: Installation, key_id: str) -> None:
    error = await refused(world, Request(key=world.keystore.load(key_id)).encode())
    assert (error.code, error.field) == ("key_reused", "csr.public_key")


async def test_a_host_name_that_is_none(world: Installation) -> None:
    for name in ("a..cn", "-a.cn", "a_b.cn", "a" * 64 + ".cn"):
        wanted = Extension.of(x509.SubjectAlternativeName([x509.DNSName(name)]))
        request = Request(subject_of({"C": "CN", "CN": "x"}), extensions=[wanted])
        error = await refused(world, request.encode(), "server")
        assert error.field == "csr.extensions.2.5.29.17"


async def test_parameters_absent_or_null_are_both_read(world: Installation) -> None:
    null = der.sequence(der.oid(oids.SM3_WITH_SM2), der.null())
    issued = await world.issuer.issue(Request(algorithm=null).encode(), "organisation", actor="token:ra-1")
    assert len(issued.certificates) == 2


async def test_a_challenge_password_and_a_key_identifier_are_passed_over(world: Installation) -> None:
    password = der.sequence(der.oid("1.2.840.113549.1.9.7"), der.tlv(der.SET, der.tlv(PRINTABLE, b"secret")))
    wanted = [Extension.of(x509.SubjectKeyIdentifier(bytes(20)))]
    issued = await world.issuer.issue(
        Request(attributes=password, extensions=wanted).encode(), "organisation", actor="token:ra-1"
    )
    assert b"secret" not in issued.certificates[0].der
    assert bytes(20) not in issued.certificates[0].der


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_request_parses_or_is_refused(data: st.DataObject) -> None:
    """Any change of a good request ends in our own errors, nothing else."""
    csr = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(csr) - 1))
        csr[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        assert parse_request(bytes(csr)).public_key[0] == 4
    except (Malformed, Refused):
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([oids.IDENTIFY_CODE, oids.TAXATION_NUMBER]))
def test_garbage_in_extensions(value: bytes, dotted: str) -> None:
    for contents in (value, der.tlv(PRINTABLE, value), der.tlv(0xA1, der.tlv(UTF8, value)), der.tlv(0x81, value)):
        try:
            written = gm_extensions.normalise(dotted, contents, "field")
        except (Malformed, Refused):
            continue
        assert gm_extensions.normalise(dotted, written, "field") == written


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_garbage(data: bytes) -> None:
    with pytest.raises((Malformed, Refused)):
        parse_request(data)
