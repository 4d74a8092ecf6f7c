"""One Merkle tree over an append-only list of records: roots, proofs, and their checks (RFC 9162 §2.1, with SM3).

Pure: knows hashes and positions; not rows, stores, keys or clocks. Who proves hands in `Subtree`, which gives the hash
of any complete subtree; who checks needs nothing but the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes

from core.errors import Refused

HASH_BYTES: Final = 32

#: (level, index) → the hash over leaves index·2^level up to (index + 1)·2^level.
Subtree = Callable[[int, int], bytes]


def _sm3(prefix: bytes, *parts: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(prefix + b"".join(parts))
    return digest.finalize()


def leaf_hash(record: bytes) -> bytes:
    """SM3(0x00 ‖ record) (RFC 9162 §2.1.1)."""
    return _sm3(b"\x00", record)


def node_hash(left: bytes, right: bytes) -> bytes:
    """SM3(0x01 ‖ left ‖ right)."""
    return _sm3(b"\x01", left, right)


def fold(level_hashes: Sequence[bytes]) -> bytes:
    """The hash over a complete subtree, from the 2^k hashes of one level of it. Raises ValueError for another count."""
    row = list(level_hashes)
    if not row or len(row) & (len(row) - 1):
        raise ValueError("a complete subtree has a power of two of hashes on each level")
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def _complete(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that leaves start to end fall into, left to right, where start is aligned to them."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _range_hash(start: int, end: int, subtree: Subtree) -> bytes:
    """MTH over leaves start to end, as RFC 9162 §2.1.1 splits them."""
    parts = [subtree(level, index) for level, index in _complete(start, end)]
    result = parts.pop()
    while parts:
        result = node_hash(parts.pop(), result)
    return result


def root(size: int, subtree: Subtree) -> bytes:
    """The root over the first `size` leaves; SM3 of nothing for none (RFC 9162 §2.1.1)."""
    return _range_hash(0, size, subtree) if size else _sm3(b"")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """PATH(index, D[size]) of RFC 9162 §2.1.3.1: the way from the leaf up. Raises ValueError outside the tree."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not among {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, subtree))
            end = middle
        else:
            path.append(_range_hash(start, middle, subtree))
            start = middle
    path.reverse()
    return path


def consistency_proof(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """PROOF(first, D[second]) of RFC 9162 §2.1.4.1; empty where the two are equal. Raises ValueError."""
    if not 0 < first <= second:
        raise ValueError(f"no tree of {first} leaves comes before one of {second}")
    path: list[bytes] = []
    start, end, wanted, known = 0, second, first, True
    while wanted != end - start:
        middle = _split(end - start)
        if wanted <= middle:
            path.append(_range_hash(start + middle, end, subtree))
            end = start + middle
        else:
            path.append(_range_hash(start, start + middle, subtree))
            start, wanted, known = start + middle, wanted - middle, False
    if not known:
        path.append(_range_hash(start, end, subtree))
    path.reverse()
    return path


def _refuse(what: str) -> Refused:
    return Refused(f"the {what} proof does not hold", code="merkle_proof")


def check_inclusion(leaf: bytes, index: int, size: int, proof: Iterable[bytes], expected: bytes) -> None:
    """Returns where `leaf` (its hash) is leaf `index` of the tree with root `expected` (RFC 9162 §2.1.3.2).

    Raises Refused (code "merkle_proof").
    """
    if not 0 <= index < size:
        raise _refuse("inclusion")
    position, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _refuse("inclusion")
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        position, last = position >> 1, last >> 1
    if last or result != expected:
        raise _refuse("inclusion")


def check_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Returns where the tree of `second` leaves only added to that of `first` (RFC 9162 §2.1.4.2).

    Raises Refused (code "merkle_proof").
    """
    if not 0 < first <= second:
        raise _refuse("consistency")
    if first == second:
        if proof or first_root != second_root:
            raise _refuse("consistency")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise _refuse("consistency")
    position, last = first - 1, second - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _refuse("consistency")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last or old != first_root or new != second_root:
        raise _refuse("consistency")


class Frontier:
    """The tree over the leaves added so far, as the roots of its complete subtrees: for one walk in order."""

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []
        self.size = 0

    @classmethod
    def of(cls, size: int, peaks: Sequence[bytes]) -> Frontier:
        """The tree of so many leaves whose complete subtrees have these roots, the largest first. Raises ValueError."""
        levels = [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]
        if len(levels) != len(peaks) or any(len(peak) != HASH_BYTES for peak in peaks):
            raise ValueError("not the subtrees of a tree of that size")
        made = cls()
        made.size, made._peaks = size, list(zip(levels, peaks, strict=True))
        return made

    @property
    def peaks(self) -> list[bytes]:
        """The roots of the complete subtrees, the largest first."""
        return [peak for _, peak in self._peaks]

    def add(self, leaf: bytes) -> None:
        """Adds the next leaf's hash."""
        level = 0
        while self._peaks and self._peaks[-1][0] == level:
            leaf = node_hash(self._peaks.pop()[1], leaf)
            level += 1
        self._peaks.append((level, leaf))
        self.size += 1

    def root(self) -> bytes:
        """The root over the leaves added so far."""
        if not self._peaks:
            return _sm3(b"")
        *before, (_, result) = self._peaks
        for _, peak in reversed(before):
            result = node_hash(peak, result)
        return result
