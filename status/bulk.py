"""Status in bulk as octets: serials of 20 octets in, one octet for each out. Knows bytes and statuses only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.errors import Malformed, TooLarge
from core.model import CertificateState, CertificateStatus

CONTENT_TYPE: Final = "application/octet-stream"
#: Octets of a serial in a bulk question: right-aligned, zeros before it (RFC 5280 §4.1.2.2 allows 20).
SERIAL_BYTES: Final = 20

#: Octets of a bulk answer. 0 is never one of them.
_OCTETS: Final = {
    CertificateState.GOOD: 1,
    CertificateState.REVOKED: 2,
    CertificateState.HELD: 3,
    None: 4,
}


def parse_serials(body: bytes, most: int) -> list[int]:
    """The serials of a bulk question. Raises Malformed (code "serials_size"), TooLarge (code "serials_count")."""
    if len(body) % SERIAL_BYTES:
        raise Malformed(f"a serial takes {SERIAL_BYTES} octets; JSON goes as application/json", code="serials_size")
    if len(body) > most * SERIAL_BYTES:
        raise TooLarge(f"at most {most} serials in one request", code="serials_count")
    return [int.from_bytes(body[at : at + SERIAL_BYTES], "big") for at in range(0, len(body), SERIAL_BYTES)]


def status_octets(statuses: Sequence[CertificateStatus]) -> bytes:
    """One octet for each: 1 good, 2 revoked, 3 on hold, 4 never issued."""
    return bytes(_OCTETS[status.state] for status in statuses)
