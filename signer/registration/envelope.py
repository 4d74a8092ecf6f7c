"""A signed message taken apart: GM/T 0010 SignedData over a JSON object, with what is asked of its signers.

Knows bytes; not who the signers are, what they may, or what time it is. Every signer must sign its content's type and
digest and a signing time, and bring its certificate: so a message by itself is evidence of who signed what and when.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from core import oids
from core.asn1 import der
from core.clock import from_datetime
from core.errors import Malformed, QianyanError, Refused, TooLarge
from signer._native import sm3
from signer.signing.cms import IssuerAndSerial, SignedData, SignerInfo, parse_signed_data

#: One or two sign at a time.
SIGNERS_MAX: Final = 2
#: The signers' own and what is above them.
_CERTIFICATES_MAX: Final = 16
_SIGNING_TIME: Final = der.oid(oids.SIGNING_TIME)
_DATA: Final = frozenset({der.oid(oids.GM_DATA), der.oid(oids.PKCS7_DATA)})


@dataclass(frozen=True, slots=True)
class Signature:
    """One signer's. name_digest: SM3 over its certificate's issuer and serial. signature: DER SM2Signature."""

    name_digest: bytes
    certificate: bytes
    signing_at_ms: int
    to_be_signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Signed:
    """A message. digest: SM3 of the content; evidence: SM3 of the message."""

    message: bytes = field(repr=False)
    content: bytes = field(repr=False)
    digest: bytes
    evidence: bytes
    signatures: tuple[Signature, ...]

    @property
    def signers(self) -> tuple[bytes, ...]:
        """Which certificates signed."""
        return tuple(signature.name_digest for signature in self.signatures)


def name_digest(named: IssuerAndSerial) -> bytes:
    """Names a certificate: 32 bytes over its issuer and serial."""
    return sm3.sm3(named.encode())


def open_signed(message: bytes, *, max_bytes: int) -> Signed:
    """Takes a message apart. Nothing of it is verified yet.

    Raises Malformed, Refused (the codes of signer.signing.cms, and "request_signers", "request_attributes",
    "signer_certificate") or TooLarge, whatever the bytes are.
    """
    if len(message) > max_bytes:
        raise TooLarge(f"a signed request has at most {max_bytes} bytes", code="request_size")
    data = parse_signed_data(message)
    if data.content is None or data.content_type not in _DATA:
        raise Malformed("the message has to carry its content, of the type data", code="request_content")
    if not 1 <= len(data.signers) <= SIGNERS_MAX:
        raise Refused("a request is signed by one or two people", code="request_signers")
    if len(data.certificates) > _CERTIFICATES_MAX:
        raise TooLarge(f"a request carries at most {_CERTIFICATES_MAX} certificates", code="cms_set_size")
    signatures = tuple(_signature(info, data, data.content) for info in data.signers)
    if len({signature.name_digest for signature in signatures}) != len(signatures):
        raise Refused("both signatures are under one certificate", code="same_person")
    return Signed(message, data.content, sm3.sm3(data.content), sm3.sm3(message), signatures)


def _signature(info: SignerInfo, data: SignedData, content: bytes) -> Signature:
    if info.attributes is None:
        raise Refused("each signer signs content type, message digest and signing time", code="request_attributes")
    certificate = next((one for one in data.certificates if _named(one) == info.identifier), None)
    if certificate is None:
        raise Refused("each signer's certificate has to be in the message", code="signer_certificate")
    at_ms = _signing_time(info.attributes)
    return Signature(name_digest(info.identifier), certificate, at_ms, info.to_be_signed(content), info.signature)


def _named(certificate: bytes) -> IssuerAndSerial | None:
    """None where it is no certificate: it is then nobody's."""
    try:
        return IssuerAndSerial.of_certificate(certificate)
    except QianyanError:
        return None


def _signing_time(attributes: bytes) -> int:
    """The signing time among authenticated attributes that were read once already, in milliseconds."""
    reader = der.Reader(attributes)
    while reader:
        body = reader.enter(der.SEQUENCE)
        if body.take_tlv(der.OBJECT_IDENTIFIER) != _SIGNING_TIME:
            continue
        values = body.enter(der.SET)
        tag = values.peek()
        text = values.take(tag)
        values.finish()
        return _read_time(tag, text)
    raise Refused("each signer signs content type, message digest and signing time", code="request_attributes")


def _read_time(tag: int, text: bytes) -> int:
    """UTCTime or GeneralizedTime to the second, in UTC (RFC 5652 §11.3)."""
    digits = {der.UTC_TIME: 12, der.GENERALIZED_TIME: 14}.get(tag)
    if digits is None or len(text) != digits + 1 or not text[:-1].isdigit() or text[-1:] != b"Z":
        raise Malformed("a signing time is UTCTime or GeneralizedTime to the second", code="request_attributes")
    year = text[:-1].decode()
    if tag == der.UTC_TIME:
        year = ("20" if year < "50" else "19") + year
    try:
        return from_datetime(datetime.strptime(year, "%Y%m%d%H%M%S").replace(tzinfo=UTC))
    except ValueError as error:
        raise Malformed("a signing time that is none", code="request_attributes") from error


def read_object(content: bytes) -> dict[str, Any]:
    """The JSON object that was signed. Raises Malformed (code "request_json").

    A member that comes twice is refused: two readers might take different ones for what was signed.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Malformed("the signed content is not a JSON object in UTF-8", code="request_json") from error
    if not isinstance(value, dict):
        raise Malformed("the signed content is not a JSON object", code="request_json")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
