"""The end of the change feed, kept so that an answer made elsewhere can be judged without asking the store.

An answer that says "made when the feed stood at F" is as good as one made now if the feed has named neither its
certificate nor its signer's key nor any authority since. Owns which certificate was named when, over the last entries,
and what each of these entries was: a feed position means something only together with the entry that stands there,
because a database that was restored gives the same numbers to other entries.

Where two certificates fall on the same slot, the later change counts for both: an answer may be thought older than it
is, never newer. Only the event-loop thread touches it. Knows feed entries; not answers, Redis or the clock.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final, Literal

from core.store import feed
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower

#: Rows read at a time when the end of the feed is loaded: a few milliseconds.
_PAGE: Final = 500
_NOTHING: Final = 0

Verdict = Literal["current", "overtaken", "unknown"]


def anchor(entry: FeedEntry) -> int:
    """What tells this entry from any other that may come to have its number: 64 bits, the same in every process."""
    said = (entry.seq, entry.kind, entry.authority_id, entry.serial, entry.subject_id, entry.at_ms)
    return int.from_bytes(hashlib.blake2b(repr(said).encode(), digest_size=8).digest(), "big")


def _certificate(authority_id: str, serial: int) -> int:
    return hash((authority_id, serial)) or 1


def _key(key_id: str | None) -> int:
    return hash(("key", key_id)) or 1


def _slot(entry: FeedEntry) -> int:
    if entry.serial is not None and entry.authority_id is not None:
        return _certificate(entry.authority_id, entry.serial)
    return _key(entry.subject_id) if entry.kind == "key" else _NOTHING


class _Stretch:
    """Entries without a gap, from `first` to `end`: their anchors, and which slot each of them changed last."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.anchors: deque[int] = deque()
        self.slots: deque[int] = deque()
        self.changed: dict[int, int] = {}
        self.authority_changed = 0

    @property
    def end(self) -> int:
        """The last entry; the one before `first` where there is none."""
        return self.first + len(self.anchors) - 1

    def add(self, entry: FeedEntry) -> None:
        """The entry after the last."""
        slot = _slot(entry)
        self.anchors.append(anchor(entry))
        self.slots.append(slot)
        if slot != _NOTHING:
            self.changed[slot] = entry.seq
        if entry.kind == "authority":
            self.authority_changed = entry.seq

    def drop_first(self) -> None:
        """Forgets the oldest."""
        self.anchors.popleft()
        slot = self.slots.popleft()
        if self.changed.get(slot) == self.first:
            del self.changed[slot]
        self.first += 1

    def join(self, after: _Stretch) -> None:
        """Adds what begins where this ends."""
        self.anchors += after.anchors
        self.slots += after.slots
        self.changed |= after.changed
        self.authority_changed = max(self.authority_changed, after.authority_changed)


class FeedHistory:
    """See the module. Follows from where `follower` stands; `load()` adds what was before."""

    def __init__(self, follower: FeedFollower, max_entries: int) -> None:
        self._max_entries = max_entries
        self._kept = _Stretch(follower.position + 1)
        follower.subscribe(self._note)

    def __len__(self) -> int:
        return len(self._kept.anchors)

    @property
    def _first(self) -> int:
        return self._kept.first

    def anchor_at(self, position: int) -> int | None:
        """The anchor of the entry at `position`; None where that is not kept."""
        kept = self._kept
        return kept.anchors[position - kept.first] if kept.first <= position <= kept.end else None

    def judge(self, position: int, anchored: int, authority_id: str, serial: int, key_id: str) -> Verdict:
        """Whether what was read from the store at `position` is still what the store says.

        "unknown": too long ago, or from a feed that is not this one, or past its end.
        """
        if self.anchor_at(position) != anchored:
            return "unknown"
        kept = self._kept
        changed = max(
            kept.authority_changed,
            kept.changed.get(_certificate(authority_id, serial), 0),
            kept.changed.get(_key(key_id), 0),
        )
        return "current" if changed <= position else "overtaken"

    async def load(self, database: Database) -> None:
        """Reads the entries before the first that was followed. Raises Unavailable."""
        end = self._first - 1
        before = _Stretch(max(0, end - self._max_entries) + 1)
        async with database.read() as connection:
            while before.end < end:
                page = await feed.read_after(connection, before.end, limit=min(_PAGE, end - before.end))
                if page and not before.anchors:
                    before = _Stretch(page[0].seq)  # the feed may begin later
                if not page or page[0].seq != before.end + 1:
                    return  # what is followed alone counts
                for entry in page:
                    before.add(entry)
        if before.end == self._first - 1:  # otherwise the oldest of what was followed had to go meanwhile
            before.join(self._kept)
            self._kept = before
            self._trim()

    def _note(self, entry: FeedEntry) -> None:
        self._kept.add(entry)
        self._trim()

    def _trim(self) -> None:
        while len(self._kept.anchors) > self._max_entries:
            self._kept.drop_first()
