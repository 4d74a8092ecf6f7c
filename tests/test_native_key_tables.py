"""Tables of public keys that are used often: answers stay the same, memory stays within its limit.

A backend without a use for tables says so (table_bytes is 0) and never holds
one; the answers are to be the same, so every test runs there as well.
"""

import os
import threading
from collections.abc import Iterator

import pytest

from signer._native import cpu, sm2

KEYS = sm2.generate_many(24)
PUBLIC = [key.public_key for key in KEYS]
TABLE = sm2.key_tables()["table_bytes"]
LIMIT = sm2.key_tables()["limit"]


@pytest.fixture(autouse=True)
def no_tables() -> Iterator[None]:
    """Begin and end without tables, and leave the limit as it was."""
    sm2.set_key_table_limit(0)
    assert sm2.key_tables() == {"limit": 0, "bytes": 0, "tables": 0, "table_bytes": TABLE}
    sm2.set_key_table_limit(LIMIT)
    yield
    sm2.set_key_table_limit(0)
    sm2.set_key_table_limit(LIMIT)


def held(tables: int) -> dict[str, int]:
    """What key_tables() is to say of so many tables, or of none where the backend makes none."""
    tables = tables if TABLE else 0
    return {"limit": LIMIT, "bytes": tables * TABLE, "tables": tables, "table_bytes": TABLE}


def signed(which: list[int]) -> tuple[list[sm2.PublicKey], bytes, bytearray, bytes]:
    """Keys, digests, signatures of which every fifth is wrong, and the verdicts."""
    digests = os.urandom(32 * len(which))
    signatures = bytearray(sm2.sign_many([KEYS[i] for i in which], digests))
    for i in range(0, len(which), 5):
        signatures[64 * i + 7] ^= 1
    return [PUBLIC[i] for i in which], digests, signatures, bytes(i % 5 != 0 for i in range(len(which)))


def test_a_key_gets_a_table_once_it_is_used_often() -> None:
    keys, digests, signatures, want = signed([0] * 16)
    for i in range(15):
        assert sm2.verify_many(keys[0], digests[:32], signatures[:64]) == b"\0"
        assert sm2.key_tables()["tables"] == 0, i
    assert sm2.verify_many(keys, digests, signatures) == want
    assert sm2.key_tables() == held(1)
    assert sm2.verify_many(keys, digests, signatures) == want
    assert sm2.verify_many(keys[0], digests, signatures) == want
    keys[0].verify_digest(digests[32:64], signatures[64:128])
    with pytest.raises(sm2.InvalidSignature):
        keys[0].verify_digest(digests[:32], signatures[:64])


def test_who_has_tables() -> None:
    """The vector backend has them, 37 windows of 64 points of 64 bytes; the scalar ones have none."""
    expected = 37 * 64 * 64 if cpu.backend() == "x86-64-ifma" else 0
    assert sm2.key_tables()["table_bytes"] == expected


def test_one_key_for_a_batch_gets_its_table_at_once() -> None:
    keys, digests, signatures, want = signed([1] * 16)
    assert sm2.verify_many(keys[0], digests, signatures) == want
    assert sm2.key_tables() == held(1)


def test_objects_of_the_same_key_share_a_table() -> None:
    keys, digests, signatures, want = signed([2] * 40)
    copies = [sm2.PublicKey.from_bytes(key.to_bytes()) for key in keys]
    for _ in range(3):
        assert sm2.verify_many(copies, digests, signatures) == want
    assert sm2.key_tables() == held(1)


def test_lanes_with_and_without_tables() -> None:
    keys, digests, signatures, want = signed([3, 4] * 20 + [5, 6, 7, 8, 9] * 3)
    for _ in range(8):
        assert sm2.verify_many(keys, digests, signatures) == want
    assert sm2.key_tables() == held(7)


def test_the_limit_holds_and_the_oldest_make_way() -> None:
    sm2.set_key_table_limit(3 * TABLE + 5)
    for i in range(6):
        keys, digests, signatures, want = signed([i] * 32)
        assert sm2.verify_many(keys[0], digests, signatures) == want
        assert sm2.key_tables()["tables"] == held(min(i + 1, 3))["tables"]
        assert sm2.key_tables()["bytes"] <= 3 * TABLE
    keys, digests, signatures, want = signed(list(range(24)) * 20)
    for _ in range(3):
        assert sm2.verify_many(keys, digests, signatures) == want
        assert sm2.key_tables()["tables"] == held(3)["tables"]
    sm2.set_key_table_limit(TABLE)
    assert sm2.key_tables()["tables"] == held(1)["tables"]
    sm2.set_key_table_limit(max(TABLE - 1, 0))
    assert sm2.verify_many(keys, digests, signatures) == want
    assert sm2.key_tables()["tables"] == 0


def test_tables_in_use_outlive_their_eviction() -> None:
    """Threads verify while others make and drop the tables they read."""
    batches = [signed([i] * 200) for i in range(6)]
    wrong: list[int] = []
    done = threading.Event()

    def verify(at: int) -> None:
        keys, digests, signatures, want = batches[at]
        for _ in range(60):
            if sm2.verify_many(keys[0], digests, signatures) != want:
                wrong.append(at)

    def disturb() -> None:
        while not done.is_set():
            sm2.set_key_table_limit(0)
            sm2.set_key_table_limit(2 * TABLE)

    other = threading.Thread(target=disturb)
    threads = [threading.Thread(target=verify, args=(i,)) for i in range(6)]
    other.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    other.join()
    assert wrong == []
    assert sm2.key_tables()["bytes"] <= 2 * TABLE


def test_a_limit_is_a_number_of_bytes() -> None:
    with pytest.raises(OverflowError):
        sm2.set_key_table_limit(-1)
    with pytest.raises(TypeError):
        sm2.set_key_table_limit("many")  # type: ignore[arg-type]
