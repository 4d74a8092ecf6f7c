"""Digests of many messages at once: each is what PublicKey.digest gives, whatever is beside it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import BATCHES, D, private_key

LONG = 1 << 20


def publics(count: int) -> list[sm2.PublicKey]:
    """Keys that have not been asked for their Z."""
    return [sm2.PublicKey.from_bytes(private_key(D + i).public_key.to_bytes()) for i in range(count)]


def one_by_one(keys: list[sm2.PublicKey], messages: list[bytes], user_id: bytes = sm2.DEFAULT_ID) -> bytes:
    pairs = zip(keys, messages, strict=True)
    return b"".join(key.digest(message, user_id=user_id) for key, message in pairs)


@pytest.mark.parametrize("count", BATCHES)
def test_one_key_or_one_for_each(count: int) -> None:
    keys, messages = publics(count), [bytes([i]) * (13 * i % 150) for i in range(count)]
    expected = one_by_one(publics(count), messages)
    assert sm2.digest_many(keys, messages) == expected
    assert sm2.digest_many(keys, messages) == expected  # Z is kept by now
    assert sm2.digest_many(keys[0], messages) == one_by_one([keys[0]] * count, messages)


def test_some_keys_have_been_asked_for_their_z_before() -> None:
    keys, messages = publics(40), [b"m"] * 40
    for key in keys[::3]:
        key.digest(b"")
    assert sm2.digest_many(keys, iter(messages)) == one_by_one(publics(40), messages)


@given(st.lists(st.binary(max_size=200), max_size=40), st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_identifier(messages: list[bytes], user_id: bytes) -> None:
    keys = publics(len(messages))
    assert sm2.digest_many(keys, messages, user_id=user_id) == one_by_one(keys, messages, user_id)


def test_an_identifier_that_only_equals_the_default_one() -> None:
    keys, messages = publics(3), [b"a", b"b", b"c"]
    same = bytes(bytearray(sm2.DEFAULT_ID))
    assert sm2.digest_many(keys, messages, user_id=same) == sm2.digest_many(keys, messages)


def test_messages_longer_than_what_is_copied_at_once() -> None:
    """One that fits alone, one that does not, several that fit together."""
    lengths = [LONG - 32, 5, LONG - 31, LONG // 2, LONG // 2, 0, 3 * LONG, LONG // 3, LONG // 3, LONG // 3, 1]
    messages = [bytes([i + 1]) * length for i, length in enumerate(lengths)]
    keys = publics(len(messages))
    assert sm2.digest_many(keys, messages) == one_by_one(keys, messages)


def test_no_messages() -> None:
    assert sm2.digest_many([], []) == b""
    assert sm2.digest_many(publics(1)[0], []) == b""


def test_digests_verify() -> None:
    key, messages = private_key(D), [bytes([i]) * i for i in range(50)]
    digests = sm2.digest_many(key.public_key, messages)
    assert sm2.verify_many(key.public_key, digests, sm2.sign_many(key, digests)) == b"\x01" * 50
    key.public_key.verify(messages[7], key.sign_digest(digests[32 * 7 :][:32]))


@pytest.mark.parametrize(
    ("keys", "messages", "error"),
    [
        (publics(2), [b"one"], ValueError),
        ([], [b"one"], ValueError),
        (private_key(D), [b"one"], TypeError),
        ([private_key(D)], [b"one"], TypeError),
        (publics(1), ["text"], TypeError),
        (publics(1), [bytearray(b"changes")], TypeError),
        (publics(1), [None], TypeError),
    ],
)
def test_what_does_not_fit_is_refused(keys: Any, messages: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        sm2.digest_many(keys, messages)


def test_identifiers_that_are_none() -> None:
    with pytest.raises(ValueError, match="8191"):
        sm2.digest_many(publics(1), [b""], user_id=bytes(8192))
    wrong: Any = None
    with pytest.raises(TypeError):
        sm2.digest_many(publics(1), [b""], user_id=wrong)
