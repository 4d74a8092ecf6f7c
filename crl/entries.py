"""Writes revokedCertificates (RFC 5280 §5.1.2.6), as fast as plain Python does.

Knows serials, times and reasons; not scopes, numbers or stores. One call per CRL: the DER of each distinct second
and of each reason is made once, and an entry is joined from ready pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core import oids
from core.asn1 import der
from core.asn1.x509 import Extension
from core.clock import to_datetime
from core.model import RevocationReason
from core.store.certificates import RevokedEntry

#: reasonCode (RFC 5280 §5.3.1), not critical; `unspecified` is left out, as §5.3.1 asks.
_REASON_EXTENSION: Final[dict[RevocationReason, bytes]] = {
    reason: Extension(oids.CRL_REASON, False, der.enumerated(int(reason))).encode()
    for reason in RevocationReason
    if reason is not RevocationReason.UNSPECIFIED
} | {RevocationReason.UNSPECIFIED: b""}

#: The crlEntryExtensions of an entry that has nothing but its reason.
_REASON_ONLY: Final = {
    reason: der.sequence(extension) if extension else b"" for reason, extension in _REASON_EXTENSION.items()
}


def _extensions(entry: RevokedEntry) -> bytes:
    if entry.invalidity_at_ms is None:
        return _REASON_ONLY[entry.reason]
    invalidity = der.generalized_time(to_datetime(entry.invalidity_at_ms))  # RFC 5280 §5.3.2
    extension = Extension(oids.INVALIDITY_DATE, False, invalidity).encode()
    return der.sequence(_REASON_EXTENSION[entry.reason], extension)


def encode_entries(entries: Iterable[RevokedEntry]) -> bytes:
    """The joined entries, in the order given, without the SEQUENCE around them.

    Raises ValueError for a serial that is not positive or does not fit 20 octets (RFC 5280 §4.1.2.2).
    """
    times: dict[int, bytes] = {}
    parts: list[bytes] = []
    for entry in entries:
        serial = entry.serial
        if not 0 < serial < 1 << 159:
            raise ValueError("a serial is positive and fits 20 octets")
        second = entry.revoked_at_ms // 1000
        time = times.get(second)
        if time is None:
            time = times[second] = der.x509_time(to_datetime(entry.revoked_at_ms))
        octets = serial.bit_length() // 8 + 1
        extensions = _extensions(entry)
        # At most 22 + 17 + 40 octets (serial, time, both extensions): every length here fits one octet.
        parts.append(bytes((der.SEQUENCE, 2 + octets + len(time) + len(extensions), der.INTEGER, octets)))
        parts.append(serial.to_bytes(octets, "big"))
        parts.append(time)
        parts.append(extensions)
    return b"".join(parts)
