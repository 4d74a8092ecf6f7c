"""Look-ups in memory: a table of spaces and two bitmaps over their line, one certificate or many at a time.

A record asks about one certificate, 16 octets, little-endian: month (4), index (4), notBefore in seconds since 1970
(8, signed). The compiled `_speed` answers the same; where it is not there, Python does.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

RECORD_BYTES: Final = 16


class Status(IntEnum):
    """What is known of a certificate; as an octet in bulk answers. 0 is never an answer.

    HELD is certificateHold: revoked for now, and may come back. UNKNOWN: it was good once, and what is here is too
    old to say so still: ask OCSP. NOT_COVERED: this set says nothing of the certificate: ask OCSP.
    """

    GOOD = 1
    REVOKED = 2
    HELD = 3
    UNKNOWN = 4
    NOT_COVERED = 5


@dataclass(frozen=True, slots=True)
class Table:
    """`spaces`: (month, first, next) by ascending month; `revoked`, `held`: bitmaps over the line that the spaces make
    end to end, least significant bit first; `as_of`: seconds since 1970."""

    spaces: tuple[tuple[int, int, int], ...]
    revoked: bytes
    held: bytes
    as_of: int


def _spaces_by_month(table: Table) -> dict[int, tuple[int, int, int]]:
    offset = 0
    found = {}
    for month, first, following in table.spaces:
        found[month] = (first, following, offset - first)
        offset += following - first
    return found


class PythonIndex:
    """The look-ups in Python."""

    def __init__(self, table: Table) -> None:
        self._by_month = _spaces_by_month(table)
        self._revoked = table.revoked
        self._held = table.held
        self._as_of = table.as_of

    def find(self, month: int, index: int, not_before: int, stale: bool) -> int:
        """A Status for one certificate. `stale`: the set is past its nextUpdate."""
        space = self._by_month.get(month)
        if space is None or not space[0] <= index < space[1] or not_before > self._as_of:
            return int(Status.NOT_COVERED)
        place = index + space[2]
        bit = 1 << (place & 7)
        if self._revoked[place >> 3] & bit:
            return int(Status.REVOKED)
        if stale:
            return int(Status.UNKNOWN)
        return int(Status.HELD if self._held[place >> 3] & bit else Status.GOOD)

    def find_many(self, records: bytes | bytearray | memoryview, stale: bool) -> bytes:
        """A Status octet for each record."""
        if len(records) % RECORD_BYTES:
            raise ValueError(f"records are {RECORD_BYTES} octets each")
        asked = struct.iter_unpack("<IIq", records)
        return bytes(self.find(month, index, not_before, stale) for month, index, not_before in asked)


def fastest_index() -> Callable[[Table], PythonIndex]:
    """The compiled look-ups where they are built, else Python's; both take a Table and answer alike."""
    if sys.byteorder != "little":
        return PythonIndex
    try:
        from qianyan_status._speed import FastIndex
    except ImportError:
        return PythonIndex
    compiled: Callable[[Table], PythonIndex] = FastIndex
    return compiled
