"""The OCSP request parser: what it takes, what it refuses, and that nothing else happens."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from core import oids
from core.asn1 import der
from core.asn1.x509 import Extension
from core.errors import Malformed, TooLarge
from status.request import OcspRequest, parse_request, plain_request
from tests.status_world import HASH_OIDS, request

NAME_HASH, KEY_HASH = bytes(range(32)), bytes(range(32, 64))
PARTS = [der.sequence(der.oid(oids.SM3)), der.octet_string(NAME_HASH), der.octet_string(KEY_HASH)]
UNKNOWN_OID = "1.2.3.4.5"


def parse(encoded: bytes) -> OcspRequest:
    return parse_request(encoded, max_bytes=10_000, max_requests=32)


def cert_id(serial: int = 0x77, *, parameters: bytes = b"", algorithm: str = oids.SM3) -> bytes:
    hashed = der.octet_string(NAME_HASH), der.octet_string(KEY_HASH)
    return der.sequence(der.sequence(der.oid(algorithm), parameters), *hashed, der.integer(serial))


def extension(oid: str, value: bytes = b"\x05\x00", *, critical: bool = False) -> bytes:
    return Extension(oid, critical, value).encode()


def nonce_extension(value: bytes) -> bytes:
    return extension(oids.OCSP_NONCE, value)


def signature(tail: bytes = b"") -> bytes:
    body = der.sequence(der.sequence(der.oid(oids.SM3_WITH_SM2)), der.bit_string(b"sig"), tail)
    return der.tlv(der.context(0), body)


def signed(encoded: bytes, *signatures: bytes) -> bytes:
    tbs = der.Reader(encoded).enter(der.SEQUENCE).take_tlv()
    return der.sequence(tbs, *signatures)


@pytest.mark.parametrize("algorithm", HASH_OIDS.values(), ids=HASH_OIDS)
@pytest.mark.parametrize("parameters", [b"", der.null()], ids=["absent", "null"])
def test_a_cert_id_is_kept_as_it_came(algorithm: str, parameters: bytes) -> None:
    raw = cert_id(0x8000, parameters=parameters, algorithm=algorithm)
    asked = parse(request(raw))
    (one,) = asked.cert_ids
    assert (one.raw, one.serial, asked.nonce) == (raw, 0x8000, None)
    assert one.issuer in raw
    assert plain_request(one.raw) == request(raw)


def test_what_cryptography_writes_is_read() -> None:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(NAME_HASH, KEY_HASH, 0xABCDEF, hashes.SHA256())
    plain = builder.build().public_bytes(Encoding.DER)
    (one,) = parse(plain).cert_ids
    assert one.serial == 0xABCDEF
    assert plain_request(one.raw) == plain
    with_nonce = builder.add_extension(x509.OCSPNonce(b"n" * 32), critical=False).build()
    assert parse(with_nonce.public_bytes(Encoding.DER)).nonce == b"n" * 32


@pytest.mark.parametrize("length", [1, 16, 32, 128])
def test_a_nonce_of_allowed_length(length: int) -> None:
    assert parse(request(cert_id(), nonce=b"\xa5" * length)).nonce == b"\xa5" * length


OPTIONAL = {
    "version": request(cert_id(), before=der.tlv(der.context(0), der.integer(0))),
    "requestor name": request(cert_id(), before=der.tlv(der.context(1), der.tlv(0x82, b"example.cn"))),
    "unknown extension": request(cert_id(), extra=extension(UNKNOWN_OID)),
    "signature": signed(request(cert_id()), signature()),
    "signature with certificates": signed(request(cert_id()), signature(der.tlv(der.context(0), der.sequence()))),
    "single extension": der.sequence(
        der.sequence(
            der.sequence(der.sequence(cert_id(), der.tlv(der.context(0), der.sequence(extension(oids.OCSP_NONCE)))))
        )
    ),
}


@pytest.mark.parametrize("encoded", OPTIONAL.values(), ids=OPTIONAL)
def test_what_is_optional_is_tolerated(encoded: bytes) -> None:
    asked = parse(encoded)
    assert [one.serial for one in asked.cert_ids] == [0x77]
    assert asked.nonce is None


BAD = {
    "empty": b"",
    "trailing bytes": request(cert_id()) + b"\x00",
    "indefinite length": b"\x30\x80" + request(cert_id())[2:] + b"\x00\x00",
    "no requests": request(),
    "version 2": request(cert_id(), before=der.tlv(der.context(0), der.integer(1))),
    "two requestor names": request(cert_id(), before=der.tlv(der.context(1), der.null(), der.null())),
    "nonce of 0": request(cert_id(), nonce=b""),
    "nonce of 129": request(cert_id(), nonce=bytes(129)),
    "bare nonce": request(cert_id(), extra=nonce_extension(b"\xff" * 16)),
    "nonce and more": request(cert_id(), extra=nonce_extension(der.octet_string(b"12") + b"\x00")),
    "nonce twice": request(cert_id(), nonce=b"1", extra=nonce_extension(der.octet_string(b"2"))),
    "critical and unknown": request(cert_id(), extra=extension(UNKNOWN_OID, critical=True)),
    "criticality not DER": request(
        cert_id(),
        extra=der.sequence(der.oid(UNKNOWN_OID), b"\x01\x01\x01", der.octet_string(b"")),
    ),
    "no extensions": der.sequence(
        der.sequence(der.sequence(der.sequence(cert_id())), der.tlv(der.context(2), der.sequence()))
    ),
    "critical nonce in a single request": der.sequence(
        der.sequence(
            der.sequence(
                der.sequence(
                    cert_id(), der.tlv(der.context(0), der.sequence(extension(oids.OCSP_NONCE, critical=True)))
                )
            )
        )
    ),
    "negative serial": request(cert_id(0x77).replace(b"\x02\x01\x77", b"\x02\x01\x87")),
    "padded serial": request(der.sequence(*PARTS, b"\x02\x02\x00\x77")),
    "serial of 21 octets": request(cert_id(1 << 160)),
    "no algorithm": request(der.sequence(der.sequence(), *PARTS[1:], der.integer(1))),
    "cert id and more": request(der.sequence(*PARTS, der.integer(1), der.null())),
    "two signatures": signed(request(cert_id()), signature(), signature()),
    "signature without bits": signed(request(cert_id()), der.tlv(der.context(0), der.sequence(der.sequence()))),
}


@pytest.mark.parametrize("encoded", BAD.values(), ids=BAD)
def test_everything_else_is_malformed(encoded: bytes) -> None:
    with pytest.raises(Malformed):
        parse(encoded)


def test_bounds() -> None:
    assert len(parse(request(*(cert_id(n) for n in range(32)))).cert_ids) == 32
    with pytest.raises(TooLarge, match="32 certificates"):
        parse(request(*(cert_id(n) for n in range(33))))
    whole = request(cert_id())
    assert parse_request(whole, max_bytes=len(whole), max_requests=1)
    with pytest.raises(TooLarge, match="bytes"):
        parse_request(whole, max_bytes=len(whole) - 1, max_requests=1)


SAMPLES = [*OPTIONAL.values(), request(cert_id(1), cert_id(2), nonce=b"n" * 16)]


def parses_or_is_malformed(encoded: bytes) -> None:
    try:
        asked = parse(encoded)
    except (Malformed, TooLarge):
        return
    assert 1 <= len(asked.cert_ids) <= 32
    assert asked.nonce is None or 1 <= len(asked.nonce) <= 128
    for one in asked.cert_ids:
        assert one.raw in encoded
        assert 0 <= one.serial < 1 << 160


@given(st.binary(max_size=300))
def test_garbage_is_malformed(encoded: bytes) -> None:
    parses_or_is_malformed(encoded)


@settings(max_examples=500)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_damaged_requests_parse_or_are_malformed(sample: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(sample)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    parses_or_is_malformed(bytes(damaged))
    parses_or_is_malformed(bytes(damaged[: cut % len(damaged)]))
