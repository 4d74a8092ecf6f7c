"""The Merkle tree against the recursive definitions of RFC 9162 §2.1, for every size and position up to some."""

from __future__ import annotations

import hashlib

import pytest

from core import merkle
from core.errors import Refused

MOST = 70


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def _mth(records: list[bytes]) -> bytes:
    """MTH as it is written down: no sharing, no loop."""
    if not records:
        return _sm3(b"")
    if len(records) == 1:
        return _sm3(b"\x00" + records[0])
    k = 1
    while k * 2 < len(records):
        k *= 2
    return _sm3(b"\x01" + _mth(records[:k]) + _mth(records[k:]))


RECORDS = [b"record %d" % i for i in range(MOST)]
LEAVES = [merkle.leaf_hash(record) for record in RECORDS]
ROOTS = [_mth(RECORDS[:size]) for size in range(MOST + 1)]


def subtree(level: int, index: int) -> bytes:
    return merkle.fold(LEAVES[index << level : (index + 1) << level])


def test_roots() -> None:
    assert [merkle.root(size, subtree) for size in range(MOST + 1)] == ROOTS


def test_roots_along_a_walk() -> None:
    tree = merkle.Frontier()
    seen = [tree.root()]
    for leaf in LEAVES:
        tree.add(leaf)
        seen.append(tree.root())
    assert seen == ROOTS
    assert tree.size == MOST


def test_every_leaf_of_every_tree_is_proved() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, subtree)
            merkle.check_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


def test_every_tree_is_proved_to_continue_every_earlier_one() -> None:
    for second in range(1, MOST + 1):
        for first in range(1, second + 1):
            proof = merkle.consistency_proof(first, second, subtree)
            merkle.check_consistency(first, second, ROOTS[first], ROOTS[second], proof)


def test_only_complete_subtrees_inside_the_tree_are_asked_for() -> None:
    def inside(level: int, index: int) -> bytes:
        assert (index + 1) << level <= 37
        return subtree(level, index)

    for index in range(37):
        merkle.inclusion_proof(index, 37, inside)
    for first in range(1, 38):
        merkle.consistency_proof(first, 37, inside)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 64, 65])
def test_a_wrong_leaf_position_size_hash_or_root_is_refused(size: int) -> None:
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, subtree)
        other = merkle.leaf_hash(b"another")
        wrong = [
            (other, index, size, proof, ROOTS[size]),
            (LEAVES[index], index, size, proof, ROOTS[size - 1]),
            (LEAVES[index], index, size, [*proof, other], ROOTS[size]),
            (LEAVES[index], size, size, proof, ROOTS[size]),
            (LEAVES[index], -1, size, proof, ROOTS[size]),
            (LEAVES[index], index, size + (1 << 40), proof, ROOTS[size]),
            *((LEAVES[index], i, size, proof, ROOTS[size]) for i in range(size) if i != index),
            *(
                (LEAVES[index], index, size, [*proof[:i], other, *proof[i + 1 :]], ROOTS[size])
                for i in range(len(proof))
            ),
        ]
        if proof:
            wrong.append((LEAVES[index], index, size, proof[:-1], ROOTS[size]))
        for case in wrong:
            with pytest.raises(Refused, match="inclusion"):
                merkle.check_inclusion(*case)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (3, 7), (4, 8), (6, 8), (7, 64), (13, 65), (64, 65)])
def test_a_tree_that_is_no_continuation_is_refused(first: int, second: int) -> None:
    # A size that is off by a little may have a proof of the same shape: sizes are bound by what signs the roots.
    proof = merkle.consistency_proof(first, second, subtree)
    other = merkle.leaf_hash(b"another")
    wrong = [
        (first, second, other, ROOTS[second], proof),
        (first, second, ROOTS[first], other, proof),
        (first, second, ROOTS[first], ROOTS[second], proof[:-1]),
        (first, second, ROOTS[first], ROOTS[second], [*proof, other]),
        (first, second, ROOTS[first], ROOTS[second], []),
        (second, first, ROOTS[first], ROOTS[second], proof),
        (first, first, ROOTS[first], ROOTS[second], []),
        *(
            (first, second, ROOTS[first], ROOTS[second], [*proof[:i], other, *proof[i + 1 :]])
            for i in range(len(proof))
        ),
    ]
    for case in wrong:
        with pytest.raises(Refused, match="consistency"):
            merkle.check_consistency(*case)


def test_what_is_outside_the_tree_cannot_be_proved() -> None:
    with pytest.raises(ValueError, match="not among"):
        merkle.inclusion_proof(5, 5, subtree)
    with pytest.raises(ValueError, match="no tree of"):
        merkle.consistency_proof(0, 5, subtree)
    with pytest.raises(ValueError, match="no tree of"):
        merkle.consistency_proof(6, 5, subtree)
    with pytest.raises(ValueError, match="power of two"):
        merkle.fold(LEAVES[:3])
