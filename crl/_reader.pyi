"""Reads CRLs strictly and compares them, without a Python object for each entry. Shares no code with the builder."""

from collections.abc import Sequence
from typing import Any, final

from typing_extensions import Buffer

@final
class Listing:
    """A CRL as it stands. Keeps what it was read from. Raises ValueError where that is no CRL.

    Everything outside the entries is in the attributes: `tbs` and `signature_at` are (start, end) in the CRL;
    `algorithms` the inner and outer AlgorithmIdentifier; times in milliseconds; `extensions` (OID contents, critical,
    value), in order, None where there are none. `faults`: what is wrong with the entries, as (code, serial).
    """

    tbs: tuple[int, int]
    signature: bytes
    version: int | None
    algorithms: tuple[bytes, bytes]
    issuer: bytes
    this_update_ms: int
    next_update_ms: int | None
    extensions: list[tuple[bytes, bool, bytes]] | None
    faults: list[tuple[str, int]]
    def __init__(self, crl: Buffer) -> None: ...
    def release(self) -> None:
        """Lets go of the CRL's buffer, so that a draft can be sealed. Not to be read from any more."""
    def __len__(self) -> int: ...
    def find(self, serial: int) -> tuple[int, int, int | None] | None:
        """(revocation time in seconds, reason, invalidity date in seconds) of a serial; None where it is not listed."""
    def rows(self) -> list[tuple[int, int, int, int | None]]:
        """(serial, revocation time, reason, invalidity date) of every entry: for CRLs that are not long."""

#: What a comparison found: how many, and some of the serials, by kind: "lost", "missing", "wrong", "unknown".
Finds = dict[str, tuple[int, list[int]]]

@final
class Facts:
    """What the store says of serials: changes, and the present state."""

    def __init__(self) -> None: ...
    def add(
        self,
        serial: bytes,
        seq: int,
        kind: int,
        moving: bool,
        state: int,
        revoked_s: int,
        reason: int,
        invalidity_s: int | None,
        not_after_ms: int,
    ) -> None:
        """One change, or a state only (kind 0). kind: 1 listed, 2 released; state: 0 never issued, 1 good, 2 revoked.

        moving: the change is past the position that the CRL reflects.
        """
    def add_changes(self, rows: Sequence[Sequence[Any]], feed_seq: int, fresh_after_seq: int) -> list[int]:
        """As `add`, of many: (seq, "revoked", "held" or "released", serial, revocation time in ms or None, reason,
        invalidity date in ms, end in ms, time of change in ms). Those past `feed_seq` are moving. Returns the times of
        those between `fresh_after_seq` and `feed_seq`. Rows of four are without a state: (seq, kind, serial, time of
        change).
        """
    def add_states(self, rows: Sequence[Sequence[Any]]) -> None:
        """States of revoked certificates: (serial, revocation time in ms, reason, invalidity date in ms, end in ms)."""
    def without_state(self) -> list[int]:
        """Serials of which there are changes and no state."""
    def drop_without_state(self) -> None:
        """Forgets these: certificates that the store no longer has."""
    def __len__(self) -> int: ...

def compare(now: Listing, before: Listing | None, facts: Facts, kept_from_ms: int, named: int) -> Finds:
    """A full CRL against the one before it and the facts; at most `named` serials of each kind."""

def compare_delta(delta: Listing, full: Listing, facts: Facts, kept_from_ms: int, named: int) -> Finds:
    """A delta against the full CRL of the same number and the facts since its base."""

def contradictions(delta: Listing, full: Listing, named: int) -> Finds:
    """Entries of a delta that the full CRL of the same number has otherwise, as "wrong"."""

def common(a: Listing, b: Listing, named: int) -> Finds:
    """Serials that both list, as "wrong"."""
