"""The status of certificates that other authorities issued, from their OCSP responders and CRLs.

Owns the cache of what was fetched and checked; a `Fetcher` owns whom it may be fetched from. An answer is relied on
until its nextUpdate and never past it. What cannot be had, is not sound or does not cover the certificate makes the
status unknown, with the cause; it never raises, and one certificate's trouble is no other's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives import hashes
from prometheus_client import CollectorRegistry, Counter, Gauge

from core.clock import Clock
from core.model import CertificateState, CertificateStatus
from signer.signing import foreign_crl, foreign_ocsp
from signer.signing.fetch import Backoff, Fetcher, FetchError
from signer.signing.foreign_crl import Crl, NotUsable
from signer.signing.foreign_ocsp import OcspAnswer, UnknownHash
from signer.signing.parsed import Parsed
from signer.signing.verification_settings import ForeignStatusSettings

_OCSP_COST_BYTES: Final = 3_000
#: A CRL shorter than this is read on the event loop; a longer one in a thread.
_INLINE_MAX_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a status rests on. Times in milliseconds; `sm3`: of the CRL or OCSP answer as it was fetched."""

    kind: Literal["crl", "ocsp", "store"]
    subject_sm3: bytes
    source: str
    this_update_ms: int
    next_update_ms: int | None = None
    produced_at_ms: int | None = None
    crl_number: int | None = None
    sm3: bytes | None = None


@dataclass(frozen=True, slots=True)
class ForeignAnswer:
    """A status; with state None `detail` says why it is unknown."""

    status: CertificateStatus
    evidence: Evidence | None = None
    detail: str | None = None


#: (certificate, issuer) of which the status is asked.
Question = tuple[Parsed, Parsed]
#: What names a question: issuer's name and key, serial.
Key = tuple[bytes, bytes, bytes]


def key_of(question: Question) -> Key:
    """Questions about one certificate by one issuer are one question, whatever certificate the issuer shows."""
    child, issuer = question
    return child.encoded, issuer.subject, issuer.point


def sm3(data: bytes) -> bytes:
    """SM3 of bytes of any length."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def unknown(child: Parsed, detail: str) -> ForeignAnswer:
    """No status is known."""
    return ForeignAnswer(CertificateStatus(child.serial, None), None, detail)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the cache holds: good until `until_ms`, of about `cost` bytes."""

    value: Crl | tuple[OcspAnswer, bytes]
    until_ms: int
    cost: int


class ForeignStatus:
    """See the module. One event loop's."""

    def __init__(
        self, settings: ForeignStatusSettings, clock: Clock, registry: CollectorRegistry | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._fetcher = Fetcher(settings, clock, registry)
        # What was fetched and is no use, by address and issuer: another issuer's CRL may well be sound there.
        self._useless = Backoff(settings, clock)
        self._cache: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._cached_bytes = 0
        self._reading: dict[tuple[str, bytes], asyncio.Task[Crl]] = {}
        self._tasks: set[asyncio.Task[ForeignAnswer]] = set()
        self._answers = Counter(
            "qianyan_foreign_status_answers",
            "Foreign certificates whose status was asked, by what came of it (good, revoked, held, unknown).",
            ["status"],
            registry=registry,
        )
        self._cache_gauge = Gauge(
            "qianyan_foreign_status_cache_bytes",
            "About how many bytes the kept foreign CRLs and OCSP answers take.",
            registry=registry,
        )

    async def close(self) -> None:
        """Ends what is under way."""
        under_way = [*self._tasks, *self._reading.values()]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._fetcher.close()

    async def resolve(self, questions: Iterable[Question]) -> dict[Key, ForeignAnswer]:
        """An answer per question, within `call_timeout_s`: what is not known by then is unknown."""
        asked = {key_of(question): question for question in questions}
        limit = self._settings.max_questions
        answers = {
            key: unknown(question[0], f"a call asks for the status of at most {limit} foreign certificates")
            for key, question in list(asked.items())[limit:]
        }
        tasks: dict[Key, asyncio.Task[ForeignAnswer]] = {}
        for key, question in list(asked.items())[:limit]:
            task = tasks[key] = asyncio.create_task(self._answer(question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=self._settings.call_timeout_s)
        finally:
            for task in tasks.values():
                task.cancel()
        for key, task in tasks.items():
            late = not task.done() or task.cancelled()
            answers[key] = unknown(asked[key][0], "no answer came in time") if late else task.result()
        for answer in answers.values():
            state = answer.status.state
            self._answers.labels("unknown" if state is None else state.value).inc()
        return answers

    async def _answer(self, question: Question) -> ForeignAnswer:
        """By each kind of source in order, until one answers."""
        child, issuer = question
        causes: list[str] = []
        for kind in self._settings.order:
            ask = self._by_ocsp if kind == "ocsp" else self._by_crl
            try:
                return await ask(child, issuer)
            except (NotUsable, FetchError) as error:
                causes.append(f"{kind}: {error}")
        return unknown(child, "; ".join(causes) or "no source is configured")

    # ---- CRL

    async def _by_crl(self, child: Parsed, issuer: Parsed) -> ForeignAnswer:
        """Raises NotUsable or FetchError: why the last of its CRLs does not do."""
        trouble: NotUsable | FetchError = NotUsable("the certificate names no CRL that may be fetched")
        for url, point in foreign_crl.points_of(child):
            if not self._fetcher.admits(url):
                continue
            try:
                crl = await self._crl(url, issuer)
                status = foreign_crl.status_by(crl, child, point)
            except (NotUsable, FetchError) as error:
                trouble = error
                continue
            evidence = Evidence(
                "crl", sm3(child.encoded), url, crl.this_update_ms, crl.next_update_ms, None, crl.number, crl.sm3
            )
            return ForeignAnswer(status, evidence)
        raise trouble

    async def _crl(self, url: str, issuer: Parsed) -> Crl:
        """From the cache, or fetched and read once for all who wait."""
        key = (url, issuer.subject + issuer.point)
        kept = self._kept(key)
        if isinstance(kept, Crl):
            return kept
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._fetch_crl(key, url, issuer))
            reading.add_done_callback(lambda done: self._read(key, done))
        return await asyncio.shield(reading)

    def _read(self, key: tuple[str, bytes], done: asyncio.Task[Crl]) -> None:
        self._reading.pop(key, None)
        if not done.cancelled():
            done.exception()  # seen: those who waited may all have left

    async def _fetch_crl(self, key: tuple[str, bytes], url: str, issuer: Parsed) -> Crl:
        if self._useless.waits(key):
            raise NotUsable("the CRL there was no use a moment ago")
        encoded = await self._fetcher.get(url, self._settings.max_crl_bytes)
        try:
            digest = sm3(encoded)
            if len(encoded) <= _INLINE_MAX_BYTES:
                crl = foreign_crl.read_crl(encoded, issuer, digest)
            else:
                crl = await asyncio.to_thread(foreign_crl.read_crl, encoded, issuer, digest)
            self._check_times(crl, issuer)
        except NotUsable:
            self._useless.failed(key)
            raise
        self._useless.well(key)
        self._keep(key, _Kept(crl, crl.next_update_ms, crl.cost_bytes))
        return crl

    def _check_times(self, crl: Crl, issuer: Parsed) -> None:
        now_ms = self._clock()
        if crl.this_update_ms > now_ms + self._settings.clock_skew_s * 1000:
            raise NotUsable("the CRL is of a time that has not come")
        if crl.next_update_ms <= now_ms:
            raise NotUsable("the CRL is past its nextUpdate")
        if not issuer.valid_at(crl.this_update_ms):
            raise NotUsable("the CRL was made outside its issuer's validity")

    # ---- OCSP

    async def _by_ocsp(self, child: Parsed, issuer: Parsed) -> ForeignAnswer:
        trouble: NotUsable | FetchError = NotUsable("the certificate names no responder that may be asked")
        for url in child.ocsp_urls:
            if not self._fetcher.admits(url):
                continue
            try:
                answer, digest = await self._ocsp(url, child, issuer)
            except (NotUsable, FetchError) as error:
                trouble = error
                continue
            evidence = Evidence(
                "ocsp", sm3(child.encoded), url, answer.this_update_ms, answer.next_update_ms, answer.produced_at_ms,
                None, digest,
            )  # fmt: skip
            return ForeignAnswer(answer.status, evidence)
        raise trouble

    async def _ocsp(self, url: str, child: Parsed, issuer: Parsed) -> tuple[OcspAnswer, bytes]:
        """From the cache, or asked under each digest until the responder knows one."""
        key = (url, sm3(child.encoded + issuer.subject + issuer.point))
        kept = self._kept(key)
        if isinstance(kept, tuple):
            return kept
        if self._useless.waits(key):
            raise NotUsable("the OCSP answer for this certificate was no use a moment ago")
        trouble = NotUsable("no digest for OCSP is configured")
        for hash_name in self._settings.ocsp_hashes:
            try:
                answer, digest = await self._ask(url, child, issuer, hash_name)
            except UnknownHash as error:
                trouble = error
                continue
            except NotUsable:
                self._useless.failed(key)
                raise
            self._useless.well(key)
            until_ms = answer.next_update_ms
            if answer.responder is not None:
                until_ms = min(until_ms, answer.responder.not_after_ms)
            self._keep(key, _Kept((answer, digest), until_ms, _OCSP_COST_BYTES))
            return answer, digest
        self._useless.failed(key)
        raise trouble

    async def _ask(self, url: str, child: Parsed, issuer: Parsed, hash_name: str) -> tuple[OcspAnswer, bytes]:
        settings = self._settings
        encoded = await self._fetcher.post(url, foreign_ocsp.request(child, issuer, hash_name), settings.max_ocsp_bytes)
        answer = foreign_ocsp.read_answer(
            encoded,
            child,
            issuer,
            now_ms=self._clock(),
            skew_ms=settings.clock_skew_s * 1000,
            max_age_ms=settings.ocsp_max_age_s * 1000,
        )
        responder = answer.responder
        if responder is not None and not responder.ocsp_nocheck:
            # RFC 6960 §4.2.2.2.1: a signer that does not say otherwise is itself to be checked, by CRL.
            standing = (await self._by_crl(responder, issuer)).status
            if standing.state is not CertificateState.GOOD:
                raise NotUsable("the OCSP signer's certificate is revoked")
        return answer, sm3(encoded)

    # ---- cache

    def _kept(self, key: tuple[str, bytes]) -> Crl | tuple[OcspAnswer, bytes] | None:
        found = self._cache.get(key)
        if found is None:
            return None
        if found.until_ms <= self._clock():
            self._drop(key)
            return None
        self._cache.move_to_end(key)
        return found.value

    def _keep(self, key: tuple[str, bytes], kept: _Kept) -> None:
        self._drop(key)
        if kept.cost > self._settings.max_cache_bytes:
            return
        self._cache[key] = kept
        self._cached_bytes += kept.cost
        while self._cached_bytes > self._settings.max_cache_bytes:
            self._drop(next(iter(self._cache)))
        self._cache_gauge.set(self._cached_bytes)

    def _drop(self, key: tuple[str, bytes]) -> None:
        found = self._cache.pop(key, None)
        if found is not None:
            self._cached_bytes -= found.cost
            self._cache_gauge.set(self._cached_bytes)
