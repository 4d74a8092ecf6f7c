"""Keys of the native SM2: what comes in, what is refused, and that nothing leaks out."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import MESSAGE, D, N, P, flip, private_key, scalars
from tests.reference import sm2 as reference
from tests.reference.sm3 import sm3


@pytest.fixture(scope="module")
def key() -> sm2.PrivateKey:
    """The private key of GB/T 32918.5 Annex A."""
    return private_key(D)


@given(scalars)
@example(1)
@example(2)
@example(N - 2)
@settings(max_examples=60, deadline=None)
def test_public_keys(d: int) -> None:
    expected = reference.public_key(d)
    public = private_key(d).public_key
    assert public.to_bytes() == reference.encode_point(expected)
    compressed = bytes([2 + expected[1] % 2]) + expected[0].to_bytes(32, "big")
    for encoding in (public.to_bytes(), compressed):
        assert sm2.PublicKey.from_bytes(encoding).to_bytes() == public.to_bytes()


@pytest.mark.parametrize("d", [0, N - 1, N, N + 1, 2**256 - 1])
def test_private_keys_out_of_range(d: int) -> None:
    """GM/T 0009 5.1: 1 to n-2; n-1 would make 1+d zero."""
    with pytest.raises(sm2.InvalidKey):
        private_key(d)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_private_keys_of_a_wrong_length(length: int) -> None:
    with pytest.raises((sm2.InvalidKey, sm2.InvalidEncoding, ValueError)):
        sm2.PrivateKey.from_bytes(b"\x01" * length)


def bad_points() -> dict[str, bytes]:
    """Encodings that are no public key."""
    good = reference.encode_point(reference.public_key(D))
    x_off = next(x for x in range(1, 100) if not _has_point(x))
    small = next(x for x in range(1, 100) if _has_point(x))
    low = reference.SM2.lift_x(small)
    assert low is not None
    return {
        "empty": b"",
        "infinity": b"\x00",
        "infinity padded": bytes(65),
        "short": good[:-1],
        "long": good + b"\x00",
        "no prefix": good[1:],
        "hybrid": b"\x06" + good[1:],
        "unknown prefix": b"\x05" + good[1:],
        "zero": b"\x04" + bytes(64),
        "off curve y": flip(good, 8 * 64),
        "off curve x": flip(good, 8 * 10),
        "swapped": b"\x04" + good[33:] + good[1:33],
        "x is p": b"\x04" + P.to_bytes(32, "big") + good[33:],
        "x + p": b"\x04" + (small + P).to_bytes(32, "big") + low[1].to_bytes(32, "big"),
        "all ones": b"\x04" + b"\xff" * 64,
        "-G": reference.encode_point(reference.SM2.negate(reference.SM2.g)),
        "-G compressed": _compressed(reference.SM2.negate(reference.SM2.g)),
        "compressed, no point": b"\x02" + x_off.to_bytes(32, "big"),
        "compressed, x + p": b"\x02" + (small + P).to_bytes(32, "big"),
        "compressed, short": b"\x02" + good[1:32],
        "compressed, long": b"\x02" + good[1:34],
        "uncompressed prefix, 33 bytes": good[:33],
    }


def _has_point(x: int) -> bool:
    try:
        reference.SM2.lift_x(x)
    except reference.Invalid:
        return False
    return True


def _compressed(point: reference.Point) -> bytes:
    assert point is not None
    return bytes([2 + point[1] % 2]) + point[0].to_bytes(32, "big")


@pytest.mark.parametrize("name", bad_points())
def test_bad_public_keys(name: str) -> None:
    with pytest.raises((sm2.InvalidKey, sm2.InvalidEncoding)):
        sm2.PublicKey.from_bytes(bad_points()[name])


@given(st.one_of(st.binary(max_size=70), st.binary(min_size=64, max_size=64).map(lambda b: b"\x04" + b)))
def test_garbage_is_no_public_key(data: bytes) -> None:
    try:
        expected: bytes | None = reference.encode_point(reference.decode_point(data))
    except reference.Invalid:
        expected = None
    if expected is None:
        with pytest.raises((sm2.InvalidKey, sm2.InvalidEncoding)):
            sm2.PublicKey.from_bytes(data)
    else:
        assert sm2.PublicKey.from_bytes(data).to_bytes() == expected


@given(st.binary(min_size=32, max_size=32), st.sampled_from([2, 3]))
@settings(max_examples=60, deadline=None)
def test_compressed_keys_agree_with_the_reference(x: bytes, prefix: int) -> None:
    """About half of all x have a point; for the other half both must say so."""
    data = bytes([prefix]) + x
    try:
        expected = reference.encode_point(reference.decode_point(data))
    except reference.Invalid:
        with pytest.raises((sm2.InvalidKey, sm2.InvalidEncoding)):
            sm2.PublicKey.from_bytes(data)
    else:
        assert sm2.PublicKey.from_bytes(data).to_bytes() == expected


def test_generated_keys() -> None:
    """Fresh, in range, exported as they are, and their own public keys'."""
    seen = set()
    for _ in range(20):
        made = sm2.PrivateKey.generate()
        room = bytearray(32)
        made.export_into(room)
        d = int.from_bytes(room, "big")
        assert 1 <= d <= N - 2
        seen.add(d)
        assert made.public_key.to_bytes() == reference.encode_point(reference.public_key(d))
    assert len(seen) == 20


@pytest.mark.parametrize("room", [bytearray(31), bytearray(33), bytearray(), bytes(32), None])
def test_export_wants_room_for_exactly_a_key(key: sm2.PrivateKey, room: Any) -> None:
    before = None if room is None else bytes(room)
    with pytest.raises((TypeError, ValueError, BufferError)):
        key.export_into(room)
    assert before == (None if room is None else bytes(room))


def test_private_keys_do_not_travel(key: sm2.PrivateKey) -> None:
    """Not by pickle, not by copy: a second copy is one that nobody wipes."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises((TypeError, pickle.PicklingError)):
            pickle.dumps(key, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(key)


def test_private_keys_are_silent(key: sm2.PrivateKey) -> None:
    words = [repr(key), str(key), f"{key}", *map(str, vars(key).values() if hasattr(key, "__dict__") else [])]
    secret = f"{D:064x}"
    raw = D.to_bytes(32, "big")
    for word in words:
        assert secret not in word.lower()
        assert str(D) not in word
        assert repr(raw)[2:10] not in word
    with pytest.raises((TypeError, BufferError)):
        memoryview(key)  # type: ignore[arg-type]


def test_keys_have_no_open_constructor() -> None:
    for cls in (sm2.PrivateKey, sm2.PublicKey):
        with pytest.raises(TypeError):
            cls()


def test_an_empty_private_key_does_nothing() -> None:
    empty = sm2.PrivateKey.__new__(sm2.PrivateKey)
    with pytest.raises(sm2.InvalidKey):
        empty.sign_digest(bytes(32))
    with pytest.raises(sm2.InvalidKey):
        empty.export_into(bytearray(32))
    with pytest.raises(sm2.InvalidKey):
        _ = empty.public_key


def test_an_empty_public_key_accepts_nothing() -> None:
    """Zeros taken for the point at infinity would make sG + tP = sG, and anybody's (r, s) valid."""
    r, s = 12345, 777
    point = reference.SM2.multiply(s, reference.SM2.g)
    assert point is not None
    e = ((r - point[0]) % N).to_bytes(32, "big")
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    with pytest.raises((TypeError, sm2.InvalidKey, sm2.InvalidSignature)):
        sm2.PublicKey.__new__(sm2.PublicKey).verify_digest(e, signature)
    with pytest.raises((TypeError, sm2.InvalidKey)):
        sm2.PublicKey.__new__(sm2.PublicKey).encrypt(b"in the open")


def test_a_wiped_key_does_nothing_more() -> None:
    """After wipe() no operation works; the public key stays where it had been asked for."""
    key = private_key(D)
    public = key.public_key
    sealed = public.encrypt(MESSAGE)
    key.wipe()
    key.wipe()
    for call in (
        lambda: key.sign(MESSAGE),
        lambda: key.sign_digest(sm3(MESSAGE)),
        lambda: sm2.sign_many(key, sm3(MESSAGE)),
        lambda: sm2.sign_many([private_key(1), key], sm3(MESSAGE) * 2),
        lambda: key.decrypt(sealed),
        lambda: key.export_into(bytearray(32)),
    ):
        with pytest.raises(sm2.InvalidKey):
            call()
    assert key.public_key.to_bytes() == public.to_bytes()


def test_public_keys_compare_by_value() -> None:
    one, same, other = private_key(D).public_key, private_key(D).public_key, private_key(D + 1).public_key
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != one.to_bytes()
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("count", [0, 1, 7, 16, 40])
def test_many_keys_at_once(count: int) -> None:
    made = sm2.generate_many(count)
    seen = set()
    for key in made:
        room = bytearray(32)
        key.export_into(room)
        seen.add(bytes(room))
        expected = reference.encode_point(reference.public_key(int.from_bytes(room, "big")))
        assert key.public_key.to_bytes() == expected
    assert len(seen) == len(made) == count
