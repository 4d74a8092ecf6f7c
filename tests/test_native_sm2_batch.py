"""Batches of the native SM2: each lane gets the answer it would get alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import BATCHES, MESSAGE, D, N, digests, flip, private_key, reference_says, scalars
from tests.reference.sm3 import sm3


@pytest.fixture(scope="module")
def key() -> sm2.PrivateKey:
    """The private key of GB/T 32918.5 Annex A."""
    return private_key(D)


@pytest.mark.parametrize("count", BATCHES)
def test_a_batch_under_one_key(key: sm2.PrivateKey, count: int) -> None:
    es = b"".join(sm3(bytes([i])) for i in range(count))
    signatures = sm2.sign_many(key, es)
    assert len(signatures) == 64 * count
    assert sm2.verify_many(key.public_key, es, signatures) == b"\x01" * count
    for lane in {0, count // 2, count - 1}:
        e, signature = es[32 * lane :][:32], signatures[64 * lane :][:64]
        assert reference_says(key.public_key.to_bytes(), e, signature)


@pytest.mark.parametrize("count", BATCHES)
def test_a_batch_under_many_keys(count: int) -> None:
    keys = [private_key(D + i) for i in range(count)]
    es = b"".join(sm3(bytes([i, 1])) for i in range(count))
    signatures = sm2.sign_many(keys, es)
    publics = [key.public_key for key in keys]
    assert sm2.verify_many(publics, es, signatures) == b"\x01" * count
    for lane, public in enumerate(publics):
        public.verify_digest(es[32 * lane :][:32], signatures[64 * lane :][:64])
    if count > 1:
        turned = publics[1:] + publics[:1]
        assert sm2.verify_many(turned, es, signatures) == b"\x00" * count


def test_no_batch() -> None:
    key = private_key(D)
    assert sm2.sign_many(key, b"") == b""
    assert sm2.sign_many([], b"") == b""
    assert sm2.verify_many(key.public_key, b"", b"") == b""
    assert sm2.verify_many([], b"", b"") == b""


@pytest.mark.parametrize("count", [5, 8, 17])
def test_a_bad_lane_fails_alone(key: sm2.PrivateKey, count: int) -> None:
    es = b"".join(sm3(bytes([i, 2])) for i in range(count))
    good = sm2.sign_many(key, es)
    breakages = {
        "a bit": lambda s: flip(s, 300),
        "r zero": lambda s: bytes(32) + s[32:],
        "s zero": lambda s: s[:32] + bytes(32),
        "both zero": lambda _: bytes(64),
        "r past n": lambda s: b"\xff" * 32 + s[32:],
        "s is n": lambda s: s[:32] + N.to_bytes(32, "big"),
        "t zero": lambda s: s[:32] + (N - int.from_bytes(s[:32], "big")).to_bytes(32, "big"),
    }
    for name, damage in breakages.items():
        for lane in range(count):
            at = 64 * lane
            bad = good[:at] + damage(good[at : at + 64]) + good[at + 64 :]
            expected = b"\x01" * lane + b"\x00" + b"\x01" * (count - lane - 1)
            assert sm2.verify_many(key.public_key, es, bad) == expected, (name, lane)


@given(st.lists(st.tuples(scalars, digests, st.sampled_from(["good", "r", "s", "e", "key"])), min_size=1, max_size=24))
@settings(max_examples=25, deadline=None)
def test_mixed_batches_get_single_verdicts(rows: list[tuple[int, bytes, str]]) -> None:
    publics, es, signatures = [], [], []
    for d, e, damage in rows:
        signature = private_key(d).sign_digest(e)
        publics.append(private_key(d if damage != "key" else d % (N - 2) + 1).public_key)
        es.append(flip(e, 7) if damage == "e" else e)
        signatures.append(flip(signature, {"r": 100, "s": 400}[damage]) if damage in "rs" else signature)
    expected = bytes(damage == "good" for _, _, damage in rows)
    assert sm2.verify_many(publics, b"".join(es), b"".join(signatures)) == expected


def test_counts_must_agree(key: sm2.PrivateKey) -> None:
    es, public = sm3(b"1") + sm3(b"2"), key.public_key
    signatures = sm2.sign_many(key, es)
    for call in (
        lambda: sm2.sign_many([key], es),
        lambda: sm2.sign_many([key] * 3, es),
        lambda: sm2.sign_many([], es),
        lambda: sm2.verify_many([public], es, signatures),
        lambda: sm2.verify_many([public] * 3, es, signatures),
        lambda: sm2.verify_many(public, es, signatures[:64]),
        lambda: sm2.verify_many(public, es[:32], signatures),
        lambda: sm2.verify_many(public, es, signatures[:-1]),
        lambda: sm2.sign_many(key, es[:-1]),
    ):
        with pytest.raises(ValueError, match=r".*"):
            call()


def test_batches_want_keys(key: sm2.PrivateKey) -> None:
    e = sm3(MESSAGE)
    for wrong in ([None], [key.public_key], key.public_key, None, [key, None]):
        with pytest.raises(TypeError):
            sm2.sign_many(wrong, e * (len(wrong) if isinstance(wrong, list) else 1))  # type: ignore[arg-type]
    for wrong in ([None], [key], key, None, [key.public_key, None]):
        count = len(wrong) if isinstance(wrong, list) else 1
        with pytest.raises(TypeError):
            sm2.verify_many(wrong, e * count, bytes(64) * count)  # type: ignore[arg-type]


def test_a_batch_takes_any_buffer(key: sm2.PrivateKey) -> None:
    es = sm3(b"1") + sm3(b"2")
    signatures = sm2.sign_many((key, key), memoryview(bytearray(es)))
    assert sm2.verify_many((key.public_key,) * 2, bytearray(es), memoryview(signatures)) == b"\x01\x01"


def test_threads_sign_and_verify_side_by_side() -> None:
    """One key in several threads at once: every signature valid, none repeated."""
    key, e = private_key(D), sm3(MESSAGE)

    def work(seed: int) -> bytes:
        if seed % 2:
            return b"".join(key.sign_digest(e) for _ in range(16))
        return sm2.sign_many([key] * 16, e * 16)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(48)))
        verdicts = list(pool.map(lambda signatures: sm2.verify_many(key.public_key, e * 16, signatures), made))
    assert verdicts == [b"\x01" * 16] * 48
    everything = b"".join(made)
    assert len({everything[at : at + 32] for at in range(0, len(everything), 64)}) == 48 * 16
