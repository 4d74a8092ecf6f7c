"""Answers in memory, and look-ups in a status set."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from qianyan_status._lookup import PythonIndex, Table
from qianyan_status._speed import FastIndex
from status.cache import AnswerCache, OcspAnswer

pytestmark = pytest.mark.benchmark(group="caches")
Timed = Callable[..., Any]
LINE = 1_000_000
TABLE = Table(((24_000, 0, LINE),), random.Random(1).randbytes(LINE // 8), bytes(LINE // 8), 2_000_000_000)


def test_answer_kept_and_found(timed: Timed) -> None:
    cache = AnswerCache(1 << 30)
    keys = [number.to_bytes(32, "big") for number in range(10_000)]
    for serial, key in enumerate(keys):
        cache.put(key, "issuing", serial, OcspAnswer.made(bytes(900), 0, 3_600_000, single=True))

    def work() -> None:
        for key in keys:
            cache.get(key)

    kept = dict.fromkeys(keys)

    def peer() -> None:
        for key in keys:
            kept.get(key)

    timed(work, peer, per=len(keys))


def test_answers_that_displace_others(timed: Timed) -> None:
    cache = AnswerCache(2_000_000)
    answer = OcspAnswer.made(bytes(900), 0, 3_600_000, single=True)

    def work() -> None:
        for serial in range(5_000):
            cache.put(serial.to_bytes(32, "big"), "issuing", serial, answer)

    timed(work, per=5_000)


def test_status_set_look_ups(timed: Timed) -> None:
    chance = random.Random(1)
    asked = b"".join(struct.pack("<IIq", 24_000, chance.randrange(LINE), 1_800_000_000) for _ in range(100_000))
    fast, slow = FastIndex(TABLE), PythonIndex(TABLE)
    timed(lambda: fast.find_many(asked, False), lambda: slow.find_many(asked, False), per=100_000)
