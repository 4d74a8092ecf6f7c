"""Fields of CA-KM messages that are read alike everywhere: bounded integers, times, algorithms, keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from core import oids
from core.asn1 import der
from core.asn1.x509 import public_key_from_spki
from core.errors import Malformed, Refused
from signer._native import sm2

#: Certificate numbers have 20 octets at most (RFC 5280 §4.1.2.2); task numbers are held to the same.
MAX_INTEGER_BITS: Final = 160
_TIME: Final = re.compile(rb"[0-9]{14}(\.[0-9]{1,9})?Z")
#: The OID of SM2 keys, as id-ecPublicKey with the curve or as the curve's own.
_KEY_OIDS: Final = (der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE))


def integer(reader: der.Reader) -> int:
    """A non-negative INTEGER of bounded size. Raises Malformed."""
    value = reader.integer()
    if value.bit_length() > MAX_INTEGER_BITS:
        raise Malformed("an integer of the message has more than 20 octets", code="kmc_integer")
    return value


def time_ms(reader: der.Reader) -> int:
    """A GeneralizedTime in UTC, in milliseconds. Raises Malformed."""
    text = reader.take(der.GENERALIZED_TIME)
    if not _TIME.fullmatch(text):
        raise Malformed("a time of the message is not YYYYMMDDhhmmssZ", code="kmc_time")
    try:
        at = datetime.strptime(text[:14].decode("ascii"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise Malformed("a time of the message does not exist", code="kmc_time") from error
    fraction = text[15:-1] if text[14:15] == b"." else b""
    return int(at.timestamp()) * 1000 + int((fraction + b"000")[:3])


def algorithm(reader: der.Reader) -> bytes:
    """The object identifier (DER) of an AlgorithmIdentifier, whatever its parameters. Raises Malformed."""
    body = reader.enter(der.SEQUENCE)
    return body.take_tlv(der.OBJECT_IDENTIFIER)


def key_algorithm(reader: der.Reader) -> bool:
    """Whether an AlgorithmIdentifier is that of SM2 keys. Raises Malformed."""
    body = reader.enter(der.SEQUENCE)
    found = body.take_tlv(der.OBJECT_IDENTIFIER)
    if found != _KEY_OIDS[0]:
        return found == _KEY_OIDS[1]
    return body.peek() == der.OBJECT_IDENTIFIER and body.take_tlv(der.OBJECT_IDENTIFIER) == _KEY_OIDS[1]


def public_key(reader: der.Reader) -> bytes | None:
    """The point in a SubjectPublicKeyInfo, 65 bytes; None where it is no SM2 key. Raises Malformed."""
    spki = reader.take_tlv(der.SEQUENCE)
    try:
        return sm2.PublicKey.from_bytes(public_key_from_spki(spki)).to_bytes()
    except (Malformed, Refused, sm2.InvalidKey, sm2.InvalidEncoding):
        return None
