"""The native SM2 signs as the reference verifies, and verifies as the reference does."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import MESSAGE, D, N, digests, flip, private_key, reference_says, scalars
from tests.reference import sm2 as reference
from tests.reference.sm3 import sm3


@pytest.fixture(scope="module")
def key() -> sm2.PrivateKey:
    """The private key of GB/T 32918.5 Annex A."""
    return private_key(D)


# ---- signing


@given(scalars, st.binary(max_size=200), st.one_of(st.just(sm2.DEFAULT_ID), st.binary(max_size=40)))
@settings(max_examples=40, deadline=None)
def test_signatures_verify_by_the_reference(d: int, message: bytes, user_id: bytes) -> None:
    key = private_key(d)
    point = reference.public_key(d)
    e = reference.digest(point, message, user_id)
    assert key.public_key.digest(message, user_id=user_id) == e
    signature = key.sign(message, user_id=user_id)
    assert len(signature) == 64
    assert reference_says(key.public_key.to_bytes(), e, signature)
    key.public_key.verify(message, signature, user_id=user_id)


@given(scalars, digests)
@settings(max_examples=40, deadline=None)
def test_digest_signatures_verify_by_the_reference(d: int, e: bytes) -> None:
    key = private_key(d)
    signature = key.sign_digest(e)
    assert reference_says(key.public_key.to_bytes(), e, signature)
    key.public_key.verify_digest(e, signature)


def test_user_ids_up_to_their_limit(key: sm2.PrivateKey) -> None:
    """ENTL has 16 bits (GB/T 32918.2 5.5): 8191 bytes fit, 8192 do not."""
    longest = b"i" * 8191
    assert key.public_key.digest(MESSAGE, user_id=longest) == reference.digest(
        reference.public_key(D), MESSAGE, longest
    )
    key.public_key.verify(MESSAGE, key.sign(MESSAGE, user_id=longest), user_id=longest)
    for call in (key.sign, key.public_key.digest):
        with pytest.raises(ValueError, match=r".*"):
            call(MESSAGE, user_id=b"i" * 8192)


def test_no_identity_is_not_the_empty_one(key: sm2.PrivateKey) -> None:
    """None is a caller's mistake: taken for an empty ID it would sign what nobody else can verify."""
    signature = key.sign(MESSAGE, user_id=b"")
    for call in (
        lambda: key.sign(MESSAGE, user_id=None),  # type: ignore[arg-type]
        lambda: key.public_key.digest(MESSAGE, user_id=None),  # type: ignore[arg-type]
        lambda: key.public_key.verify(MESSAGE, signature, user_id=None),  # type: ignore[arg-type]
        lambda: key.sign(MESSAGE, user_id="1234567812345678"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()


def test_no_two_signatures_are_alike(key: sm2.PrivateKey) -> None:
    """A nonce used twice gives the key away, in one call or in many."""
    e = sm3(MESSAGE)
    single = [key.sign_digest(e) for _ in range(200)]
    batch = sm2.sign_many(key, e * 200)
    halves = [s[:32] for s in single] + [batch[at : at + 32] for at in range(0, len(batch), 64)]
    assert len(set(halves)) == 400


def test_two_processes_sign_differently() -> None:
    """A fork must not carry the generator's state with it: the same key over the same digest, in parent and child."""
    key, e = private_key(D), sm3(MESSAGE)
    key.sign_digest(e)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, sm2.sign_many(key, e * 20))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        theirs = pipe.read()
    ours = sm2.sign_many(key, e * 20)
    assert len(theirs) == len(ours) == 20 * 64
    pieces = {both[at : at + 32] for both in (ours, theirs) for at in range(0, len(both), 64)}
    assert len(pieces) == 40


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_digests_have_32_bytes(key: sm2.PrivateKey, length: int) -> None:
    signature = key.sign_digest(sm3(MESSAGE))
    with pytest.raises(ValueError, match=r".*"):
        key.sign_digest(b"\x01" * length)
    with pytest.raises((ValueError, sm2.InvalidSignature)):
        key.public_key.verify_digest(b"\x01" * length, signature)
    if length % 32:
        with pytest.raises(ValueError, match=r".*"):
            sm2.sign_many(key, b"\x01" * length)
        with pytest.raises(ValueError, match=r".*"):
            sm2.verify_many(key.public_key, b"\x01" * length, signature)


# ---- verification


@given(st.integers(0, 511), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_refused(in_signature: int, in_digest: int) -> None:
    key, e = private_key(D), sm3(MESSAGE)
    signature = key.sign_digest(e)
    public = key.public_key
    with pytest.raises(sm2.InvalidSignature):
        public.verify_digest(e, flip(signature, in_signature))
    with pytest.raises(sm2.InvalidSignature):
        public.verify_digest(flip(e, in_digest), signature)
    found = sm2.verify_many(public, e + e + flip(e, in_digest), signature + flip(signature, in_signature) + signature)
    assert found == b"\x01\x00\x00"


@given(digests, st.binary(min_size=64, max_size=64))
def test_random_signatures_get_the_references_verdict(e: bytes, signature: bytes) -> None:
    """Any 64 bytes: the verdict is the reference's, and nothing but a verdict comes out."""
    public = private_key(D).public_key
    expected = reference_says(public.to_bytes(), e, signature)
    assert sm2.verify_many(public, e, signature) == bytes([expected])


@given(scalars, st.integers(1, N - 1), scalars)
@settings(max_examples=60, deadline=None)
def test_constructed_signatures_are_valid(d: int, r: int, s: int) -> None:
    """Signatures made backwards, from chosen r and s to the e that fits: multipliers that no signer would meet."""
    if (r + s) % N == 0:
        return
    point = reference.public_key(d)
    found = reference.SM2.add(reference.SM2.multiply(s, reference.SM2.g), reference.SM2.multiply(r + s, point))
    if found is None:
        return
    e = ((r - found[0]) % N).to_bytes(32, "big")
    public = sm2.PublicKey.from_bytes(reference.encode_point(point))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    public.verify_digest(e, signature)
    with pytest.raises(sm2.InvalidSignature):
        public.verify_digest(flip(e, 0), signature)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 72, 128])
def test_signatures_have_64_bytes(key: sm2.PrivateKey, length: int) -> None:
    e = sm3(MESSAGE)
    wrong = (key.sign_digest(e) * 3)[:length]
    refusals = (sm2.InvalidSignature, sm2.InvalidEncoding, ValueError)
    with pytest.raises(refusals):
        key.public_key.verify_digest(e, wrong)
    with pytest.raises(refusals):
        key.public_key.verify(MESSAGE, wrong)
    with pytest.raises(ValueError, match=r".*"):
        sm2.verify_many(key.public_key, e, wrong)


def test_verification_is_no_truth_value(key: sm2.PrivateKey) -> None:
    assert key.public_key.verify(MESSAGE, key.sign(MESSAGE)) is None
    e = sm3(MESSAGE)
    assert key.public_key.verify_digest(e, key.sign_digest(e)) is None


def test_another_key_or_identity_is_refused(key: sm2.PrivateKey) -> None:
    signature = key.sign(MESSAGE)
    with pytest.raises(sm2.InvalidSignature):
        private_key(D + 1).public_key.verify(MESSAGE, signature)
    with pytest.raises(sm2.InvalidSignature):
        key.public_key.verify(MESSAGE, signature, user_id=b"1234567812345679")
