"""Who may use a key now: the one place where purpose, callers, state, hours and limits are put together.

Owns no state. A use is looked at twice: when it is asked for, by what is known then, so that what cannot be is refused
before it costs anything; and right before the key is used, after the change feed was looked at, which is what counts.
Knows the keyring and the ledger; not batches' futures, bytes or HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from core.clock import Clock
from core.errors import Busy, QianyanError, Refused, TooLarge
from core.model import KeyPurpose, KeyState
from signer.engine.backend import KeyBackend, KeyHandle
from signer.engine.keyring import Key, Keyring
from signer.engine.usage import UsageLedger


@dataclass(slots=True)
class Ticket:
    """Which key, for whom, and how many uses of it were claimed and not made yet.

    listed_as: the id that must be among the key's callers, None where none must. caller: for the accounts.
    """

    key: Key
    listed_as: str | None
    caller: str
    operation: str
    claimed: int = 0


class Admission:
    """See the module."""

    def __init__(self, keyring: Keyring, ledger: UsageLedger, clock: Clock) -> None:
        self._keyring = keyring
        self._ledger = ledger
        self._clock = clock

    async def key(self, key_id: str, purpose: KeyPurpose | Collection[KeyPurpose], caller: str, operation: str) -> Key:
        """The key, where it is for (one of) `purpose`. One that decrypts never signs, one that signs never decrypts.

        Raises NotFound (code "key_unknown"), Refused (code "key_purpose").
        """
        if self._keyring.stale or key_id not in self._keyring:
            await self._keyring.refresh()
        key = self._keyring.get(key_id)
        wanted = (purpose,) if isinstance(purpose, KeyPurpose) else purpose
        if key.purpose not in wanted or (key.purpose is KeyPurpose.ENCRYPT) != (operation == "decrypt"):
            self._ledger.refused(key_id, caller, "key_purpose", operation)
            what = "to decrypt" if operation == "decrypt" else "for such signatures"
            raise Refused(
                f"key {key.id!r} is a key for {key.purpose.value}, not {what}", code="key_purpose", field="key"
            )
        return key

    def check(self, ticket: Ticket) -> KeyHandle:
        """The handle, where the key may be used now. Raises as `Key.check`; the refusal is on record then."""
        try:
            return ticket.key.check(ticket.listed_as, self._clock)
        except QianyanError as error:
            self._refused(ticket, error)
            raise

    def _refused(self, ticket: Ticket, error: QianyanError) -> None:
        self._ledger.refused(ticket.key.id, ticket.caller, error.code, ticket.operation)

    @asynccontextmanager
    async def claimed(self, ticket: Ticket, count: int) -> AsyncIterator[None]:
        """Claims `count` uses of a key with limits for the block, and gives back those that it did not make.

        Raises as `check` and `Claims.claim`.
        """
        await self._keyring.refresh()
        self.check(ticket)  # who may not use the key must not use up its limits
        try:
            await self._ledger.claims.claim(ticket.key.id, count)
        except (Refused, Busy, TooLarge) as error:
            self._refused(ticket, error)
            raise
        ticket.claimed = count
        try:
            yield
        finally:
            unused, ticket.claimed = ticket.claimed, 0
            self._ledger.claims.give_back(ticket.key.id, unused)

    def ready(self, demand: Sequence[tuple[Ticket, int]]) -> bool:
        """Whether so many uses may be admitted now, with nothing to be awaited first."""
        return self._keyring.current() and self._ledger.covers(_from_blocks(demand))

    async def prepare(self, demand: Sequence[tuple[Ticket, int]]) -> None:
        """Awaits what `ready` lacked. Raises Unavailable."""
        await self._keyring.refresh()
        while not self._ledger.covers(uses := _from_blocks(demand)):  # again, where others took what was reserved
            await self._ledger.reserve(uses)
            await self._keyring.refresh()  # the commit took milliseconds: keys' states are the last thing looked at

    def admit(self, ticket: Ticket, count: int) -> KeyHandle:
        """Takes account of `count` uses about to be made; to be called with no await since `ready` or `prepare`.

        Raises as `check`; Busy (code "key_changed") where the key got its limits while this waited.
        """
        handle = self.check(ticket)
        if ticket.claimed >= count:
            ticket.claimed -= count
        elif ticket.key.counted:
            raise Busy("the key's limits were changed meanwhile; ask again", code="key_changed", retry_after_s=1)
        else:
            self._ledger.take(ticket.key.id, count)
        return handle

    def used(self, ticket: Ticket, count: int) -> None:
        """Counts uses whose results are about to leave."""
        self._ledger.used(ticket.key.id, ticket.caller, count)


def _from_blocks(demand: Sequence[tuple[Ticket, int]]) -> Counter[str]:
    """Uses by key, of active keys without limits: a refused use needs no reservation, and a claimed one has it."""
    uses: Counter[str] = Counter()
    for ticket, count in demand:
        key = ticket.key
        if key.state is KeyState.ACTIVE and not key.counted and ticket.claimed < count:
            uses[key.id] += count
    return uses


class EngineWork:
    """What the batcher asks of the engine (signer.engine.batch.Work)."""

    def __init__(self, admission: Admission, backend: KeyBackend) -> None:
        self.ready = admission.ready
        self.prepare = admission.prepare
        self.signed = admission.used
        self._admit = admission.admit
        self._backend = backend

    def admit(self, ticket: Ticket, count: int) -> None:
        """See Work."""
        self._admit(ticket, count)

    def sign(self, parts: Sequence[tuple[Ticket, int]], digests: bytes) -> bytes:
        """See Work."""
        return self._backend.sign([(ticket.key.usable(), count) for ticket, count in parts], digests)
