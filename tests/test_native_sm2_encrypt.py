"""SM2 encryption in the native core: the reference opens it, and every change is refused."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import MESSAGE, D, flip, private_key, scalars
from tests.reference import sm2 as reference


@pytest.fixture(scope="module")
def key() -> sm2.PrivateKey:
    """The private key of GB/T 32918.5 Annex A."""
    return private_key(D)


@given(scalars, st.binary(min_size=1, max_size=300), st.sampled_from(["der", "c1c3c2"]))
@settings(max_examples=40, deadline=None)
def test_ciphertexts_open_by_the_reference(d: int, plaintext: bytes, encoding: str) -> None:
    key = private_key(d)
    sealed = key.public_key.encrypt(plaintext, encoding=encoding)
    read = reference.cipher_from_der if encoding == "der" else reference.cipher_from_raw
    assert reference.decrypt(d, read(sealed)) == plaintext
    assert key.decrypt(sealed, encoding=encoding) == plaintext


@given(scalars, scalars, st.binary(min_size=8, max_size=300))
@settings(max_examples=40, deadline=None)
def test_the_references_ciphertexts_open(d: int, k: int, plaintext: bytes) -> None:
    cipher = reference.encrypt(reference.public_key(d), plaintext, k)
    assert private_key(d).decrypt(cipher.der(), encoding="der") == plaintext
    assert private_key(d).decrypt(cipher.raw(), encoding="c1c3c2") == plaintext


def test_a_single_byte_always_encrypts(key: sm2.PrivateKey) -> None:
    """One key stream in 256 is all zero and must be drawn again (A5): a text that shows through is the fault."""
    for _ in range(2000):
        sealed = key.public_key.encrypt(b"\x5a", encoding="c1c3c2")
        assert sealed[-1] != 0x5A
    assert key.decrypt(sealed, encoding="c1c3c2") == b"\x5a"


def test_no_two_ciphertexts_are_alike(key: sm2.PrivateKey) -> None:
    assert len({key.public_key.encrypt(MESSAGE, encoding="c1c3c2")[:65] for _ in range(50)}) == 50


def test_nothing_is_not_encrypted(key: sm2.PrivateKey) -> None:
    with pytest.raises(ValueError, match=r".*"):
        key.public_key.encrypt(b"", encoding="der")


def test_unknown_encodings_are_refused(key: sm2.PrivateKey) -> None:
    with pytest.raises(ValueError, match=r".*"):
        key.public_key.encrypt(MESSAGE, encoding="c1c2c3")
    with pytest.raises(ValueError, match=r".*"):
        key.decrypt(key.public_key.encrypt(MESSAGE, encoding="der"), encoding="DER ")


@given(st.integers(0, 8 * (97 + len(MESSAGE)) - 1))
@settings(max_examples=120, deadline=None)
def test_a_flipped_ciphertext_bit_is_refused(bit: int) -> None:
    key = private_key(D)
    sealed = key.public_key.encrypt(MESSAGE, encoding="c1c3c2")
    with pytest.raises((sm2.DecryptionError, sm2.InvalidEncoding)):
        key.decrypt(flip(sealed, bit), encoding="c1c3c2")


def test_another_key_does_not_open(key: sm2.PrivateKey) -> None:
    with pytest.raises(sm2.DecryptionError):
        private_key(D + 1).decrypt(key.public_key.encrypt(MESSAGE, encoding="der"), encoding="der")


@given(st.binary(max_size=200), st.sampled_from(["der", "c1c3c2"]))
@example(b"\x04" + bytes(96), "c1c3c2")
@example(b"\x30\x80", "der")
def test_garbage_ciphertexts(data: bytes, encoding: str) -> None:
    with pytest.raises((sm2.DecryptionError, sm2.InvalidEncoding)):
        private_key(D).decrypt(data, encoding=encoding)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_ciphertext_der_with_a_byte_changed(data: st.DataObject) -> None:
    """Every single-byte change of a DER ciphertext is refused: nothing in it is without meaning."""
    good = bytearray(reference.encrypt(reference.public_key(D), MESSAGE, 0x1234567).der())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((sm2.DecryptionError, sm2.InvalidEncoding)):
        private_key(D).decrypt(bytes(good), encoding="der")


def test_the_plaintext_goes_into_memory_of_the_callers(key: sm2.PrivateKey) -> None:
    sealed = key.public_key.encrypt(MESSAGE)
    room = bytearray(b"\xaa" * (len(MESSAGE) + 2))
    assert key.decrypt_into(sealed, room) == len(MESSAGE)
    assert room == MESSAGE + b"\xaa\xaa"
    small = bytearray(len(MESSAGE) - 1)
    with pytest.raises(ValueError, match=r".*"):
        key.decrypt_into(sealed, small)
    assert small == bytes(len(small))


def test_a_refused_ciphertext_releases_nothing(key: sm2.PrivateKey) -> None:
    """B6: where C3 does not fit, no byte of the text reaches the caller."""
    sealed = bytearray(key.public_key.encrypt(MESSAGE, encoding="c1c3c2"))
    sealed[70] ^= 1
    room = bytearray(len(MESSAGE))
    with pytest.raises(sm2.DecryptionError):
        key.decrypt_into(sealed, room, encoding="c1c3c2")
    assert MESSAGE not in room
    assert room.count(0) == len(room)


@given(scalars, st.binary(min_size=8, max_size=300))
@settings(max_examples=30, deadline=None)
def test_ciphertext_encodings(k: int, plaintext: bytes) -> None:
    cipher = reference.encrypt(reference.public_key(D), plaintext, k)
    assert sm2.ciphertext_to_der(cipher.raw()) == cipher.der()
    assert sm2.ciphertext_from_der(cipher.der()) == cipher.raw()


@given(st.binary(max_size=200))
def test_garbage_is_no_ciphertext(data: bytes) -> None:
    """Either InvalidEncoding, or what was read encodes to these very bytes."""
    try:
        raw = sm2.ciphertext_from_der(data)
    except sm2.InvalidEncoding:
        return
    assert reference.cipher_from_raw(raw).der() == data
