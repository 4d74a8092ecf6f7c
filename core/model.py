"""Values that cross package borders. No behaviour beyond what the value itself knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class CertificateState(StrEnum):
    """Where a certificate stands. `held` is certificateHold: the only state that may go back to `good`."""

    GOOD = "good"
    HELD = "held"
    REVOKED = "revoked"


class RevocationReason(IntEnum):
    """CRLReason (RFC 5280 §5.3.1). 7 is not used; removeFromCRL (8) is only ever written into delta CRLs."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10

    @property
    def label(self) -> str:
        """The name as the API and the command line spell it: `key_compromise`."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> RevocationReason:
        """Accepts snake_case and the RFC's camelCase (`keyCompromise`). ValueError where there is none."""
        folded = label.replace("_", "").replace("-", "").lower()
        for reason in cls:
            if reason.name.replace("_", "").lower() == folded:
                return reason
        raise ValueError(f"unknown reason {label!r}; one of: {', '.join(r.label for r in cls)}")


class KeyState(StrEnum):
    """A signing key's state. Only `active` signs; `compromised` and `retired` are final."""

    ACTIVE = "active"
    FROZEN = "frozen"
    COMPROMISED = "compromised"
    RETIRED = "retired"


class KeyPurpose(StrEnum):
    """What a key may be used for, and nothing else. `encrypt` decrypts and never signs; the others only sign."""

    DATA = "data"
    CERTIFICATE = "certificate"
    OCSP = "ocsp"
    AUDIT = "audit"
    TIMESTAMP = "timestamp"
    SEAL = "seal"
    ENCRYPT = "encrypt"
    STATUS_SET = "status_set"


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """The status of one serial under one authority, as the store has it.

    state None: the serial was never issued. Times in milliseconds since the epoch.
    """

    serial: int
    state: CertificateState | None
    revoked_at_ms: int | None = None
    reason: RevocationReason | None = None
    invalidity_at_ms: int | None = None
    not_after_ms: int | None = None


def serial_to_bytes(serial: int) -> bytes:
    """Minimal big-endian bytes of a positive serial; the form in which the store keeps it."""
    return serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big")


def serial_to_hex(serial: int) -> str:
    """Lower-case hex with an even number of digits; the form in JSON and on the command line."""
    return serial_to_bytes(serial).hex()


def serial_from_hex(text: str) -> int:
    """Reads what `serial_to_hex` writes, colons and upper case allowed. ValueError otherwise.

    At most 20 octets (RFC 5280 §4.1.2.2).
    """
    digits = text.replace(":", "").strip()
    if not 1 <= len(digits) <= 40:
        raise ValueError("a serial has 1 to 40 hexadecimal digits")
    if not all(c in "0123456789abcdefABCDEF" for c in digits):
        raise ValueError("a serial is written in hexadecimal digits")
    return int(digits, 16)
