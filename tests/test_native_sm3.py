"""The native SM3 against OpenSSL's, against the reference, and against its own other entrances.

What could go wrong here is lengths (padding, block and lane boundaries) and state (a copy that shares, a digest
that consumes), so those are what the inputs are chosen for.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer._native import sm3 as native
from tests import vectors
from tests.reference import sm3 as reference

EDGES = [0, 1, 3, 4, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 129, 183, 184, 191, 192, 1000]


def openssl(data: bytes) -> bytes:
    """OpenSSL's SM3, through hashlib."""
    return hashlib.new("sm3", data).digest()


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes that differ from place to place and from lane to lane."""
    return bytes((i * 7 + length + seed * 31) & 255 for i in range(length))


@pytest.mark.parametrize("vector", vectors.load("sm2")["sm3"], ids=lambda v: v["name"])
def test_known_answers(vector: dict[str, Any]) -> None:
    assert native.sm3(bytes.fromhex(vector["msg_hex"])).hex() == vector["digest"]


def test_every_length_over_three_blocks() -> None:
    for length in range(200):
        assert native.sm3(pattern(length)) == openssl(pattern(length)), length


@given(st.binary(max_size=400))
def test_agrees_with_the_reference(data: bytes) -> None:
    assert native.sm3(data) == reference.sm3(data)


def test_a_long_message() -> None:
    data = pattern(3_000_017)
    assert native.sm3(data) == openssl(data)


@pytest.mark.parametrize("blocks", [31, 32, 33, 40, 47, 48, 64, 100])
def test_messages_of_many_blocks(blocks: int) -> None:
    for length in (64 * blocks - 9, 64 * blocks, 64 * blocks + 1, 64 * blocks + 55, 64 * blocks + 56):
        data = pattern(length)
        assert native.sm3(data) == openssl(data), length
        state = native.SM3(data[:70])
        state.update(data[70:])
        assert state.digest() == openssl(data), length


def test_any_buffer() -> None:
    data = pattern(100)
    for view in (bytearray(data), memoryview(data), memoryview(b"x" + data + b"x")[1:-1]):
        assert native.sm3(view) == openssl(data)


@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2]])
def test_what_is_not_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        native.sm3(wrong)
    with pytest.raises(TypeError):
        native.sm3_many([b"fine", wrong])
    with pytest.raises(TypeError):
        native.SM3().update(wrong)


# ---- many at once


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_many_of_one_length(count: int, length: int) -> None:
    messages = [pattern(length, seed) for seed in range(count)]
    assert native.sm3_many(messages) == b"".join(map(openssl, messages))


def test_many_of_none() -> None:
    assert native.sm3_many([]) == b""


@given(st.lists(st.binary(max_size=260), max_size=40))
def test_many_of_mixed_lengths(messages: list[bytes]) -> None:
    assert native.sm3_many(messages) == b"".join(map(openssl, messages))


@given(st.lists(st.integers(0, 3000), min_size=20, max_size=150))
@settings(max_examples=30, deadline=None)
def test_lanes_that_end_at_different_times(lengths: list[int]) -> None:
    messages = [pattern(length, seed) for seed, length in enumerate(lengths)]
    assert native.sm3_many(messages) == b"".join(map(openssl, messages))


def test_every_length_in_one_batch() -> None:
    messages = [pattern(length, 3) for length in range(301)]
    expected = [openssl(message) for message in messages]
    assert native.sm3_many(messages) == b"".join(expected)
    assert native.sm3_many(messages[::-1]) == b"".join(expected[::-1])


@pytest.mark.parametrize("at", [0, 1, 15, 16, 31, 32, 99])
def test_one_long_message_among_short_ones(at: int) -> None:
    messages = [pattern(40, seed) for seed in range(100)]
    messages[at] = pattern(100_003)
    assert native.sm3_many(messages) == b"".join(map(openssl, messages))


# ---- in pieces


@given(st.lists(st.binary(max_size=150), max_size=8))
def test_pieces_make_the_whole(pieces: list[bytes]) -> None:
    state = native.SM3()
    for piece in pieces:
        state.update(piece)
    assert state.digest() == openssl(b"".join(pieces))


def test_every_split_of_three_blocks() -> None:
    data = pattern(192)
    expected = openssl(data)
    for at in range(193):
        state = native.SM3(data[:at])
        state.update(data[at:])
        assert state.digest() == expected, at


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_a_copy_goes_its_own_way(head: bytes, left: bytes, right: bytes) -> None:
    first = native.SM3(head)
    second = first.copy()
    first.update(left)
    second.update(right)
    assert first.digest() == openssl(head + left)
    assert second.digest() == openssl(head + right)


def test_a_digest_does_not_consume() -> None:
    state = native.SM3(b"ab")
    assert state.digest() == state.digest() == openssl(b"ab")
    state.update(b"c")
    assert state.hexdigest() == openssl(b"abc").hex()


def test_the_shape_of_hashlib() -> None:
    state = native.SM3()
    assert (state.name, state.digest_size, state.block_size) == ("sm3", 32, 64)
    assert state.digest() == openssl(b"")


def test_threads_do_not_meet() -> None:
    messages = [pattern(1000 + seed, seed) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda m: native.sm3_many([m] * 20), messages))
    assert found == [openssl(m) * 20 for m in messages]
