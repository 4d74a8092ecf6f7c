"""CRLs: entries encoded, a list assembled, changes merged, and the judge that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from crl._entries import Entries, Row
from crl._reader import Listing
from crl.builder import CrlContents, make_draft
from signer._native import sm2
from tests.bench.suite.bench_codecs import KEY, NAME

pytestmark = pytest.mark.benchmark(group="crl")
Timed = Callable[..., Any]
COUNT = 100_000
CONTENTS = CrlContents(NAME, bytes(20), 1, "http://a.cn/crl/issuing/0.crl", 1_795_000_000_000, 1_795_080_000_000)


def rows(count: int, seed: int = 1) -> list[Row]:
    chance = random.Random(seed)
    serials = sorted(chance.getrandbits(126) | 1 << 126 for _ in range(count))
    return [(serial.to_bytes(16, "big"), 1_760_000_000 * 16 + 4, 1_900_000_000, None) for serial in serials]


def loaded() -> Entries:
    entries = Entries()
    entries.load_rows(rows(COUNT))
    return entries


def sealed() -> bytes:
    draft = make_draft(loaded(), CONTENTS, [], 0)
    start, end = draft.tbs
    with memoryview(draft) as whole, whole[start:end] as tbs:
        signature = sm2.signature_to_der(KEY.sign(tbs))
    return draft.seal(signature)


def test_entries_encoded(timed: Timed) -> None:
    source = rows(COUNT)
    timed(lambda: Entries().load_rows(source), per=COUNT)


def test_list_assembled(timed: Timed) -> None:
    entries = loaded()
    timed(lambda: make_draft(entries, CONTENTS, [], 0), per=COUNT)


def test_list_assembled_with_changes(timed: Timed) -> None:
    entries, changes = loaded(), rows(1_000, seed=2)
    timed(lambda: make_draft(entries, CONTENTS, changes, 0), per=COUNT)


def test_list_read_by_the_judge(timed: Timed) -> None:
    crl = sealed()

    def peer() -> None:
        for _ in x509.load_der_x509_crl(crl):
            pass

    timed(lambda: Listing(crl), peer, per=COUNT)
