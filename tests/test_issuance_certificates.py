"""Certificates: every shipped profile, read by judges; names, pairs, enveloped keys, status indexes, serials."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from core import oids
from core.asn1 import der, distribution
from core.asn1.x509 import Extension
from core.errors import Conflict, Refused, Unavailable
from core.model import KeyState
from core.store import certificates, keys, schema
from signer.issuance.issued import Issued
from signer.issuance.profiles import load_profiles
from tests.issuance_support import (
    ORGANISATION,
    PUBLIC_URL,
    STATUS_OID,
    Request,
    audit_rows,
    extension_values,
    installation,
    lint_complaints,
    now_utc,
    snapshot,
    subject_of,
)
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle

PERSON = {"C": "CN", "CN": "张三丰", "SERIALNUMBER": "P-0001"}
IMPLICIT_ID = der.tlv(0x80, b"11010519491231002X")
EXPLICIT_ID = der.tlv(0xA0, der.tlv(0x13, b"11010519491231002X"))


def printable(text: str) -> bytes:
    return der.tlv(0x13, text.encode())


REQUESTS: dict[str, Request] = {
    "organisation": Request(
        extensions=[
            Extension(oids.ORGANIZATION_CODE, False, printable("91440000MA0000000X")),
            Extension(oids.IC_REGISTRATION_NUMBER, False, printable("440000000000001")),
            Extension(oids.TAXATION_NUMBER, False, printable("440300000000000")),
        ]
    ),
    "person": Request(subject_of(PERSON), extensions=[Extension(oids.IDENTIFY_CODE, False, EXPLICIT_ID)]),
    "person-sign": Request(subject_of(PERSON), extensions=[Extension(oids.INSURANCE_NUMBER, False, printable("1"))]),
    "device": Request(subject_of({"C": "CN", "O": "签验", "CN": "网关 01"})),
    "ra-person": Request(subject_of(PERSON)),
    "server": Request(
        subject_of({"C": "CN", "CN": "sign.example.cn"}),
        extensions=[Extension.of(x509.SubjectAlternativeName([x509.DNSName("sign.example.cn")]))],
    ),
}


def test_every_shipped_profile_has_a_request_here() -> None:
    assert set(load_profiles().profiles) == set(REQUESTS)


@pytest.mark.parametrize("profile", sorted(REQUESTS))
async def test_profiles(tmp_path: Path, bouncycastle: BouncyCastle, profile: str) -> None:
    request = REQUESTS[profile]
    async with installation(tmp_path) as world:
        issued = await world.issuer.issue(request.encode(), profile, actor="cli:test")
    rules = load_profiles().get(profile)
    issuing, root = issued.chain
    assert [c.usage for c in issued.certificates] == (["sign", "encrypt"] if rules.dual else ["sign"])
    for certificate in issued.certificates:
        view = bouncycastle.verify_certificate(certificate.der, issuing)
        openssl.verify_certificate(certificate.der, issuing)
        bouncycastle.validate_path(root, [certificate.der, issuing], at=now_utc())
        complaints = lint_complaints(certificate.der)
        if certificate.usage == "encrypt":  # RFC 5480 §3 speaks of ECDH keys; GM/T 0015 has these bits for SM2
            complaints = [c for c in complaints if "pkix.key_usage_value_prohibited_for_ec" not in c]
        assert complaints == []
        assert view.serial == certificate.serial
        assert 0 < certificate.serial.bit_length() - 120 < 8
        assert view.critical == ["2.5.29.15"]
        assert not view.is_ca
        partition = certificate.serial % 4
        url = distribution.crl_url(PUBLIC_URL, "issuing", partition)
        assert view.crl_uris == [url]
        assert distribution.distribution_point_name(url) in certificate.der
        assert timedelta(days=364) < view.not_after - now_utc() < timedelta(days=365)
        assert view.not_before <= now_utc()
    usages = [bouncycastle.read_certificate(c.der).key_usage for c in issued.certificates]
    named = {"digital_signature": "digitalSignature", "content_commitment": "nonRepudiation"}
    assert {u.replace("contentCommitment", "nonRepudiation") for u in usages[0]} == {
        named[usage] for usage in rules.sign_key_usage
    }
    if rules.dual:
        assert usages[1] == {"keyEncipherment", "dataEncipherment", "keyAgreement"}


async def test_what_a_certificate_says(tmp_path: Path) -> None:
    request = Request(extensions=REQUESTS["organisation"].extensions)
    async with installation(tmp_path) as world:
        issued = await world.issuer.issue(request.encode(), "organisation", actor="cli:test")
    sign, encrypt = (c.der for c in issued.certificates)
    parsed = x509.load_der_x509_certificate(sign)
    for attribute in parsed.subject:
        wanted = "PrintableString" if attribute.oid.dotted_string == oids.COUNTRY else "UTF8String"
        assert attribute._type.name == wanted
    assert {a.rfc4514_attribute_name: a.value for a in parsed.subject} == ORGANISATION
    values = extension_values(sign)
    assert values[oids.ORGANIZATION_CODE] == (False, printable("91440000MA0000000X"))
    assert oids.ORGANIZATION_CODE in extension_values(encrypt)
    assert "2.5.29.19" not in values
    access = parsed.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [a.access_location.value for a in access] == [f"{PUBLIC_URL}/ocsp", f"{PUBLIC_URL}/ca/issuing.cer"]
    at = parsed.not_valid_after_utc
    for place, encoded in enumerate((sign, encrypt)):
        critical, value = extension_values(encoded)[STATUS_OID]
        body = der.Reader(value).enter(der.SEQUENCE)
        # The OCSP signer ends in the same month or a neighbour; the first index is 0 or comes after it.
        month, index = body.integer(), body.integer()
        assert not critical
        assert month == at.year * 12 + at.month - 1
        assert index - place in (0, 1)


async def test_the_longest_names(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    """64 characters, 192 octets of UTF-8: bounds count characters (RFC 5280 Appendix A.1)."""
    name = "签" * 64
    async with installation(tmp_path) as world:
        request = Request(subject_of({"C": "CN", "O": name, "CN": name}))
        issued = await world.issuer.issue(request.encode(), "organisation", actor="cli:test")
    view = bouncycastle.verify_certificate(issued.certificates[0].der, issued.chain[0])
    assert view.subject.count("签") == 128


async def test_identify_code_has_one_encoding(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        for asked in (IMPLICIT_ID, EXPLICIT_ID):
            request = Request(subject_of(PERSON), extensions=[Extension(oids.IDENTIFY_CODE, False, asked)])
            issued = await world.issuer.issue(request.encode(), "person-sign", actor="cli:test")
            assert extension_values(issued.certificates[0].der)[oids.IDENTIFY_CODE] == (False, IMPLICIT_ID)


async def test_the_enveloped_key_opens(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    request = Request()
    private = bytearray(32)
    request.key.export_into(private)
    async with installation(tmp_path) as world:
        issued = await world.issuer.issue(request.encode(), "organisation", actor="cli:test")
        assert issued.enveloped_key is not None
        opened = bouncycastle.open_enveloped_key(bytes(private), issued.enveloped_key)
        view = bouncycastle.read_certificate(issued.certificates[1].der)
        assert opened.public == view.public
        async with world.database.read() as connection:
            sign = await certificates.find(connection, issued.certificates[0].serial)
            encrypt = await certificates.find(connection, issued.certificates[1].serial)
            escrowed = (await connection.execute(schema.escrowed_keys.select())).one()
        assert (sign.pair_id, encrypt.pair_id) == (encrypt.id, sign.id)
        assert escrowed.certificate_id == encrypt.id
        recovered = world.keystore.unwrap(escrowed.wrapped_key)
        again = bytearray(32)
        recovered.export_into(again)
        assert bytes(again) == opened.private
        assert opened.private not in escrowed.wrapped_key


async def test_requests_of_others(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    """BouncyCastle's and OpenSSL's requests are read; PEM is."""
    foreign = bouncycastle.make_csr("C=CN,O=粤港,CN=粤港")
    made = openssl.make_csr(openssl.make_key(), "/C=CN/O=粤港/CN=粤港")
    async with installation(tmp_path) as world:
        for csr in (foreign.der, made, openssl.pem("CERTIFICATE REQUEST", made)):
            issued = await world.issuer.issue(csr, "organisation", actor="cli:test")
            parsed = x509.load_der_x509_certificate(issued.certificates[0].der)
            assert [a.value for a in parsed.subject] == ["CN", "粤港", "粤港"]
            bouncycastle.verify_certificate(issued.certificates[0].der, issued.chain[0])


async def test_the_record_of_an_issuance(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        before = await snapshot(world.database)
        issued = await world.issuer.issue(Request().encode(), "organisation", actor="token:ra-1")
        after = await snapshot(world.database)
        assert world.signed == ["issuing", "issuing"]
        rows = await audit_rows(world.database)
    grown = {name for name in before if isinstance(before[name], int) and after[name] != before[name]}
    recorded = {"certificates", "feed", "outbox", "escrowed_keys", "status_indexes", "certificate_events"}
    recorded |= {"certificate_serials", "statistics_segments", "statistics_counts"}
    assert grown <= recorded | {"crl_points"}
    assert after["certificates"] == before["certificates"] + 2  # type: ignore[operator]
    assert after["feed"] == before["feed"] + 2  # type: ignore[operator]
    assert after["outbox"] == before["outbox"] + 2  # type: ignore[operator]
    action, subject, outcome, detail = rows[-1]
    assert (action, outcome) == ("certificate.issue", "ok")
    assert subject == f"issuing/{issued.certificates[0].serial:032x}"
    assert '"medium":"usb-key"' in detail
    assert "粤港" not in detail


async def test_status_indexes_are_dense_and_never_reused(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        await asyncio.gather(
            *(world.issuer.issue(Request().encode(), "organisation", actor="cli:test") for _ in range(5))
        )
        c = schema.certificates.c
        async with world.database.read() as connection:
            rows = (await connection.execute(schema.certificates.select().where(c.authority_id == "issuing"))).all()
        by_month: dict[int, list[int]] = {}
        for row in rows:
            by_month.setdefault(row.status_month, []).append(row.status_index)
            body = der.Reader(extension_values(row.certificate)[STATUS_OID][1]).enter(der.SEQUENCE)
            assert (body.integer(), body.integer()) == (row.status_month, row.status_index)
        assert sum(len(indexes) for indexes in by_month.values()) == 11
        for indexes in by_month.values():
            assert sorted(indexes) == list(range(len(indexes)))
        assert len({row.serial for row in rows}) == 11


async def test_a_repeating_generator_gives_no_second_certificate(tmp_path: Path) -> None:
    draws: Iterator[bytes] = iter([bytes([0x80]) + bytes(15), bytes([5]) * 16] + [bytes([5]) * 16] * 8)
    async with installation(tmp_path, entropy=lambda n: next(draws)) as world:
        issued = await world.issuer.issue(REQUESTS["person-sign"].encode(), "person-sign", actor="cli:test")
        assert issued.certificates[0].serial == int.from_bytes(bytes([5]) * 16, "big")
        before = await snapshot(world.database)
        with pytest.raises(Unavailable) as refusal:
            await world.issuer.issue(REQUESTS["person-sign"].encode(), "person-sign", actor="cli:test")
        assert refusal.value.code == "entropy"
        after = await snapshot(world.database)
    before.pop("counter values")
    after.pop("counter values")
    assert after == before


async def test_a_retry_gets_the_same_answer(tmp_path: Path) -> None:
    csr = Request().encode()
    async with installation(tmp_path) as world:
        key = ("ra-1", "order-1")
        first = await world.issuer.issue(csr, "organisation", actor="token:ra-1", idempotency=key)
        before = await snapshot(world.database)
        again = await world.issuer.issue(csr, "organisation", actor="token:ra-1", idempotency=key)
        assert again == first
        assert await snapshot(world.database) == before
        with pytest.raises(Conflict) as refusal:
            await world.issuer.issue(Request().encode(), "organisation", actor="token:ra-1", idempotency=key)
        assert refusal.value.code == "idempotency_key"
        other = await world.issuer.issue(csr, "organisation", actor="token:ra-2", idempotency=("ra-2", "order-1"))
        assert other.certificates[0].serial != first.certificates[0].serial


async def test_identical_requests_that_race_get_one_pair(tmp_path: Path) -> None:
    csr = Request().encode()
    async with installation(tmp_path) as world:
        answers: list[Issued] = await asyncio.gather(
            *(
                world.issuer.issue(csr, "organisation", actor="token:ra-1", idempotency=("ra-1", "order-1"))
                for _ in range(6)
            )
        )
        assert all(answer == answers[0] for answer in answers)
        async with world.database.read() as connection:
            assert await certificates.count(connection) == 3 + 2


async def test_a_clock_behind_signs_nothing(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        before = await snapshot(world.database)
        world.clock.offset_ms = -3_600_000
        with pytest.raises(Unavailable) as refusal:
            await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        assert refusal.value.code == "clock_behind"
        assert await snapshot(world.database) == before
        assert world.signed == []


async def test_a_certificate_does_not_outlive_its_issuer(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        world.clock.offset_ms = 3400 * 86_400_000
        before = await snapshot(world.database)
        with pytest.raises(Refused) as refusal:
            await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        assert refusal.value.code == "issuer_expires"
        assert await snapshot(world.database) == before


async def test_a_key_frozen_while_it_signs_gives_nothing(tmp_path: Path) -> None:
    """The state is looked at again in the transaction that records the certificates."""
    async with installation(tmp_path) as world:
        inner = world.signer_for("issuing")

        class FreezingAfterwards:
            key_id, public_key = inner.key_id, inner.public_key

            async def sign(self, message: bytes) -> bytes:
                signature = await inner.sign(message)
                async with world.database.write() as connection:
                    if (await keys.get(connection, "issuing")).state is KeyState.ACTIVE:
                        await keys.change_state(connection, "issuing", KeyState.FROZEN, at_ms=world.clock())
                return signature

        world.issuer._maker._signer_for = lambda _key_id: FreezingAfterwards()  # type: ignore[assignment,return-value]
        with pytest.raises(Refused) as refusal:
            await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        assert refusal.value.code == "key_frozen"
        async with world.database.read() as connection:
            assert await certificates.count(connection) == 3


async def test_a_signer_with_another_key_is_noticed(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        other = world.signer_for("root")
        world.issuer._maker._signer_for = lambda _key_id: other
        with pytest.raises(Exception, match="does not verify") as fault:
            await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        assert getattr(fault.value, "code", "") == "signature_fault"
        async with world.database.read() as connection:
            assert await certificates.count(connection) == 3
