"""Key agreement in the native core (GB/T 32918.3), against the standard's example and the reference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests import vectors
from tests.native_sm2 import private_key, scalars
from tests.reference import sm2 as reference


def test_the_standards_example() -> None:
    """GB/T 32918.5 Annex B, from both sides."""
    vector = vectors.load("sm2")["sm2_key_exchange"][0]
    da, db, ra, rb = (private_key(int(vector[name], 16)) for name in ("da", "db", "ra", "rb"))
    assert ra.public_key.to_bytes()[1:].hex() == vector["Ra"]
    expected = tuple(bytes.fromhex(vector[name]) for name in ("k", "s1_sb_tag02", "s2_sa_tag03"))
    assert sm2.agree(da, ra, db.public_key, rb.public_key, initiator=True) == expected
    assert sm2.agree(db, rb, da.public_key, ra.public_key, initiator=False) == expected


@given(scalars, scalars, scalars, scalars, st.integers(1, 80), st.binary(max_size=20))
@settings(max_examples=20, deadline=None)
def test_agrees_with_the_reference(da: int, ra: int, db: int, rb: int, length: int, user_id: bytes) -> None:
    points = [reference.public_key(k) for k in (da, ra, db, rb)]
    a = reference.Party(user_id, points[0], points[1], da, ra)
    b = reference.Party(b"somebody else", points[2], points[3])
    try:
        found = reference.exchange(a, b, length)
    except reference.Invalid:
        return
    keys = [private_key(k) for k in (da, ra, db, rb)]
    ours = sm2.agree(
        keys[0],
        keys[1],
        keys[2].public_key,
        keys[3].public_key,
        initiator=True,
        user_id=user_id,
        peer_user_id=b"somebody else",
        length=length,
    )
    assert ours == (found.key, found.s_b, found.s_a)
    theirs = sm2.agree(
        keys[2],
        keys[3],
        keys[0].public_key,
        keys[1].public_key,
        initiator=False,
        user_id=b"somebody else",
        peer_user_id=user_id,
        length=length,
    )
    assert theirs == ours


def test_infinity_is_refused() -> None:
    """6.1 A6: a peer whose keys cancel, P = -x1*R, brings U to infinity."""
    r = 4321
    point = reference.public_key(r)
    bar = (1 << 127) + (point[0] & ((1 << 127) - 1))
    d = -bar * r % reference.SM2.n
    own, ephemeral = private_key(5), private_key(6)
    with pytest.raises(sm2.InvalidKey):
        sm2.agree(own, ephemeral, private_key(d).public_key, private_key(r).public_key, initiator=True)


@pytest.mark.parametrize("length", [0, -1])
def test_a_key_of_nothing_is_refused(length: int) -> None:
    one, two = private_key(5), private_key(6)
    with pytest.raises(ValueError, match=r".*"):
        sm2.agree(one, two, one.public_key, two.public_key, initiator=True, length=length)
