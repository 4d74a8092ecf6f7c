"""Judges a file before it is signed: read by the reader that is shipped, and asked about the store's rows one by one.

Shares nothing with what encoded it, nor with the state that it was made from: rows come from the store again. What
`StatusJudge` refuses is not published; the file before it stays.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused
from core.model import CertificateState
from core.store import imported, status_sets
from core.store.status_sets import PlaceRow
from qianyan_status import Status, StatusSet

_EXPECTED: Final = {
    CertificateState.GOOD.value: int(Status.GOOD),
    CertificateState.HELD.value: int(Status.HELD),
    CertificateState.REVOKED.value: int(Status.REVOKED),
}
_REVOKED_WORD: Final = CertificateState.REVOKED.value
_HELD_WORD: Final = CertificateState.HELD.value
_GOOD_WORD: Final = CertificateState.GOOD.value
_RECORD: Final = struct.Struct("<IIq")


class JudgedWrong(Refused):
    """The file does not agree with the store. A fault of ours: alarm, and the last good file stays."""


def _wrong(why: str) -> NoReturn:
    raise JudgedWrong(f"the status set is not published: {why}", code="set_judged_wrong")


def _pairs(judged: StatusSet) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(month, index) of the revoked and of those on hold."""
    contents = judged.contents
    found: list[set[tuple[int, int]]] = []
    for keys in (contents.revoked, contents.held):
        pairs = set()
        place = offset = 0
        for month, first, following in contents.spaces:
            end = offset + following - first
            while place < len(keys) and keys[place] < end:
                pairs.add((month, keys[place] - offset + first))
                place += 1
            offset = end
        found.append(pairs)
    return found[0], found[1]


def _answers(judged: StatusSet, rows: Sequence[PlaceRow]) -> bytes:
    records = b"".join(_RECORD.pack(month, index, -(-not_before_ms // 1000)) for month, index, _, not_before_ms in rows)
    return judged.query_many(records)


def _compare(judged: StatusSet, rows: Sequence[PlaceRow], known_from: Mapping[int, int]) -> int:
    """Raises at the first row of which the file says something else; returns how many it must mark.

    known_from: the index of each month below which it must say nothing.
    """
    as_of_ms = round(judged.this_update.timestamp()) * 1000
    marked = 0
    for (month, index, state, not_before_ms), answer in zip(rows, _answers(judged, rows), strict=True):
        expected = _EXPECTED[state] if index >= known_from.get(month, 0) else int(Status.NOT_COVERED)
        if expected == Status.NOT_COVERED and answer == expected:
            continue
        marked += expected != Status.GOOD
        if answer != expected and not (answer == Status.NOT_COVERED and not_before_ms > as_of_ms):
            _wrong(f"month {month}, index {index} is {state} and would be told {Status(answer).name.lower()}")
    return marked


async def judge_rows(
    connection: AsyncConnection, judged: StatusSet, authority_id: str, *, from_month: int, partitions: int | None
) -> int:
    """Asks about each row of the authority and returns how many rows that were. Raises JudgedWrong.

    partitions: where given, only the rows that are not good are read: a file whose marks are exactly those, and whose
    spaces end where the indexes end, says of every other row that it is good. None: every row is read.
    Memory is bounded: rows come in chunks.
    """
    rows = marked = 0
    known = await status_sets.spaces(connection, authority_id)
    known_from = {month: first for month, (first, _) in known.items()}
    chunks = status_sets.stream_places(connection, authority_id, from_month=from_month, partitions=partitions)
    async for chunk in chunks:
        rows += len(chunk)
        marked += _compare(judged, chunk, known_from)
    contents = judged.contents
    if marked != len(contents.revoked) + len(contents.held):
        _wrong("it marks certificates that the store does not have as revoked or on hold")
    spaces = {month: (first, following) for month, first, following in contents.spaces}
    last = await status_sets.last_month(connection, authority_id)
    months = range(from_month, (last if last is not None else from_month - 1) + 1)
    for month, index in (await status_sets.last_indexes(connection, authority_id, months)).items():
        first, following = spaces.get(month, (0, 0))
        if first != known_from.get(month, 0) and month in spaces:
            _wrong(f"month {month} begins with index {first}, not {known_from.get(month, 0)}")
        if index >= known_from.get(month, 0) and not first <= index < following:
            _wrong(f"month {month} has index {index}, which it does not cover")
    return rows


async def judge_drops(
    connection: AsyncConnection, judged: StatusSet, before: StatusSet, authority_id: str, *, from_month: int
) -> None:
    """Whoever was revoked is still, unless the month is over; whoever was on hold is, or is revoked, or was released.

    Raises JudgedWrong.
    """
    revoked_before, held_before = _pairs(before)
    revoked, held = _pairs(judged)
    for month, index in revoked_before - revoked:
        if month >= from_month:
            _wrong(f"month {month}, index {index} was revoked and no longer would be")
    gone = {pair for pair in held_before - held - revoked if pair[0] >= from_month}
    if not gone:
        return
    serials = await status_sets.released_since(connection, authority_id, before.position)
    released = {(place.month, place.index) for place in await status_sets.places(connection, authority_id, serials)}
    for month, index in gone - released:
        _wrong(f"month {month}, index {index} was on hold, no longer would be, and was not released")


async def judge_imports(
    connection: AsyncConnection, judged: StatusSet, authority_id: str, *, from_month: int, partitions: int | None
) -> None:
    """Asks about each imported certificate, as `judge_rows` does about the others. Raises JudgedWrong.

    partitions: where given, about those that are not good alone.
    """
    universe = await imported.universe(connection, authority_id, from_month)
    told = judged.contents.imports
    if universe is None or told is None:
        if told is not None or (universe is not None and await imported.count(connection, universe)):
            _wrong("it tells of imported certificates where there are none, or of none where there are")
        return
    if (told.cutoff, told.count) != (universe.cutoff_s, await imported.count(connection, universe)):
        _wrong("its imported certificates are others than the store's")
    revoked, held, rows = frozenset(told.revoked), frozenset(told.held), 0
    marked = 0
    async for chunk in imported.stream(connection, universe, partitions=partitions):
        for serial, state in chunk:
            rows += 1
            octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # of the INTEGER: its sign bit is 0
            key = told.key(octets)
            says = _REVOKED_WORD if key in revoked else (_HELD_WORD if key in held else _GOOD_WORD)
            if says != state:
                _wrong(f"imported serial {serial:x} is {state} and would be told {says}")
            marked += state != _GOOD_WORD
    if marked != len(revoked) + len(held):
        _wrong("it marks imported certificates that the store does not have as revoked or on hold")
