"""The structures of messages: strictness, bounds, other people's forms, and bytes that are none."""

from __future__ import annotations

import contextlib
import secrets

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from core import oids
from core.asn1 import der
from core.asn1.x509 import key_identifier
from core.errors import Malformed, QianyanError, Refused, TooLarge
from signer._native import sm2, sm3
from signer.signing import cms, cms_enveloped
from signer.signing.cms import IssuerAndSerial, SignedData, SignerInfo, parse_signed_data
from signer.signing.cms_enveloped import envelope, parse_enveloped_data, parse_signed_and_enveloped_data
from tests.cms_site import scalar
from tests.judges.bouncycastle import BouncyCastle
from tests.signing_world import Office, authority, certificate, usage

CONTENT = b"content"
NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
ROOT: Office = authority("root", None, NOW_MS)
KEY = sm2.PrivateKey.generate()
CERTIFICATE = certificate(
    7, ROOT, "holder", KEY.public_key.to_bytes(), [usage("key_encipherment")], NOW_MS, NOW_MS + DAY_MS, ROOT.key
)
IDENTIFIER = IssuerAndSerial(ROOT.name, 7)


def signature(message: bytes) -> bytes:
    return sm2.signature_to_der(KEY.sign(message))


def message(**change: object) -> bytes:
    """A SignedData put together piece by piece, so that each piece can be another."""
    parts = {
        "type": der.oid(oids.GM_SIGNED_DATA),
        "version": der.integer(1),
        "digests": der.tlv(der.SET, der.sequence(der.oid(oids.SM3), der.null())),
        "inner": der.sequence(der.oid(oids.GM_DATA), der.tlv(der.context(0), der.octet_string(CONTENT))),
        "certificates": der.tlv(der.context(0), CERTIFICATE),
        "crls": b"",
        "signers": der.tlv(der.SET, info()),
        "after": b"",
        **change,
    }
    body = [parts[name] for name in ("version", "digests", "inner", "certificates", "crls", "signers", "after")]
    content: bytes = der.tlv(der.context(0), der.sequence(*body))  # type: ignore[arg-type]
    return der.sequence(parts["type"], content)  # type: ignore[arg-type]


def info(**change: object) -> bytes:
    parts = {
        "version": der.integer(1),
        "identifier": IDENTIFIER.encode(),
        "digest": der.sequence(der.oid(oids.SM3)),
        "attributes": b"",
        "algorithm": der.sequence(der.oid(oids.SM2_SIGN)),
        "signature": der.octet_string(signature(CONTENT)),
        "unsigned": b"",
        **change,
    }
    return der.sequence(*parts.values())  # type: ignore[arg-type]


def attribute(kind: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(kind), der.tlv(der.SET, *values))


TYPE = attribute(oids.CONTENT_TYPE, der.oid(oids.GM_DATA))
DIGEST = attribute(oids.MESSAGE_DIGEST, der.octet_string(bytes(32)))
TIME = attribute(oids.SIGNING_TIME, der.tlv(der.UTC_TIME, b"261120000000Z"))


def with_attributes(*encoded: bytes) -> bytes:
    return message(signers=der.tlv(der.SET, info(attributes=der.tlv(der.context(0), *encoded))))


def test_what_is_written_is_read() -> None:
    signer = SignerInfo(IDENTIFIER, signature(CONTENT))
    whole = SignedData(CONTENT, (signer,), (CERTIFICATE,), (ROOT.certificate,))
    assert parse_signed_data(whole.encode()) == whole
    bare = SignedData(None, (signer,))
    assert parse_signed_data(bare.encode()) == bare
    digest = attribute(oids.MESSAGE_DIGEST, der.octet_string(sm3.sm3(CONTENT)))
    attributes = b"".join(sorted([TYPE, TIME, digest]))
    signed = SignerInfo(IDENTIFIER, signature(der.tlv(der.SET, attributes)), attributes)
    (read,) = parse_signed_data(SignedData(CONTENT, (signed,)).encode()).signers
    KEY.public_key.verify(read.to_be_signed(CONTENT), sm2.signature_from_der(read.signature))
    with pytest.raises(Refused) as caught:
        read.to_be_signed(b"other")
    assert caught.value.code == "cms_digest"


@pytest.mark.parametrize(
    "accepted",
    [
        message(),
        message(type=der.oid(oids.PKCS7_SIGNED_DATA)),
        message(version=der.integer(3)),
        message(certificates=b""),
        message(crls=der.tlv(der.context(1), ROOT.certificate)),
        message(digests=der.tlv(der.SET)),
        message(signers=der.tlv(der.SET)),
        message(inner=der.sequence(der.oid(oids.PKCS7_DATA))),
        message(signers=der.tlv(der.SET, info(algorithm=der.sequence(der.oid(oids.SM3_WITH_SM2), der.null())))),
        message(signers=der.tlv(der.SET, info(algorithm=der.sequence(der.oid(oids.SM2_CURVE))))),
        message(signers=der.tlv(der.SET, info(unsigned=der.tlv(der.context(1), TIME, DIGEST)))),
        with_attributes(*sorted([TYPE, DIGEST, TIME])),
        with_attributes(*sorted([DIGEST, attribute(oids.CONTENT_TYPE, der.oid(oids.PKCS7_DATA))])),
    ],
)  # fmt: skip
def test_forms_that_are_read(accepted: bytes) -> None:
    parse_signed_data(accepted)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (message(type=der.oid(oids.GM_ENVELOPED_DATA)), "cms_type"),
        (message(version=der.integer(2)), "cms_version"),
        (message(digests=der.tlv(der.SET, der.sequence(der.oid(oids.SHA256)))), "cms_algorithm"),
        (message(digests=der.tlv(der.SET, der.sequence(der.oid(oids.SM3), der.integer(0)))), "cms_algorithm"),
        (message(digests=der.tlv(der.SET, der.sequence(der.oid(oids.SM3), b"\x05\x01\x00"))), "der"),
        (message(digests=der.tlv(der.SET, *[der.sequence(der.oid(oids.SM3))] * 17)), "cms_digests"),
        (message(inner=der.sequence(der.oid(oids.GM_DATA), der.tlv(der.context(0), der.integer(1)))), "der"),
        (message(certificates=der.tlv(der.context(0), der.octet_string(b""))), "der"),
        (message(certificates=der.tlv(der.context(0), *[CERTIFICATE] * 65)), "cms_set_size"),
        (message(crls=der.tlv(der.context(1), *[CERTIFICATE] * 17)), "cms_set_size"),
        (message(signers=der.tlv(der.SET, *[info()] * 33)), "cms_signers"),
        (message(after=der.null()), "der"),
        (message() + b"\0", "der"),
        (message(signers=der.tlv(der.SET, info(version=der.integer(3)))), "cms_version"),
        (message(signers=der.tlv(der.SET, info(identifier=der.tlv(0x80, bytes(20))))), "cms_identifier"),
        (message(signers=der.tlv(der.SET, info(digest=der.sequence(der.oid(oids.SHA1))))), "cms_algorithm"),
        (message(signers=der.tlv(der.SET, info(algorithm=der.sequence(der.oid(oids.SM4))))), "cms_algorithm"),
        (message(signers=der.tlv(der.SET, info(signature=der.octet_string(bytes(64))))), "cms_signature"),
        (message(signers=der.tlv(der.SET, info(unsigned=der.tlv(der.context(1))))), "cms_attributes"),
        (with_attributes(), "cms_attributes"),
        (with_attributes(TYPE), "cms_attributes"),
        (with_attributes(DIGEST), "cms_attributes"),
        (with_attributes(*sorted([TYPE, DIGEST], reverse=True)), "cms_attributes"),
        (with_attributes(*sorted([TYPE, DIGEST, attribute(oids.MESSAGE_DIGEST, der.octet_string(b"x" * 32))])),
         "cms_attributes"),
        (with_attributes(*sorted([DIGEST, attribute(oids.CONTENT_TYPE, der.oid(oids.GM_SIGNED_DATA))])),
         "cms_content_type"),
        (with_attributes(*sorted([TYPE, attribute(oids.MESSAGE_DIGEST, *[der.octet_string(bytes(32))] * 2)])), "der"),
        (with_attributes(*sorted([TYPE, DIGEST, *[attribute(f"1.2.3.{n}", der.null()) for n in range(40)]])),
         "cms_attributes"),
        (b"\x30\x80" + message()[4:] + b"\0\0", "der"),
    ],
)  # fmt: skip
def test_forms_that_are_not(wrong: bytes, code: str) -> None:
    with pytest.raises(QianyanError) as caught:
        parse_signed_data(wrong)
    assert isinstance(caught.value, (Malformed, Refused, TooLarge))
    assert caught.value.code == code


PARSERS = [parse_signed_data, parse_enveloped_data, parse_signed_and_enveloped_data]


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    for parser in PARSERS:
        with pytest.raises((Malformed, Refused, TooLarge)):
            parser(data)


ENVELOPE = envelope([CERTIFICATE], CONTENT)


@settings(max_examples=600, deadline=None)
@given(
    whole=st.sampled_from([message(), with_attributes(*sorted([TYPE, DIGEST, TIME])), ENVELOPE]),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 1 << 16) | st.none(),
)
def test_a_message_changed_anywhere_is_read_or_refused_by_name(
    whole: bytes, edits: list[tuple[int, int]], cut: int | None
) -> None:
    changed = bytearray(whole)
    for place, value in edits:
        changed[place % len(changed)] = value
    if cut is not None:
        del changed[cut % len(changed) :]
    for parser in PARSERS:
        with contextlib.suppress(Malformed, Refused, TooLarge):
            parser(bytes(changed))


def test_ten_megabytes_are_read_or_refused_in_no_time() -> None:
    big = SignedData(bytes(10_000_000), (SignerInfo(IDENTIFIER, signature(b"")),)).encode()
    assert len(parse_signed_data(big).content or b"") == 10_000_000
    many = der.tlv(der.SET, *[der.sequence(der.oid(oids.SM3))] * 500_000)
    with pytest.raises(TooLarge):
        parse_signed_data(message(digests=many))


# ---- envelopes


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70_000])
def test_an_envelope_opens_for_each_of_its_recipients(size: int, bouncycastle: BouncyCastle) -> None:
    other = sm2.PrivateKey.generate()
    second = certificate(
        8, ROOT, "second", other.public_key.to_bytes(), [usage("key_encipherment")], NOW_MS, NOW_MS + DAY_MS, ROOT.key
    )
    content = secrets.token_bytes(size)
    sealed = envelope([CERTIFICATE, second], content)
    parsed = parse_enveloped_data(sealed)
    for holder, key in ((CERTIFICATE, KEY), (second, other)):
        assert parsed.open(holder, key) == content
        assert bouncycastle.open_cms(sealed, holder, scalar(key)) == content


@pytest.mark.parametrize("cipher", [oids.SM4_CBC, oids.SM4])
def test_what_bouncycastle_envelopes_opens(bouncycastle: BouncyCastle, cipher: str) -> None:
    sealed = bouncycastle.make_envelope(CONTENT, [CERTIFICATE], cipher=cipher)
    assert parse_enveloped_data(sealed).open(CERTIFICATE, KEY) == CONTENT


def test_whatever_is_wrong_with_an_envelope_opening_says_the_same() -> None:
    sealed = envelope([CERTIFICATE], CONTENT)
    start = sealed.index(parse_enveloped_data(sealed).recipients[0].encrypted_key)
    details = set()
    for place in [*range(start + 4, start + 110, 7)]:
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((Refused, Malformed)) as caught:
            parse_enveloped_data(bytes(changed)).open(CERTIFICATE, KEY)
        details.add(caught.value.detail)
    with pytest.raises(Refused) as caught:
        parse_enveloped_data(sealed[:-16] + bytes(16)).open(CERTIFICATE, KEY)
    details.add(caught.value.detail)
    with pytest.raises(Refused) as caught:
        parse_enveloped_data(sealed).open(CERTIFICATE, sm2.PrivateKey.generate())
    assert details | {caught.value.detail} == {"the message cannot be opened"}
    with pytest.raises(Refused) as caught:
        parse_enveloped_data(sealed).open(ROOT.certificate, ROOT.key)
    assert caught.value.code == "cms_recipient"


def sealed_parts(**change: bytes) -> bytes:
    key_under_sm2 = KEY.public_key.encrypt(bytes(16))
    parts = {
        "version": der.integer(1),
        "identifier": IDENTIFIER.encode(),
        "key_algorithm": der.sequence(der.oid(oids.SM2_ENCRYPT)),
        "key": der.octet_string(key_under_sm2),
        "cipher": der.sequence(der.oid(oids.SM4_CBC), der.octet_string(bytes(16))),
        "content": der.tlv(0x80, bytes(16)),
        "shared": b"",
        **change,
    }
    recipient = der.sequence(der.integer(1), parts["identifier"], parts["key_algorithm"], parts["key"])
    recipients = change.get("recipients", der.tlv(der.SET, recipient))
    inner = der.sequence(der.oid(oids.GM_DATA), parts["cipher"], parts["content"], parts["shared"])
    return cms.content_info(oids.GM_ENVELOPED_DATA, der.sequence(parts["version"], recipients, inner))


@pytest.mark.parametrize("key_algorithm", [oids.SM2_ENCRYPT, oids.SM2_EXCHANGE, oids.SM2_CURVE])
def test_key_encryption_by_other_names(key_algorithm: str) -> None:
    parse_enveloped_data(sealed_parts(key_algorithm=der.sequence(der.oid(key_algorithm), der.null())))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (sealed_parts(version=der.integer(3)), "cms_version"),
        (sealed_parts(recipients=der.tlv(der.SET)), "cms_recipients"),
        (sealed_parts(identifier=der.tlv(0x80, bytes(20))), "cms_identifier"),
        (sealed_parts(key_algorithm=der.sequence(der.oid(oids.SM2_SIGN))), "cms_algorithm"),
        (sealed_parts(key=der.octet_string(bytes(600))), "cms_recipient"),
        (sealed_parts(cipher=der.sequence(der.oid(oids.SM4_ECB), der.null())), "cms_algorithm"),
        (sealed_parts(cipher=der.sequence(der.oid(oids.SM4_CBC), der.octet_string(bytes(12)))), "cms_content"),
        (sealed_parts(content=der.tlv(0x80, bytes(15))), "cms_content"),
        (sealed_parts(content=der.tlv(0x80)), "cms_content"),
        (sealed_parts(content=b""), "cms_no_content"),
        (sealed_parts(shared=der.tlv(0x81, b"x")), "cms_shared_info"),
    ],
)
def test_envelopes_that_are_none(wrong: bytes, code: str) -> None:
    with pytest.raises(QianyanError) as caught:
        parse_enveloped_data(wrong)
    assert caught.value.code == code


def recipient(version: int, identifier: bytes, encrypted_key: bytes) -> bytes:
    algorithm = der.sequence(der.oid(oids.SM2_ENCRYPT), der.null())
    info = der.sequence(der.integer(version), identifier, algorithm, der.octet_string(encrypted_key))
    return sealed_parts(recipients=der.tlv(der.SET, info), version=der.integer(version), content=der.tlv(0x80, SEALED))


#: Sixteen octets of padding under the key of sixteen zeros and a zero initial vector: nothing, sealed.
_CIPHER = Cipher(algorithms.SM4(bytes(16)), modes.CBC(bytes(16))).encryptor()
SEALED = _CIPHER.update(b"\x10" * 16) + _CIPHER.finalize()


@pytest.mark.parametrize("form", ["der", "c1c3c2", "c1c2c3"])
@pytest.mark.parametrize("lead", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_ciphertexts_of_the_content_key_in_every_order(version: int, lead: bool, form: str) -> None:
    key = KEY.public_key.encrypt(bytes(16), encoding="der" if form == "der" else "c1c3c2")
    if form == "c1c2c3":
        key = key[:65] + key[97:] + key[65:97]
    if form != "der" and not lead:
        key = key[1:]
    parsed = parse_enveloped_data(recipient(version, IDENTIFIER.encode(), key))
    assert parsed.open(CERTIFICATE, KEY) == b""
    with pytest.raises(Refused):
        parsed.open(CERTIFICATE, sm2.PrivateKey.generate())


def test_a_recipient_named_by_its_key() -> None:
    """As some write it: version 2, and the subject key identifier of the certificate."""
    found = key_identifier(ROOT.key.public_key.to_bytes())
    key = ROOT.key.public_key.encrypt(bytes(16))
    parsed = parse_enveloped_data(recipient(2, der.tlv(0x80, found), key))
    assert parsed.open(ROOT.certificate, ROOT.key) == b""
    for other in (CERTIFICATE, certificate(9, ROOT, "x", KEY.public_key.to_bytes(), [], NOW_MS, NOW_MS, ROOT.key)):
        with pytest.raises(Refused) as caught:
            parsed.open(other, KEY)
        assert caught.value.code == "cms_recipient"


def test_bounds_on_recipients() -> None:
    with pytest.raises(TooLarge):
        envelope([], CONTENT)
    with pytest.raises(TooLarge):
        envelope([CERTIFICATE] * (cms_enveloped.MAX_RECIPIENTS + 1), CONTENT)


def test_a_message_both_signed_and_enveloped_is_read() -> None:
    """As key-management parts send it: built here from the pieces of the other two."""
    sealed = der.Reader(envelope([CERTIFICATE], CONTENT)).enter(der.SEQUENCE)
    sealed.take_tlv()
    body = sealed.enter(der.context(0)).enter(der.SEQUENCE)
    version, recipients, content = (body.take_tlv() for _ in range(3))
    both = cms.content_info(
        oids.GM_SIGNED_AND_ENVELOPED_DATA,
        der.sequence(
            version,
            recipients,
            der.tlv(der.SET, der.sequence(der.oid(oids.SM3))),
            content,
            der.tlv(der.context(0), CERTIFICATE),
            der.tlv(der.SET, info()),
        ),
    )
    parsed = parse_signed_and_enveloped_data(both)
    opened = bytes(parsed.enveloped.open(CERTIFICATE, KEY))
    assert opened == CONTENT
    (signer,) = parsed.signed.signers
    KEY.public_key.verify(signer.to_be_signed(opened), sm2.signature_from_der(signer.signature))
    assert parsed.signed.certificates == (CERTIFICATE,)
