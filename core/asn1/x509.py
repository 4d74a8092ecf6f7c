"""X.509 pieces for SM2: key info, signed envelopes, the to-be-signed certificate.

`cryptography.x509` parses certificates, requests and CRLs and encodes extensions; what it refuses (SM2 keys) or
cannot do (sign elsewhere) is here. Knows bytes; not stores, policy, or the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from core import oids
from core.asn1 import der
from core.errors import Malformed, Refused

#: AlgorithmIdentifier of SM2 with SM3, parameters absent: the form most implementations write (both are read).
SM3_WITH_SM2: Final = der.sequence(der.oid(oids.SM3_WITH_SM2))
_SM3_WITH_SM2_FORMS: Final = (SM3_WITH_SM2, der.sequence(der.oid(oids.SM3_WITH_SM2), der.null()))

_SPKI_ALGORITHM: Final = der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE))


@dataclass(frozen=True, slots=True)
class Signed:
    """The outer shape of certificates, requests, CRLs and basic OCSP responses: SEQUENCE {tbs, algorithm, signature}.

    All three as they were on the wire; `signature` without the unused-bits octet.
    """

    tbs: bytes
    algorithm: bytes
    signature: bytes

    @property
    def is_sm2(self) -> bool:
        """Whether the algorithm is SM2 with SM3, parameters NULL or absent."""
        return self.algorithm in _SM3_WITH_SM2_FORMS

    def encode(self) -> bytes:
        """The structure again."""
        return der.sequence(self.tbs, self.algorithm, der.bit_string(self.signature))


def split_signed(encoded: bytes) -> Signed:
    """Takes a signed structure apart. Raises Malformed. What follows the signature inside is left to the caller."""
    outer = der.Reader(encoded)
    body = outer.enter(der.SEQUENCE)
    outer.finish()
    return Signed(body.take_tlv(der.SEQUENCE), body.take_tlv(der.SEQUENCE), body.bit_string())


def join_signed(tbs: bytes, signature: bytes) -> bytes:
    """The signed structure around `tbs`, with SM2 with SM3 as its algorithm."""
    return der.sequence(tbs, SM3_WITH_SM2, der.bit_string(signature))


def subject_public_key_info(public_key: bytes) -> bytes:
    """SubjectPublicKeyInfo of an uncompressed SM2 point (id-ecPublicKey with the named curve, RFC 5480 §2)."""
    if len(public_key) != 65 or public_key[0] != 4:
        raise ValueError("an uncompressed point of 65 bytes is needed")
    return der.sequence(_SPKI_ALGORITHM, der.bit_string(public_key))


def public_key_from_spki(spki: bytes) -> bytes:
    """The uncompressed point (65 bytes) of an SM2 SubjectPublicKeyInfo.

    Raises Malformed where it is not DER, Refused (code "key_algorithm") where the key is not SM2 on the named
    curve; explicit parameters are refused. That the point is on the curve is for the native core to check.
    """
    outer = der.Reader(spki)
    body = outer.enter(der.SEQUENCE)
    outer.finish()
    algorithm = body.take_tlv(der.SEQUENCE)
    point = body.bit_string()
    body.finish()
    if algorithm != _SPKI_ALGORITHM:
        raise Refused("the public key is not an SM2 key on the named curve 1.2.156.10197.1.301", code="key_algorithm")
    if len(point) != 65 or point[0] != 4:
        raise Refused("the public key is not an uncompressed SM2 point", code="key_encoding")
    return point


def key_identifier(public_key: bytes) -> bytes:
    """The key identifier we write: the leftmost 160 bits of SM3 over the point (RFC 7093 §2 method 1, with SM3)."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(public_key)
    return digest.finalize()[:20]


def spki_of_certificate(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a DER certificate, as it stands there."""
    tbs = der.Reader(split_signed(certificate).tbs).enter(der.SEQUENCE)
    if tbs.peek() == der.context(0):
        tbs.take_tlv()
    for _ in range(5):  # serialNumber, signature, issuer, validity, subject (RFC 5280 §4.1)
        tbs.take_tlv()
    return tbs.take_tlv(der.SEQUENCE)


def public_key_of_certificate(certificate: bytes) -> bytes:
    """The SM2 point of a DER certificate; raises as `public_key_from_spki`."""
    return public_key_from_spki(spki_of_certificate(certificate))


def load_certificate(encoded: bytes) -> x509.Certificate:
    """Parses a certificate, DER or PEM. Raises Malformed (code "certificate")."""
    try:
        if encoded.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(encoded)
        return x509.load_der_x509_certificate(encoded)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise Malformed("not an X.509 certificate in DER or PEM", code="certificate") from error


def certificate_der(certificate: x509.Certificate) -> bytes:
    """The certificate's DER, byte for byte as parsed."""
    return certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: its OID, whether it is critical, and the DER of its value."""

    oid: str
    critical: bool
    value: bytes

    @classmethod
    def of(cls, value: x509.ExtensionType, *, critical: bool = False) -> Extension:
        """From a `cryptography` extension value."""
        return cls(value.oid.dotted_string, critical, value.public_bytes())

    def encode(self) -> bytes:
        """Extension ::= SEQUENCE {extnID, critical DEFAULT FALSE, extnValue} (RFC 5280 §4.1)."""
        flag = der.boolean(True) if self.critical else b""
        return der.sequence(der.oid(self.oid), flag, der.octet_string(self.value))


def encode_extensions(extensions: Sequence[Extension]) -> bytes:
    """Extensions ::= SEQUENCE OF Extension."""
    return der.sequence(*(extension.encode() for extension in extensions))


def tbs_certificate(
    *,
    serial: int,
    issuer: bytes,
    subject: bytes,
    not_before: datetime,
    not_after: datetime,
    spki: bytes,
    extensions: Sequence[Extension],
) -> bytes:
    """TBSCertificate, version 3 (RFC 5280 §4.1). `issuer`, `subject`: DER Names; `spki`: DER key info."""
    if not 0 < serial < 1 << 159:
        raise ValueError("a serial is positive and fits 20 octets (RFC 5280 §4.1.2.2)")
    return der.sequence(
        der.tlv(der.context(0), der.integer(2)),
        der.integer(serial),
        SM3_WITH_SM2,
        issuer,
        der.sequence(der.x509_time(not_before), der.x509_time(not_after)),
        subject,
        spki,
        der.tlv(der.context(3), encode_extensions(extensions)),
    )
