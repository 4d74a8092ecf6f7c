"""The entries of one scope's CRL, kept encoded and sorted; and CRLs made of them in one pass.

Knows RFC 5280 §5.1's bytes; no store, names, extensions or keys. One thread at a time.
"""

from typing import final

#: (serial, big-endian and minimal; revocation time in seconds * 16 + reason, or None: not listed; the end of the
#: certificate in seconds, rounded up; invalidity date in seconds or None)
Row = tuple[bytes, int | None, int, int | None]

@final
class Draft:
    """A CRL that is not signed yet: DER, zeros where the signature goes. Readable through the buffer protocol."""

    @property
    def count(self) -> int:
        """How many entries it has."""
    @property
    def tbs(self) -> tuple[int, int]:
        """Where the TBSCertList begins and ends in it."""
    def seal(self, signature: bytes) -> bytes:
        """The signed CRL, made in place: the draft has no bytes any more. BufferError while one looks at them."""
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Entries:
    """Starts empty; `load_rows` or `load_copy` fill it once, `settle` takes it forward."""

    def load_rows(self, rows: list[Row]) -> None:
        """Appends listed rows, ascending by the octets of their serials. Raises ValueError."""
    def load_copy(self, piece: bytes) -> None:
        """The same from what PostgreSQL's binary COPY sends, in pieces of any length."""
    def draft(self, head: bytes, tail: bytes, algorithm: bytes, changes: list[Row], kept_from_s: int) -> Draft:
        """The CRL of these entries with `changes` made to them, less those that end before `kept_from_s`.

        head, tail: what a TBSCertList has before and after its revokedCertificates. The entries stay as they are.
        Raises ValueError for a serial that is not positive or does not fit 20 octets (RFC 5280 §4.1.2.2), or a time
        that cannot be told.
        """
    def settle(self, draft: Draft) -> None:
        """These entries become those of a sealed draft, whose bytes they share."""
    def __len__(self) -> int: ...
