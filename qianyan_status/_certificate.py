"""What the reader needs to know of a certificate (RFC 5280 §4.1). Verifies nothing: the caller validates the path."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from qianyan_status import _der
from qianyan_status._der import Reader, bad

_AUTHORITY_KEY_ID: Final = bytes.fromhex("0603551d23")
_SUBJECT_KEY_ID: Final = bytes.fromhex("0603551d0e")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("0603551d25")
_KEY_USAGE: Final = bytes.fromhex("0603551d0f")
#: id-ecPublicKey with the curve 1.2.156.10197.1.301.
_SM2_KEY: Final = bytes.fromhex("301306072a8648ce3d020106082a811ccf5501822d")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Times in seconds since 1970. `serial`: the INTEGER's contents; `extensions`: DER OID → (critical, value)."""

    tbs: bytes
    algorithm: bytes
    signature: bytes
    serial: bytes
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    spki: bytes
    extensions: dict[bytes, bytes]

    @property
    def public_key(self) -> bytes:
        """The SM2 point, 65 bytes. Raises StatusSetError for any other key."""
        body = Reader(self.spki).enter()
        if body.whole(_der.SEQUENCE) != _SM2_KEY:
            bad("the key is not an SM2 key")
        point = body.bits()
        body.finish()
        if len(point) != 65 or point[0] != 4:
            bad("the key is not an uncompressed point")
        return point

    @property
    def month(self) -> int:
        """year * 12 + month - 1 of notAfter in UTC."""
        at = time.gmtime(self.not_after)
        return at.tm_year * 12 + at.tm_mon - 1

    @property
    def authority_key_id(self) -> bytes | None:
        """keyIdentifier of AuthorityKeyIdentifier; None where there is none."""
        value = self.extensions.get(_AUTHORITY_KEY_ID)
        if value is None:
            return None
        body = Reader(value).enter()
        return body.take(_der.CONTEXT_0_PRIMITIVE) if body.peek() == _der.CONTEXT_0_PRIMITIVE else None

    @property
    def subject_key_id(self) -> bytes | None:
        """SubjectKeyIdentifier; None where there is none."""
        value = self.extensions.get(_SUBJECT_KEY_ID)
        return None if value is None else Reader(value).take(_der.OCTET_STRING)

    @property
    def extended_key_usages(self) -> list[bytes]:
        """The purposes, each a DER OID."""
        value = self.extensions.get(_EXTENDED_KEY_USAGE)
        found: list[bytes] = []
        if value is not None:
            body = Reader(value).enter()
            while body.peek() >= 0:
                found.append(body.whole(_der.OBJECT_IDENTIFIER))
        return found

    @property
    def may_sign_data(self) -> bool:
        """Whether KeyUsage, where there is one, has digitalSignature."""
        value = self.extensions.get(_KEY_USAGE)
        if value is None:
            return True
        octets = Reader(value).take(_der.BIT_STRING)
        return len(octets) >= 2 and bool(octets[1] & 0x80)


def read_certificate(encoded: bytes) -> CertificateFacts:
    """Takes a DER certificate apart. Raises StatusSetError("der")."""
    tbs, algorithm, signature, more = _der.split_signed(encoded)
    if more is not None:
        bad("something follows the signature")
    body = Reader(tbs).enter()
    if body.peek() == _der.CONTEXT_0:
        body.take(_der.CONTEXT_0)
    serial = body.take(_der.INTEGER)
    body.whole(_der.SEQUENCE)
    issuer = body.whole(_der.SEQUENCE)
    validity = body.enter()
    not_before, not_after = validity.x509_time(), validity.x509_time()
    validity.finish()
    subject, spki = body.whole(_der.SEQUENCE), body.whole(_der.SEQUENCE)
    extensions: dict[bytes, bytes] = {}
    while body.peek() >= 0 and body.peek() != _der.CONTEXT_3:
        body.whole()  # issuerUniqueID, subjectUniqueID
    if body.peek() == _der.CONTEXT_3:
        extensions = _extensions(body.enter(_der.CONTEXT_3))
    body.finish()
    return CertificateFacts(tbs, algorithm, signature, serial, issuer, subject, not_before, not_after, spki, extensions)


def _extensions(wrapper: Reader) -> dict[bytes, bytes]:
    listed = wrapper.enter()
    wrapper.finish()
    found: dict[bytes, bytes] = {}
    while listed.peek() >= 0:
        one = listed.enter()
        oid = one.whole(_der.OBJECT_IDENTIFIER)
        if one.peek() == _der.BOOLEAN:
            one.take(_der.BOOLEAN)
        value = one.take(_der.OCTET_STRING)
        one.finish()
        if oid in found:
            bad("an extension that comes twice (RFC 5280 §4.2)")
        found[oid] = value
    return found


def status_place(facts: CertificateFacts, index_extension: bytes) -> tuple[int, int] | None:
    """(month, index) of the status index extension; None where there is none.

    Raises StatusSetError where it is malformed or its month is not that of notAfter.
    """
    value = facts.extensions.get(index_extension)
    if value is None:
        return None
    outer = Reader(value)
    body = outer.enter()
    outer.finish()
    month, index = body.integer(), body.integer()
    body.finish()
    if month != facts.month:
        bad("the month of the status index is not that of notAfter")
    return month, index
