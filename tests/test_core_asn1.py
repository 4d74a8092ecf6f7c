"""The DER reader and writer, and the X.509 pieces on them, against `cryptography` and under garbage."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SM3, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from core import oids
from core.asn1 import der
from core.asn1 import x509 as pieces
from core.asn1.distribution import (
    crl_distribution_points,
    crl_url,
    distribution_point_name,
    issuing_distribution_point,
)
from core.asn1.x509 import Extension, join_signed, split_signed
from core.errors import Malformed, Refused

TAGS = [der.INTEGER, der.OCTET_STRING, der.BIT_STRING, der.SEQUENCE, der.SET, der.NULL, der.context(0), 0x86]
P256 = ec.generate_private_key(ec.SECP256R1())


def walk_all(data: bytes) -> None:
    """Reads everything in `data`, entering what is constructed."""
    reader = der.Reader(data)
    while reader:
        if reader.peek() & 0x20:
            walk_all(reader.take_tlv()[2:])
        else:
            reader.take(reader.peek())
    reader.finish()


@given(st.binary(max_size=80), st.sampled_from(TAGS))
@example(b"\x30\x80\x00\x00", der.SEQUENCE)
@example(b"\x30\x81\x7f" + bytes(127), der.SEQUENCE)
@example(b"\x30\x84\xff\xff\xff\xff", der.SEQUENCE)
@example(b"\x30\x85\x01\x00\x00\x00\x00", der.SEQUENCE)
@example(b"\x02\x02\x00\x01", der.INTEGER)
@example(b"\x02\x01\x80", der.INTEGER)
@example(b"\x03\x01\x01", der.BIT_STRING)
def test_garbage_is_read_or_refused_as_malformed(data: bytes, tag: int) -> None:
    def integers() -> None:
        reader = der.Reader(data)
        while reader:
            reader.integer()

    attempts = (
        lambda: walk_all(data),
        integers,
        lambda: der.Reader(data).bit_string(),
        lambda: der.Reader(data).take(tag),
        lambda: der.Reader(data).enter(tag).take_tlv(),
        lambda: split_signed(data),
        lambda: pieces.load_certificate(data),
        lambda: pieces.spki_of_certificate(data),
    )
    for attempt in attempts:
        with suppress(Malformed):  # and nothing else
            attempt()
    with pytest.raises((Malformed, Refused)):
        pieces.public_key_from_spki(data)


@given(st.binary(max_size=300), st.sampled_from(TAGS))
def test_what_is_read_whole_is_what_the_writer_writes(data: bytes, tag: int) -> None:
    encoded = der.tlv(tag, data)
    reader = der.Reader(encoded + b"rest")
    assert reader.peek() == tag
    assert reader.take(tag) == data
    assert bool(reader)
    assert der.Reader(encoded).take_tlv() == encoded
    with pytest.raises(Malformed):
        reader.finish()
    for cut in {0, 1, 2, len(encoded) // 2, len(encoded) - 1} - {len(encoded)}:
        with pytest.raises(Malformed):
            der.Reader(encoded[:cut]).take(tag)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 24])
def test_lengths(length: int) -> None:
    encoded = der.octet_string(bytes(length))
    assert der.Reader(encoded).take(der.OCTET_STRING) == bytes(length)
    header = len(encoded) - length
    assert header == 2 + (0 if length < 128 else (length.bit_length() + 7) // 8)


@given(st.integers(0, 1 << 200))
@example(0)
@example(127)
@example(128)
@example(1 << 64)
def test_integers(value: int) -> None:
    reader = der.Reader(der.integer(value) + der.enumerated(value))
    assert reader.integer() == value
    assert int.from_bytes(reader.take(der.ENUMERATED), "big") == value
    reader.finish()
    with pytest.raises(ValueError, match="non-negative"):
        der.integer(-value - 1)


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 1 << 128), min_size=1, max_size=6))
def test_object_identifiers(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    content = der.Reader(der.oid(dotted)).take(der.OBJECT_IDENTIFIER)
    arcs, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    assert arcs == [first * 40 + second, *rest]


@pytest.mark.parametrize(
    "dotted", [oids.SM3_WITH_SM2, oids.CRL_DISTRIBUTION_POINTS, oids.OCSP_NONCE, "2.999.3", oids.SHA256]
)
def test_object_identifiers_as_cryptography_writes_them(dotted: str) -> None:
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), b"v")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    written = request.add_extension(value, critical=True).sign(P256, SHA256()).public_bytes(Encoding.DER)
    assert Extension(dotted, True, b"v").encode() in written


def test_a_status_index_oid_under_the_uuid_arc() -> None:
    assert der.oid("2.25.329800735698586629295641978511506172918") == bytes.fromhex(
        "06146983f09da7ebcfdee0c7a1a7b2c0948cc8f9d776"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00+00:00", b"\x17\x0d700101000000Z"),
        ("2026-11-20T14:30:05+08:00", b"\x17\x0d261120063005Z"),
        ("2049-12-31T23:59:59+00:00", b"\x17\x0d491231235959Z"),
        ("2050-01-01T00:00:00+00:00", b"\x18\x0f20500101000000Z"),
    ],
)
def test_times(text: str, expected: bytes) -> None:
    assert der.x509_time(datetime.fromisoformat(text)) == expected
    assert der.generalized_time(datetime.fromisoformat(text))[:2] == b"\x18\x0f"


def test_small_elements() -> None:
    assert der.boolean(True) + der.boolean(False) + der.null() == bytes.fromhex("0101ff 010100 0500")
    assert der.Reader(der.bit_string(b"ab")).bit_string() == b"ab"
    assert [der.context(0), der.context(6, constructed=False)] == [0xA0, 0x86]


# ---- X.509


def self_signed() -> bytes:
    """A certificate that `cryptography` makes."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "签验")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, P256.public_key(), 77, start, start + timedelta(days=9))
    return builder.sign(P256, SHA256()).public_bytes(Encoding.DER)


def test_split_gives_the_parts_as_they_stand() -> None:
    encoded = self_signed()
    certificate = x509.load_der_x509_certificate(encoded)
    signed = split_signed(encoded)
    assert signed.tbs == certificate.tbs_certificate_bytes
    assert signed.signature == certificate.signature
    assert not signed.is_sm2
    with pytest.raises(Malformed):
        split_signed(encoded + b"\0")
    spki = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert pieces.spki_of_certificate(encoded) == spki
    with pytest.raises(Refused) as refused:
        pieces.public_key_of_certificate(encoded)
    assert refused.value.code == "key_algorithm"


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_join_and_split(content: bytes, signature: bytes) -> None:
    tbs = der.sequence(der.octet_string(content))
    signed = split_signed(join_signed(tbs, signature))
    assert (signed.tbs, signed.signature, signed.is_sm2) == (tbs, signature, True)


def test_both_forms_of_the_algorithm_are_sm2() -> None:
    for parameters, is_sm2 in ((b"", True), (der.null(), True), (der.integer(1), False)):
        algorithm = der.sequence(der.oid(oids.SM3_WITH_SM2), parameters)
        assert split_signed(der.sequence(der.sequence(), algorithm, der.bit_string(b""))).is_sm2 is is_sm2


def test_certificates_in_der_and_pem() -> None:
    encoded = self_signed()
    certificate = pieces.load_certificate(encoded)
    assert pieces.certificate_der(certificate) == encoded
    assert pieces.load_certificate(b"\n" + certificate.public_bytes(Encoding.PEM)) == certificate
    for bad in (b"", encoded[:-1], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Malformed) as refused:
            pieces.load_certificate(bad)
        assert refused.value.code == "certificate"


POINT = b"\x04" + bytes(range(64))


def test_key_info_there_and_back() -> None:
    spki = pieces.subject_public_key_info(POINT)
    assert pieces.public_key_from_spki(spki) == POINT
    digest = Hash(SM3())
    digest.update(POINT)
    assert pieces.key_identifier(POINT) == digest.finalize()[:20]
    with pytest.raises(ValueError, match="uncompressed"):
        pieces.subject_public_key_info(b"\x02" + bytes(32))
    algorithm = der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE))
    for content, code in (
        (der.bit_string(b"\x02" + bytes(32)), "key_encoding"),
        (der.bit_string(b"\x05" + bytes(64)), "key_encoding"),
    ):
        with pytest.raises(Refused) as refused:
            pieces.public_key_from_spki(der.sequence(algorithm, content))
        assert refused.value.code == code
    with pytest.raises(Malformed):
        pieces.public_key_from_spki(spki + b"\0")


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_certificate_with_a_bad_serial_is_not_written(serial: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="serial"):
        pieces.tbs_certificate(
            serial=serial, issuer=b"", subject=b"", not_before=now, not_after=now, spki=b"", extensions=[]
        )


def test_a_certificate_reads_as_it_was_written() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "签验")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    constraints = Extension.of(x509.BasicConstraints(True, 0), critical=True)
    encoded = join_signed(
        pieces.tbs_certificate(
            serial=(1 << 159) - 1,
            issuer=name.public_bytes(),
            subject=name.public_bytes(),
            not_before=start,
            not_after=start + timedelta(days=365 * 40),
            spki=pieces.subject_public_key_info(POINT),
            extensions=[constraints],
        ),
        b"signature",
    )
    certificate = x509.load_der_x509_certificate(encoded)
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == (1 << 159) - 1
    assert certificate.subject == certificate.issuer == name
    assert certificate.not_valid_after_utc == start + timedelta(days=365 * 40)
    assert list(certificate.extensions) == [
        x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(True, 0))
    ]
    assert pieces.public_key_of_certificate(encoded) == POINT


# ---- distribution points

URL = crl_url("http://status.example.cn", "issuing", 12)


def test_distribution_points_have_the_bytes_that_cryptography_writes() -> None:
    assert URL == "http://status.example.cn/crl/issuing/12.crl"
    names = [x509.UniformResourceIdentifier(URL)]
    points = crl_distribution_points(URL)
    expected = x509.CRLDistributionPoints([x509.DistributionPoint(names, None, None, None)])
    assert (points.oid, points.critical, points.value) == ("2.5.29.31", False, expected.public_bytes())
    idp = issuing_distribution_point(URL)
    scope = x509.IssuingDistributionPoint(names, None, False, False, None, False, False)
    assert (idp.oid, idp.critical, idp.value) == ("2.5.29.28", True, scope.public_bytes())
    assert distribution_point_name(URL) in points.value
    assert distribution_point_name(URL) in idp.value


def test_a_url_that_is_not_ascii_is_not_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        distribution_point_name("http://签验.cn/0.crl")
