"""Certificate requests (PKCS#10, RFC 2986) for a holder's key: made, and looked over before they are sent.

Names as the service takes them: C, ST, L, O, OU, CN, SERIALNUMBER in that order, C and SERIALNUMBER as PrintableString
and the rest as UTF8String. What a profile allows is for the service to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qianyan_ra import _der as der
from qianyan_ra import _oids as oids
from qianyan_ra import _pem as pem
from qianyan_ra import _pure as pure
from qianyan_ra._arithmetic import verify_digest
from qianyan_ra._certificate import read_key_info
from qianyan_ra._errors import BadMessage, Unfit
from qianyan_ra._keys import Signer, signature_der, signature_octets

_ATTRIBUTES: Final = {
    "C": (der.oid("2.5.4.6"), der.PRINTABLE_STRING),
    "ST": (der.oid("2.5.4.8"), der.UTF8_STRING),
    "L": (der.oid("2.5.4.7"), der.UTF8_STRING),
    "O": (der.oid("2.5.4.10"), der.UTF8_STRING),
    "OU": (der.oid("2.5.4.11"), der.UTF8_STRING),
    "CN": (der.oid("2.5.4.3"), der.UTF8_STRING),
    "SERIALNUMBER": (der.oid("2.5.4.5"), der.PRINTABLE_STRING),
}
_MAX_BYTES: Final = 64 * 1024
_MAX_VALUE: Final = 128


def name(fields: Mapping[str, str | Sequence[str]]) -> bytes:
    """A Name, DER. Raises Unfit naming the field (`subject.CN`)."""
    unknown = [label for label in fields if label not in _ATTRIBUTES]
    if unknown or not fields:
        raise Unfit(f"a subject has fields of: {', '.join(_ATTRIBUTES)}", code="subject_field", field="subject")
    rdns = []
    for label, (kind, tag) in _ATTRIBUTES.items():
        given = fields.get(label, ())
        for value in (given,) if isinstance(given, str) else given:
            if not value or value != value.strip() or len(value) > _MAX_VALUE:
                raise Unfit(
                    f"{label} is empty, too long, or has a space at an end",
                    code="subject_field",
                    field=f"subject.{label}",
                )
            if tag == der.PRINTABLE_STRING and not value.isascii():
                raise Unfit(f"{label} takes ASCII only", code="subject_field", field=f"subject.{label}")
            rdns.append(der.tlv(der.SET, der.sequence(kind, der.tlv(tag, value.encode()))))
    return der.sequence(*rdns)


def make_csr(key: Signer, subject: Mapping[str, str | Sequence[str]]) -> bytes:
    """A request for `subject` by `key`, DER."""
    info = der.sequence(
        der.integer(0),
        name(subject),
        der.sequence(oids.SPKI_ALGORITHM, der.bit_string(key.public_key)),
        der.tlv(der.CONTEXT_0),
    )
    signature = signature_der(signature_octets(key.sign(info)))
    return der.sequence(info, oids.SIGNATURE_ALGORITHM, der.bit_string(signature))


def csr_pem(csr: bytes) -> bytes:
    """A request as PEM."""
    return pem.write("CERTIFICATE REQUEST", csr)


def check_csr(csr: bytes) -> bytes:
    """The request in DER, from DER or PEM, its signature verified under the default user id.

    Raises Unfit (field "csr"): "csr_missing", "csr", "csr_signature" (often another user id: OpenSSL before 4.0 signs
    with an empty one unless told `-sigopt distid:1234567812345678`).
    """
    if not csr:
        raise Unfit("a certificate request (PKCS#10) is needed", code="csr_missing", field="csr")
    try:
        encoded = _from_pem(csr) if b"-----BEGIN" in csr else csr
        info, public_key, signature = _parse(encoded)
    except BadMessage as error:
        raise Unfit(f"not an SM2 certificate request (PKCS#10): {error.detail}", code="csr", field="csr") from error
    if not verify_digest(public_key, pure.digest(public_key, info), signature):
        raise Unfit(
            "the request's signature does not verify under the user id 1234567812345678",
            code="csr_signature",
            field="csr",
        )
    return encoded


def _from_pem(text: bytes) -> bytes:
    found = [contents for label, contents in pem.blocks(text) if label.endswith("CERTIFICATE REQUEST")]
    if len(found) != 1:
        raise BadMessage("one certificate request is needed", code="pem")
    return found[0]


def _parse(encoded: bytes) -> tuple[bytes, bytes, bytes]:
    if len(encoded) > _MAX_BYTES:
        raise BadMessage("it is too long", code="csr")
    whole = der.Reader(encoded)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    info = body.take_tlv(der.SEQUENCE)
    if body.enter(der.SEQUENCE).take_tlv(der.OBJECT_IDENTIFIER) != oids.SM3_WITH_SM2:
        raise BadMessage("it is not signed with SM2 and SM3 (1.2.156.10197.1.501)", code="csr")
    signature = signature_octets(body.bit_string())
    body.finish()
    fields = der.Reader(info).enter(der.SEQUENCE)
    fields.integer()
    fields.take_tlv(der.SEQUENCE)
    return info, read_key_info(fields.take_tlv(der.SEQUENCE)), signature
