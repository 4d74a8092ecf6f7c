"""Encryption keys that another key-management centre makes and keeps: asked for, used, restored, ended.

What is asked for is on record before the message leaves (core.store.kmc_external owns the states), so that a crash or a
lost answer never makes a second key for a certificate: the next request for the same signing key takes up the same task
and certificate number, and what no certificate takes within a day is ended at the centre, where it becomes history.
Knows the store and centres; not requests for certificates.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, Malformed, QianyanError, Refused, Unavailable
from core.store import audit, counters, kmc_external
from core.store.database import Database
from core.store.kmc_external import AskedKey
from signer.issuance import serials
from signer.issuance.kmc import EncryptionKey
from signer.kmc import sealed
from signer.kmc.client import Centre, CentreRefusal, read_access
from signer.kmc.identity import Identity
from signer.kmc.messages import Answer, Apply, ErrorNumber, Failed, Restore, Returned, Revoke, Revoked
from signer.kmc.metrics import ClientMetrics
from signer.kmc.settings import CentreSettings

_log = structlog.get_logger("qianyan.kmc")
#: How long a key that came may wait for a certificate.
_UNUSED_MS: Final = 86_400_000
#: How long a centre that refuses the end of a key is left in peace with it.
_TOLD_AGAIN_MS: Final = 600_000
#: How long a centre is told the end of a key that it may never have made.
_GIVEN_UP_MS: Final = 30 * 86_400_000
#: How many ends one round tells the centres, and how many expired certificates one transaction looks at.
_ENDS_AT_ONCE: Final = 500
_EXPIRED_AT_ONCE: Final = 5_000


def new_task() -> int:
    """A task number nobody has used: 62 random bits, so that implementations with signed 64-bit numbers read it."""
    return secrets.randbits(62) | 1 << 61


class Centres:
    """See the module. `centres`: by the id of each authority that asks them."""

    def __init__(self, database: Database, centres: Sequence[Centre], clock: Clock, metrics: ClientMetrics) -> None:
        self._database = database
        self._by_name = {centre.settings.name: centre for centre in centres}
        self._by_authority = {one: centre for centre in centres for one in centre.settings.authorities}
        self._clock = clock
        self._metrics = metrics

    @classmethod
    def from_settings(
        cls,
        settings: Sequence[CentreSettings],
        resolve: Callable[[str], Path],
        identity: Identity,
        database: Database,
        clock: Clock,
        registry: CollectorRegistry | None = None,
    ) -> Centres | None:
        """The centres that the settings name; None where they name none. Raises SettingsError."""
        metrics = ClientMetrics.create(registry)
        if not settings:
            return None
        centres = [Centre(one, read_access(one, resolve), identity, clock, metrics) for one in settings]
        return cls(database, centres, clock, metrics)

    def serves(self, authority_id: str) -> bool:
        """Whether that authority's encryption keys come from another centre."""
        return authority_id in self._by_authority

    async def make(self, authority_id: str, recipient: bytes, not_after_ms: int) -> EncryptionKey:
        """A key for the holder of the signing key `recipient` (65 bytes); `recording` gives it to a certificate.

        Raises Unavailable (codes "kmc_no_answer", "kmc_left": the same request can be made again, and gets the same
        key), Refused (code "kmc_refused").
        """
        centre = self._by_authority[authority_id]
        asked = await self._begin(centre, authority_id, recipient, not_after_ms)
        if asked.state == "asked":
            asked = await self._fetch(centre, asked)
        assert asked.public_key is not None
        assert asked.enveloped is not None
        return EncryptionKey(asked.public_key, asked.enveloped, b"", asked.task, asked.number)

    async def restore(self, certificate_id: int, recipient: bytes) -> bytes | None:
        """SM2EnvelopedKey of a certificate's key for another recipient; None where no centre keeps its key.

        Raises Unavailable, Refused (code "kmc_refused").
        """
        async with self._database.read() as connection:
            asked = await kmc_external.of_certificate(connection, certificate_id)
        if asked is None:
            return None
        try:
            returned = await self._restored(self._centre(asked), asked, recipient)
        except CentreRefusal as refusal:
            if refusal.number == ErrorNumber.TRY_AGAIN:
                raise _not_now(asked.centre) from refusal
            raise _refused(asked.centre, refusal) from refusal
        return sealed.read(returned.sealed).enveloped(returned.public_key)

    async def keeps(self, connection: AsyncConnection, certificate_id: int) -> bool:
        """Whether a centre keeps that certificate's key."""
        return await kmc_external.of_certificate(connection, certificate_id) is not None

    async def sweep(self) -> int:
        """Ends at their centres the keys whose certificates have ended or that no certificate took.

        Returns how many were ended.
        """
        now_ms = self._clock()
        while True:
            async with self._database.write() as connection:
                moved = await kmc_external.end_expired(connection, at_ms=now_ms, limit=_EXPIRED_AT_ONCE)
            if moved < _EXPIRED_AT_ONCE:
                break
        async with self._database.write() as connection:
            await kmc_external.give_up(connection, before_ms=now_ms - _UNUSED_MS, at_ms=now_ms)
        return await self.tell_ends()

    async def tell_ends(self) -> int:
        """Tells the centres which keys have ended, at most one round's; returns how many they took."""
        async with self._database.read() as connection:
            refused_before_ms = self._clock() - _TOLD_AGAIN_MS
            waiting = await kmc_external.ending(connection, refused_before_ms=refused_before_ms, limit=_ENDS_AT_ONCE)
        silent: set[str] = set()
        ended = 0
        for asked in waiting:
            if asked.centre in silent:
                continue
            try:
                ended += await self._tell_end(asked)
            except (Unavailable, Refused) as error:
                silent.add(asked.centre)
                _log.warning("kmc_end_not_told", centre=asked.centre, code=error.code, detail=error.detail)
        return ended

    async def count(self) -> None:
        """Sets the gauge of keys by state."""
        async with self._database.read() as connection:
            found = await kmc_external.counts(connection)
        for name in self._by_name:
            for state in ("asked", "answered", "used", "ending", "ended", "refused"):
                self._metrics.keys.labels(name, state).set(found.get(name, {}).get(state, 0))

    async def close(self) -> None:
        """Closes connections."""
        for centre in self._by_name.values():
            await centre.close()

    def _centre(self, asked: AskedKey) -> Centre:
        centre = self._by_name.get(asked.centre)
        if centre is None:
            raise Unavailable(
                f"the key is kept by centre {asked.centre!r}, which is not among kmc.centres", code="kmc_centre"
            )
        return centre

    async def _begin(self, centre: Centre, authority_id: str, recipient: bytes, not_after_ms: int) -> AskedKey:
        """The key that was asked for before and that no certificate has; else a new task, on record."""
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            found = await kmc_external.unused(connection, centre.settings.name, authority_id, recipient)
            if found is not None:
                if found.state == "asked":
                    await kmc_external.sent_again(connection, found.task, at_ms=at_ms)
                return replace(found, sent=found.sent + 1)
            (number,) = await serials.fresh(connection, authority_id, 1)
            asked = AskedKey(
                task=new_task(),
                centre=centre.settings.name,
                authority_id=authority_id,
                number=number,
                recipient=recipient,
                not_before_ms=at_ms // 1000 * 1000,
                not_after_ms=not_after_ms // 1000 * 1000,
                state="asked",
                sent=0,
                public_key=None,
                enveloped=None,
                revocation=None,
                trouble=None,
                created_at_ms=at_ms,
                changed_at_ms=at_ms,
            )
            await kmc_external.add(connection, asked)
            return asked

    async def _fetch(self, centre: Centre, asked: AskedKey) -> AskedKey:
        """The key of a task that has none yet: a first time, or again."""
        request = Apply(asked.number, asked.recipient, asked.not_before_ms, asked.not_after_ms)
        try:
            returned = _only(await centre.ask([request], asked.task), asked.number)
        except CentreRefusal as refusal:
            if refusal.number == ErrorNumber.TRY_AGAIN:
                raise _not_now(asked.centre) from refusal
            if asked.sent == 0:
                return await self._note_refusal(asked, refusal, made=False)
            # It may have been carried out, and the answer lost; and not every centre repeats an answer.
            try:
                returned = await self._restored(centre, asked, asked.recipient)
            except CentreRefusal as second:
                if second.number == ErrorNumber.TRY_AGAIN:
                    raise _not_now(asked.centre) from second
                return await self._note_refusal(asked, refusal, made=True)
        return await self._note_answer(asked, returned)

    async def _restored(self, centre: Centre, asked: AskedKey, recipient: bytes) -> Returned:
        """Raises CentreRefusal, Unavailable."""
        returned = _only(await centre.ask([Restore(asked.number, recipient)], new_task()), asked.number)
        if asked.public_key is not None and returned.public_key != asked.public_key:
            _log.error("kmc_other_key", centre=asked.centre, number=f"{asked.number:x}")
            raise Unavailable(
                f"centre {asked.centre!r} returned another key than the certificate's", code="kmc_other_key"
            )
        return returned

    async def _note_answer(self, asked: AskedKey, returned: Returned) -> AskedKey:
        """Records the key that came, and gives what is on record then: another request may have been faster."""
        try:
            enveloped = sealed.read(returned.sealed).enveloped(returned.public_key)
            async with self._database.write() as connection:
                at_ms = await counters.advance_time(connection, self._clock())
                if await kmc_external.public_key_known(connection, returned.public_key):
                    raise Conflict("the key is certified already", code="kmc_key_reused")
                await kmc_external.answered(connection, asked.task, returned.public_key, enveloped, at_ms=at_ms)
                stands = await kmc_external.get(connection, asked.task)
        except (Malformed, Conflict) as error:
            refusal = CentreRefusal(Failed(0, f"its key was not taken: {error.code}"))
            return await self._note_refusal(asked, refusal, made=True)
        if stands is None or stands.state != "answered" or stands.public_key != returned.public_key:
            raise Unavailable("the key was asked for twice at once; ask again", code="kmc_key_taken", retry_after_s=1)
        return stands

    async def _note_refusal(self, asked: AskedKey, refusal: CentreRefusal, *, made: bool) -> AskedKey:
        """Puts on record that there is no key under that task, and raises Refused (code "kmc_refused").

        made: the centre may have made one, which is ended there.
        """
        _log.error("kmc_refused", centre=asked.centre, task=f"{asked.task:x}", reason=str(refusal))
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            await kmc_external.refused(connection, asked.task, str(refusal), made=made, at_ms=at_ms)
            detail: dict[str, str | int] = {"task": f"{asked.task:x}", "number": f"{asked.number:x}"}
            event = AuditEvent("system", "kmc.apply", f"centre:{asked.centre}", "kmc_refused", detail)
            await audit.append(connection, event, at_ms=at_ms)
        raise _refused(asked.centre, refusal)

    async def _tell_end(self, asked: AskedKey) -> bool:
        """Whether the centre has taken the end of a key. Raises Unavailable, Refused."""
        revocation = asked.revocation
        if revocation is None:
            revocation = new_task()
            async with self._database.write() as connection:
                await kmc_external.set_revocation(connection, asked.task, revocation)
        trouble: str | None = None
        unknown = False
        try:
            (answer,) = await self._centre(asked).ask([Revoke(asked.number)], revocation)
            if not isinstance(answer, Revoked):
                raise CentreRefusal(answer if isinstance(answer, Failed) else Failed(0, "not an answer to this"))
        except CentreRefusal as refusal:
            trouble, unknown = str(refusal), refusal.number == ErrorNumber.NUMBER_UNKNOWN
        # A key that never came may never have been made; not every centre has the number that says so.
        old = self._clock() - asked.created_at_ms > _GIVEN_UP_MS
        ended = trouble is None or (asked.public_key is None and (unknown or old))
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            await kmc_external.settle(connection, asked.task, trouble, ended=ended, at_ms=at_ms)
            outcome = "ok" if trouble is None else "kmc_refused"
            detail: dict[str, str | int] = {"number": f"{asked.number:x}"}
            event = AuditEvent("system", "kmc.end", f"centre:{asked.centre}", outcome, detail)
            await audit.append(connection, event, at_ms=at_ms)
        return ended


def _only(answers: Sequence[Answer], number: int) -> Returned:
    """Raises CentreRefusal where the one answer is none that returns the certificate's key."""
    (answer,) = answers
    if isinstance(answer, Returned) and answer.number == number:
        return answer
    raise CentreRefusal(answer if isinstance(answer, Failed) else Failed(0, "not an answer to this"))


def _not_now(centre: str) -> Unavailable:
    return Unavailable(f"key-management centre {centre!r} gives no key now", code="kmc_no_answer", retry_after_s=5)


def _refused(centre: str, refusal: CentreRefusal) -> QianyanError:
    return Refused(f"key-management centre {centre!r} gives no key ({refusal})", code="kmc_refused")
