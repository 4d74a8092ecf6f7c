"""Reads OCSP requests (RFC 6960 §4.1), strictly.

Knows bytes and ASN.1; not the event loop, the clock or the store. Garbage either parses or raises Malformed, nothing
else; what is past a bound raises TooLarge. A CertID is kept as it stood on the wire, because the answer must repeat it
unchanged. A requestor's signature is read over and not verified: status is public here, so it would admit to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from core import oids
from core.asn1 import der
from core.errors import Malformed, TooLarge

#: RFC 9654 §2.1: Nonce ::= OCTET STRING (SIZE (1..128)).
MAX_NONCE: Final = 128

_NONCE: Final = der.oid(oids.OCSP_NONCE)
_VERSION: Final = der.context(0)
_REQUESTOR_NAME: Final = der.context(1)
_REQUEST_EXTENSIONS: Final = der.context(2)
_SINGLE_EXTENSIONS: Final = der.context(0)
_SIGNATURE: Final = der.context(0)
_CERTIFICATES: Final = der.context(0)
_MAX_SERIAL: Final = 1 << 160


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate is asked about.

    raw: the CertID as received. issuer: its hashAlgorithm, issuerNameHash and issuerKeyHash, as received.
    """

    raw: bytes
    issuer: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """What a request asks. nonce: its octets, None where there is none."""

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None


def _bad(why: str) -> NoReturn:
    raise Malformed(f"not an OCSP request: {why}", code="ocsp_request")


def parse_request(encoded: bytes, *, max_bytes: int, max_requests: int) -> OcspRequest:
    """The request in `encoded`. Raises Malformed, or TooLarge where it is longer or asks for more than is allowed."""
    if len(encoded) > max_bytes:
        raise TooLarge(f"an OCSP request has at most {max_bytes} bytes", code="ocsp_request_size")
    outer = der.Reader(encoded)
    request = outer.enter(der.SEQUENCE)
    outer.finish()
    tbs = request.enter(der.SEQUENCE)
    if request:
        _skip_signature(request)
    if tbs.peek() == _VERSION:
        version = tbs.enter(_VERSION)
        if version.integer() != 0:
            _bad("its version is not 1")
        version.finish()
    if tbs.peek() == _REQUESTOR_NAME:
        name = tbs.enter(_REQUESTOR_NAME)
        name.take_tlv()
        name.finish()
    cert_ids = _request_list(tbs.enter(der.SEQUENCE), max_requests)
    nonce = None
    if tbs:
        nonce = _extensions(tbs.enter(_REQUEST_EXTENSIONS), nonce_allowed=True)
    tbs.finish()
    return OcspRequest(cert_ids, nonce)


def _skip_signature(request: der.Reader) -> None:
    """Signature ::= SEQUENCE {signatureAlgorithm, signature BIT STRING, certs [0] OPTIONAL}, unverified."""
    explicit = request.enter(_SIGNATURE)
    request.finish()
    signature = explicit.enter(der.SEQUENCE)
    explicit.finish()
    signature.take_tlv(der.SEQUENCE)
    signature.bit_string()
    if signature:
        signature.take_tlv(_CERTIFICATES)
    signature.finish()


def _request_list(requests: der.Reader, max_requests: int) -> tuple[CertId, ...]:
    cert_ids: list[CertId] = []
    while requests:
        if len(cert_ids) == max_requests:
            raise TooLarge(f"an OCSP request asks about at most {max_requests} certificates", code="ocsp_request_count")
        single = requests.enter(der.SEQUENCE)
        cert_ids.append(_cert_id(single.take_tlv(der.SEQUENCE)))
        if single:
            _extensions(single.enter(_SINGLE_EXTENSIONS), nonce_allowed=False)
        single.finish()
    if not cert_ids:
        _bad("it asks about nothing")
    return tuple(cert_ids)


def _cert_id(raw: bytes) -> CertId:
    """CertID ::= SEQUENCE {hashAlgorithm, issuerNameHash, issuerKeyHash, serialNumber}."""
    body = der.Reader(raw).enter(der.SEQUENCE)
    algorithm = body.take_tlv(der.SEQUENCE)
    parts = der.Reader(algorithm).enter(der.SEQUENCE)
    parts.take_tlv(der.OBJECT_IDENTIFIER)
    if parts:
        parts.take_tlv()
    parts.finish()
    issuer = algorithm + body.take_tlv(der.OCTET_STRING) + body.take_tlv(der.OCTET_STRING)
    serial = body.integer()
    body.finish()
    if serial >= _MAX_SERIAL:
        _bad("a serial has more than 20 octets")
    return CertId(raw, issuer, serial)


def _extensions(explicit: der.Reader, *, nonce_allowed: bool) -> bytes | None:
    """Reads Extensions and returns the nonce. Raises Malformed for one that is critical and not known, or twice."""
    extensions = explicit.enter(der.SEQUENCE)
    explicit.finish()
    if not extensions:
        _bad("an empty list of extensions")
    seen: set[bytes] = set()
    nonce = None
    while extensions:
        extension = extensions.enter(der.SEQUENCE)
        oid = extension.take_tlv(der.OBJECT_IDENTIFIER)
        critical = False
        if extension.peek() == der.BOOLEAN:
            critical = extension.take(der.BOOLEAN) == b"\xff"
            if not critical:
                _bad("a criticality that is not written as DER has it")
        value = extension.take(der.OCTET_STRING)
        extension.finish()
        if oid in seen:
            _bad("an extension appears twice")
        seen.add(oid)
        if nonce_allowed and oid == _NONCE:
            nonce = _nonce(value)
        elif critical:
            _bad("a critical extension that is not known here")
    return nonce


def _nonce(value: bytes) -> bytes:
    reader = der.Reader(value)
    nonce = reader.take(der.OCTET_STRING)
    reader.finish()
    if not 1 <= len(nonce) <= MAX_NONCE:
        _bad(f"a nonce has 1 to {MAX_NONCE} octets (RFC 9654)")
    return nonce


def plain_request(cert_id: bytes) -> bytes:
    """The one request for `cert_id` that has nothing optional in it: what an answer is cached under.

    Most clients send just these bytes, so that an answer is found without parsing anything.
    """
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id))))
