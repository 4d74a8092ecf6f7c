"""Certificate requests (PKCS#10, RFC 2986): parsed, their key and signature checked, what they ask for taken out.

Accepts DER and PEM. The signature is SM2 with SM3 under the default user id, algorithm parameters NULL or absent (both
are in use). Every way in which a request can be bad ends in Malformed or Refused naming the field; nothing here keeps
state. Which of the things asked for are granted is the profile's matter (`template`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from core.asn1 import der, names
from core.asn1 import x509 as codec
from core.errors import Malformed, QianyanError, Refused, TooLarge
from signer._native import sm2

_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
#: Attributes that ask for nothing in the certificate: challengePassword (RFC 2985 §5.4.1; GM/T 0092 §8).
_IGNORED_ATTRIBUTES: Final = frozenset({"1.2.840.113549.1.9.7"})


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a request says. `fields`: the subject by label; `extensions`: what it asks for, by dotted OID."""

    encoded: bytes
    fields: Mapping[str, list[str]]
    public_key: bytes
    extensions: Mapping[str, x509.ExtensionType]


def parse_request(encoded: bytes, *, max_bytes: int = 64 * 1024) -> CertificateRequest:
    """Parses and checks a request, DER or PEM.

    Raises Malformed (field `csr`), Refused (`csr.public_key`, `csr.signature`, `subject.*`, `csr.extensions.*`) or
    TooLarge.
    """
    if len(encoded) > max_bytes:
        raise TooLarge(f"a certificate request has at most {max_bytes} bytes", code="csr_size", field="csr")
    request = _load(encoded)
    binary = request.public_bytes(Encoding.DER)
    try:
        signed = codec.split_signed(binary)
        spki = _spki(signed.tbs)
        subject = names.read_fields(request.subject)
    except Malformed as error:
        raise _malformed() from error
    except ValueError as error:
        raise Malformed("the subject is not a Name", code="csr", field="subject") from error
    public_key = _public_key(spki)
    _verify(public_key, signed)
    return CertificateRequest(binary, subject, public_key.to_bytes(), _extensions(request))


def _malformed() -> Malformed:
    return Malformed("not a PKCS#10 certificate request in DER or PEM", code="csr", field="csr")


def _load(encoded: bytes) -> x509.CertificateSigningRequest:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # lax encodings: refused below or harmless
            if encoded.lstrip().startswith(b"-----BEGIN"):
                return x509.load_pem_x509_csr(encoded)
            return x509.load_der_x509_csr(encoded)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise _malformed() from error


def _spki(info: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a CertificationRequestInfo; raises Malformed where its shape is another."""
    outer = der.Reader(info)
    body = outer.enter(der.SEQUENCE)
    outer.finish()
    if body.integer() != 0:
        raise Malformed("the version of a certificate request is 0", code="csr", field="csr")
    body.take_tlv(der.SEQUENCE)
    spki = body.take_tlv(der.SEQUENCE)
    if body:
        body.take_tlv(der.context(0))
    body.finish()
    return spki


def _public_key(spki: bytes) -> sm2.PublicKey:
    try:
        return sm2.PublicKey.from_bytes(codec.public_key_from_spki(spki))
    except sm2.InvalidKey as error:
        raise Refused("the public key is not a valid SM2 key", code="csr_public_key", field="csr.public_key") from error
    except QianyanError as error:
        raise Refused(error.detail, code="csr_public_key", field="csr.public_key") from error


def _verify(public_key: sm2.PublicKey, signed: codec.Signed) -> None:
    if not signed.is_sm2:
        raise Refused(
            "the request is not signed with SM2 and SM3 (1.2.156.10197.1.501)",
            code="csr_signature_algorithm",
            field="csr.signature",
        )
    try:
        public_key.verify(signed.tbs, sm2.signature_from_der(signed.signature))
    except (sm2.InvalidSignature, sm2.InvalidEncoding) as error:
        raise Refused(
            "the request's signature does not verify under its own key and the default user id 1234567812345678",
            code="csr_signature",
            field="csr.signature",
        ) from error


def _extensions(request: x509.CertificateSigningRequest) -> dict[str, x509.ExtensionType]:
    """The requested extensions. Raises Refused for an attribute that is not understood, Malformed otherwise."""
    try:
        attributes = [attribute.oid.dotted_string for attribute in request.attributes]
        extensions = {e.oid.dotted_string: e.value for e in request.extensions}
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Malformed("the attributes of the request are not readable", code="csr", field="csr.attributes") from error
    for dotted in attributes:
        if dotted != _EXTENSION_REQUEST and dotted not in _IGNORED_ATTRIBUTES:
            raise Refused(f"attribute {dotted} is not accepted", code="csr_attribute", field=f"csr.attributes.{dotted}")
    return extensions
