"""Signs OCSP answers that nobody else may be given (a nonce), all of one event-loop pass together.

Owns the requests that wait for the end of the pass, the statuses in memory and the reads under way; only the
event-loop thread touches them. Knows the plain form of a request (status._answers) and a signer that takes many at
once; not HTTP beyond the answers it fills, and nothing of keys. Whatever is not plain sailing (an issuer that is not
known, a signer's certificate that ended, a clock that went back) is left to `otherwise`, which says it properly.

Before a batch is made the change feed is looked at, and what it names is dropped here, so that a status is never
older than the last commit before the batch. A status read from the store is kept only if the feed has not named its
certificate since the read began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from core.errors import Busy, NotFound, QianyanError, Refused, Unavailable
from core.ports import BatchSigner
from core.store.counters import CLOCK_TOLERANCE_MS
from core.store.feed import FeedEntry
from status import _answers, compose, response
from status._answers import Asked
from status.issuers import Issuers, OcspSigner
from status.responder import Responder
from status.source import StatusLookup
from status.table import Certificate, StatusTable, WrittenStatus

#: The most answers signed in one turn of the loop; what is left takes the next one.
_BATCH_MAX: Final = 256

_log = structlog.get_logger()


class Slot(Protocol):
    """A request that was kept, to be answered later (service.wire)."""

    body: bytes

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """Answers it."""
        ...

    @staticmethod
    def answer_many(requests: list[Any], answers: list[_answers.Answer]) -> None:
        """Answers many."""
        ...


_Pairs = list[tuple[Asked, WrittenStatus]]


class LiveAnswers:
    """See the module. `ask` is called for each request; `close` waits for what is under way.

    current(): whether the feed was delivered to its end; now_ms(): the time that goes with it. otherwise(slot,
    octets): answers by the general way. refuse(error): the answer to an error.
    """

    def __init__(
        self,
        responder: Responder,
        lookup: StatusLookup,
        signer_for: Callable[[str], BatchSigner],
        *,
        current: Callable[[], bool],
        now_ms: Callable[[], int],
        otherwise: Callable[[Slot, bytes], None],
        refuse: Callable[[QianyanError], _answers.Answer],
    ) -> None:
        settings = responder.settings
        self._responder = responder
        self._lookup = lookup
        self._signer_for = signer_for
        self._current = current
        self._now_ms = now_ms
        self._otherwise = otherwise
        self._refuse = refuse
        self._life_s, self._unknown_life_s = settings.response_life_s, settings.unknown_life_s
        self._archive_cutoff = settings.archive_cutoff_days > 0
        self.statuses = StatusTable(settings.status_table_bytes)
        self.issuers: Issuers | None = None
        self._changes = 0
        self._loading: dict[Certificate, object] = {}
        self._times: dict[tuple[OcspSigner, int], tuple[bytes, bytes, bytes]] = {}
        self._certificates: dict[bytes, bytes] = {}
        self._last_ms = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning = False
        self._loop = asyncio.get_running_loop()
        self.gathered = _answers.Gathered(max_waiting=settings.max_waiting, soon=self._loop.call_soon, turn=self._turn)

    def ask(self, asked: Asked) -> None:
        """Answers `asked` soon. Raises Busy where too many wait."""
        if not self.gathered.add(asked):
            raise Busy("too many requests wait to be signed", code="ocsp_queue_full", retry_after_s=1)

    def on_feed(self, entry: FeedEntry) -> None:
        """Forgets what a committed change has overtaken."""
        self._last_ms = max(self._last_ms, entry.at_ms)
        if entry.serial is not None and entry.authority_id is not None:
            certificate = entry.authority_id, serial_octets(entry.serial)
            self.statuses.drop(certificate)
            self._loading.pop(certificate, None)
        elif entry.kind == "authority":
            self._changes += 1
            self.issuers = None
            self.statuses.clear()
            self._loading.clear()
            self._certificates.clear()

    async def close(self) -> None:
        """Returns when every answer is given."""
        while self._tasks or self.gathered:
            if self.gathered:
                self._turn()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def learn_soon(self) -> None:
        """Has the issuers learned in the background, unless that is under way."""
        if not self._learning:
            self._learning = True
            self._spawn(self._learn(), [])

    async def _learn(self) -> None:
        try:
            await self.learn_issuers()
        except QianyanError as error:  # whoever needs them meets it again, and is told
            _log.warning("issuers_not_read", code=error.code, detail=error.detail)
        finally:
            self._learning = False

    async def learn_issuers(self) -> Issuers:
        """The issuers, kept until the feed speaks of an authority. Raises Unavailable."""
        while self.issuers is None:
            changes = self._changes
            issuers = await self._responder.issuers()
            if changes == self._changes:
                self.issuers = issuers
        return self.issuers

    # ---- a batch

    def _turn(self) -> None:
        batch = self.gathered.take(_BATCH_MAX)
        try:
            if not self._current():
                self._elsewhere(batch)
            elif self.issuers is None:
                self._spawn(self._after_issuers(batch), batch)
            else:
                self._sort(batch, self.issuers)
        except Exception as error:  # whatever it was, nobody may be left waiting
            self._abandon(batch, error)

    async def _after_issuers(self, batch: list[Asked]) -> None:
        try:
            issuers = await self.learn_issuers()
        except QianyanError:
            self._elsewhere(batch)
        else:
            self._sort(batch, issuers)

    def _sort(self, batch: list[Asked], issuers: Issuers) -> None:
        """Signs what is known here, asks the store for the rest."""
        ready: dict[OcspSigner, _Pairs] = {}
        lacking: list[tuple[Asked, Certificate, OcspSigner]] = []
        by_cert_id, statuses = issuers.by_cert_id, self.statuses
        signer, pairs, rest = _answers.pair_up(batch, by_cert_id, statuses.usual)  # mostly that is all
        if pairs:
            ready[signer] = pairs
        for asked in rest:
            issuer = by_cert_id.get(asked.issuer)
            if issuer is None or issuer.signer is None:
                self._elsewhere([asked])
                continue
            certificate = issuer.id, asked.serial
            status = statuses.get(certificate)
            if status is None:
                lacking.append((asked, certificate, issuer.signer))
                continue
            ready.setdefault(issuer.signer, []).append((asked, status))
        if lacking:
            self._spawn(self._load(lacking), [asked for asked, _, _ in lacking])
        self._sign_groups(ready)

    async def _load(self, lacking: list[tuple[Asked, Certificate, OcspSigner]]) -> None:
        """Reads the statuses of one batch and signs it."""
        serials: dict[str, set[bytes]] = {}
        this = object()  # tells this read from one of the same certificate that began after a change
        for _, (authority_id, serial), _ in lacking:
            serials.setdefault(authority_id, set()).add(serial)
            self._loading[authority_id, serial] = this
        found: dict[Certificate, WrittenStatus] = {}
        try:
            for authority_id, wanted in serials.items():
                order = sorted(wanted)
                rows, last_ms = await self._lookup.find(authority_id, [int.from_bytes(one, "big") for one in order])
                self._last_ms = max(self._last_ms, last_ms)
                for serial, row in zip(order, rows, strict=True):
                    found[authority_id, serial] = WrittenStatus.of(row)
        except QianyanError as error:
            self._fill([asked for asked, _, _ in lacking], [self._refuse(error) for _ in lacking])
            return
        finally:
            self._keep({certificate for _, certificate, _ in lacking}, found, this)
        ready: dict[OcspSigner, _Pairs] = {}
        for asked, certificate, signer in lacking:
            ready.setdefault(signer, []).append((asked, found[certificate]))
        self._sign_groups(ready)

    def _keep(self, certificates: set[Certificate], found: dict[Certificate, WrittenStatus], read: object) -> None:
        """Keeps what a read has found of certificates that nothing was said of since it began."""
        for certificate in certificates:
            if self._loading.get(certificate) is read:
                del self._loading[certificate]
                if certificate in found:
                    self.statuses.put(certificate, found[certificate])

    def _sign_groups(self, groups: dict[OcspSigner, _Pairs]) -> None:
        for signer, pairs in groups.items():
            now_ms = self._now_ms()
            in_time = signer.not_before_ms <= now_ms < signer.not_after_ms
            if not in_time or now_ms + CLOCK_TOLERANCE_MS < self._last_ms:
                self._elsewhere([asked for asked, _ in pairs])
                continue
            data = self._data(signer, pairs, now_ms)
            try:
                key = self._key(signer)
                raw = key.sign_now(data)
            except NotFound:  # committed a moment ago, perhaps: the general way looks again
                self._elsewhere([asked for asked, _ in pairs])
                continue
            except QianyanError as error:
                self._fail(pairs, error)
                continue
            if raw is None:
                self._spawn(self._sign_later(key, signer, pairs, data), [asked for asked, _ in pairs])
            else:
                self._finish(signer, pairs, data, raw)

    def _data(self, signer: OcspSigner, pairs: _Pairs, now_ms: int) -> list[bytes]:
        produced, until, unknown_until = self._dates(signer, now_ms // 1000)
        if self._archive_cutoff:
            pairs = self._with_cutoff(pairs, now_ms // 1000 * 1000)
        return _answers.responses_data(pairs, signer.responder_id, produced, until, unknown_until)

    def _with_cutoff(self, pairs: _Pairs, this_ms: int) -> _Pairs:
        """The same, each certificate that was issued with the archive cutoff of an answer made now."""
        at_ms = compose.archive_cutoff_ms(self._responder.settings, this_ms)
        assert at_ms is not None
        known = [(asked, status) for asked, status in pairs if status.known]
        told = {s.extensions: response.with_archive_cutoff(s.extensions, at_ms) for _, s in known}
        return [
            (asked, replace(status, extensions=told[status.extensions]) if status.known else status)
            for asked, status in pairs
        ]

    def _dates(self, signer: OcspSigner, now_s: int) -> tuple[bytes, bytes, bytes]:
        """producedAt, nextUpdate, and the nextUpdate of `unknown`: never past the signer's certificate."""
        dates = self._times.get((signer, now_s))
        if dates is None:
            this_ms = now_s * 1000
            lives_s = self._life_s, min(self._life_s, self._unknown_life_s)
            ends_ms = [min(this_ms + life_s * 1000, signer.not_after_ms) for life_s in lives_s]
            produced, until = response.update_times(this_ms, ends_ms[0])
            dates = produced, until, response.update_times(this_ms, ends_ms[1])[1]
            if len(self._times) > 16:
                self._times.clear()
            self._times[signer, now_s] = dates
        return dates

    def _key(self, signer: OcspSigner) -> BatchSigner:
        key = self._signer_for(signer.key_id)
        if key.public_key != signer.public_key:
            raise Refused("the OCSP signing key is not its certificate's", code="ocsp_key_mismatch")
        return key

    async def _sign_later(self, key: BatchSigner, signer: OcspSigner, pairs: _Pairs, data: list[bytes]) -> None:
        try:
            raw = await key.sign_many(data)
        except QianyanError as error:
            self._fail(pairs, error)
        else:
            self._finish(signer, pairs, data, raw)

    def _finish(self, signer: OcspSigner, pairs: _Pairs, data: list[bytes], raw: bytes) -> None:
        certificates = self._certificates.get(signer.certificate)
        if certificates is None:
            certificates = self._certificates[signer.certificate] = response.certificates_field(signer.certificate)
        metrics = self._responder.metrics
        metrics.signatures.inc(len(pairs))
        metrics.request("ok", len(pairs))
        self._fill([asked for asked, _ in pairs], _answers.finish(data, raw, certificates))

    # ---- what goes another way

    def _fail(self, pairs: _Pairs, error: QianyanError) -> None:
        """A key that may come back is Unavailable, one that cannot is Refused (status.responder says the same)."""
        if isinstance(error, NotFound):
            error = Refused("the OCSP signing key is not here", code="ocsp_key_missing")
        elif isinstance(error, Refused) and error.code == "key_frozen":
            error = Unavailable("the OCSP signing key is frozen", code="key_frozen", retry_after_s=60)
        self._fill([asked for asked, _ in pairs], [self._refuse(error) for _ in pairs])

    def _fill(self, batch: list[Asked], answers: list[_answers.Answer]) -> None:
        self.gathered.done(batch)
        type(batch[0].slot).answer_many([asked.slot for asked in batch], answers)

    def _elsewhere(self, batch: list[Asked]) -> None:
        self.gathered.done(batch)
        for asked in batch:
            self._otherwise(asked.slot, asked.octets)

    def _abandon(self, batch: list[Asked], error: BaseException) -> None:
        """What nobody foresaw: the log gets the cause, who still waits an answer that says nothing of it."""
        _log.error("ocsp_live_failed", exc_info=error)
        left = [asked for asked in batch if not asked.answered]
        if left:
            self._fill(left, [self._refuse(QianyanError("the answer could not be made")) for _ in left])

    def _spawn(self, work: Coroutine[Any, Any, None], batch: list[Asked]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                self._abandon(batch, asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                self._abandon(batch, error)

        task.add_done_callback(done)


def serial_octets(serial: int) -> bytes:
    """The contents of the serial's INTEGER in DER."""
    return serial.to_bytes(serial.bit_length() // 8 + 1, "big")
