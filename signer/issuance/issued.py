"""What an issuance gives: the certificates, the chain above them, and the enveloped encryption key.

`Issued.to_body` is the answer as it is sent and remembered under an idempotency key, so that a retry gets the very
same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from core.http import from_base64, to_base64
from core.model import serial_from_hex, serial_to_hex


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One certificate. `usage`: "sign" or "encrypt"."""

    usage: str
    serial: int
    der: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """The signing certificate first, then the encryption certificate where the profile is dual.

    chain: the issuing authority's certificate first, the root's last. enveloped_key: DER SM2EnvelopedKey; None where
    there is no encryption key, or it stayed the same. holder_id: where the certificates belong to a known holder.
    """

    certificates: tuple[IssuedCertificate, ...]
    chain: tuple[bytes, ...]
    enveloped_key: bytes | None
    holder_id: str | None = None

    def to_body(self) -> bytes:
        """The JSON answer."""
        holder = {} if self.holder_id is None else {"holder": self.holder_id}
        return orjson.dumps(
            holder
            | {
                "certificates": [
                    {"serial": serial_to_hex(c.serial), "usage": c.usage, "certificate": to_base64(c.der)}
                    for c in self.certificates
                ],
                "chain": [to_base64(certificate) for certificate in self.chain],
                "enveloped_key": None if self.enveloped_key is None else to_base64(self.enveloped_key),
            }
        )

    @classmethod
    def from_body(cls, body: bytes) -> Issued:
        """Reads what `to_body` wrote."""
        value = orjson.loads(body)
        certificates = tuple(
            IssuedCertificate(c["usage"], serial_from_hex(c["serial"]), from_base64(c["certificate"], "certificate"))
            for c in value["certificates"]
        )
        chain = tuple(from_base64(certificate, "chain") for certificate in value["chain"])
        key = value["enveloped_key"]
        enveloped = None if key is None else from_base64(key, "enveloped_key")
        return cls(certificates, chain, enveloped, value.get("holder"))
