"""What an RA's client has to know of a certificate: who issued it, its number, its key and its time. No path is judged
here: whether it is valid, unrevoked and in role is for the service to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from qianyan_ra import _der as der
from qianyan_ra import _oids as oids
from qianyan_ra import _pure as pure
from qianyan_ra._errors import BadMessage


@dataclass(frozen=True, slots=True)
class Certificate:
    """`issuer`, `subject`: Names, DER. `public_key`: 04 ‖ x ‖ y."""

    encoded: bytes
    issuer: bytes
    subject: bytes
    serial: int
    public_key: bytes
    not_before: datetime
    not_after: datetime

    @classmethod
    def parse(cls, encoded: bytes) -> Certificate:
        """From DER (RFC 5280 §4.1). Raises BadMessage; codes "der", and "certificate" where its key is no SM2 key."""
        whole = der.Reader(encoded)
        tbs = whole.enter(der.SEQUENCE).enter(der.SEQUENCE)
        whole.finish()
        if tbs.peek() == der.CONTEXT_0:
            tbs.take_tlv()
        serial = tbs.integer()
        tbs.take_tlv(der.SEQUENCE)
        issuer = tbs.take_tlv(der.SEQUENCE)
        validity = tbs.enter(der.SEQUENCE)
        subject = tbs.take_tlv(der.SEQUENCE)
        public_key = read_key_info(tbs.take_tlv(der.SEQUENCE))
        not_before, not_after = der.read_time(validity), der.read_time(validity)
        return cls(encoded, issuer, subject, serial, public_key, not_before, not_after)

    @property
    def identifier(self) -> bytes:
        """IssuerAndSerialNumber, DER."""
        return der.sequence(self.issuer, der.integer(self.serial))

    @property
    def serial_hex(self) -> str:
        """The serial as the service writes it."""
        return self.serial.to_bytes(max(1, (self.serial.bit_length() + 7) // 8), "big").hex()


def read_key_info(encoded: bytes) -> bytes:
    """The point of a SubjectPublicKeyInfo with an SM2 key. Raises BadMessage (code "certificate")."""
    info = der.Reader(encoded).enter(der.SEQUENCE)
    if info.take_tlv(der.SEQUENCE) != oids.SPKI_ALGORITHM:
        raise BadMessage("the key is not an SM2 key", code="certificate")
    public_key = info.bit_string()
    info.finish()
    try:
        pure.point_from_bytes(public_key)
    except ValueError as error:
        raise BadMessage(f"the key is not an SM2 key: {error}", code="certificate") from error
    return public_key
