"""This installation as key-management centre for other authorities: answers CA-KM messages (GM/T 0014-2012 §5.2).

Order of things, and why. (1) The message is read, its sender found among the registered authorities, its signature and
time checked: until then nothing is looked at and nothing is written. (2) A task number that was answered gets the same
keys again, also after a crash or a lost answer; with another content it is refused. (3) Keys are taken and enveloped
outside any transaction. (4) One transaction records keys, audit and the answers. (5) The answer is signed and leaves.
What goes wrong with one request of a message is that request's ErrorPkgRespond; what is wrong with the message is the
only answer in it. A failure that will pass is not recorded, so that the task can be sent again under its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import public_key_of_certificate
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import Busy, Malformed, QianyanError, Refused, TooLarge, Unavailable
from core.store import audit, counters, kmc_served
from core.store.database import Database
from core.store.escrow import WrappedKey
from core.store.kmc_served import ServedAuthority, ServedKey, Task
from signer._native import sm2, sm3
from signer.engine.verify import verify_signature
from signer.issuance.kmc import KeyManagement
from signer.kmc import messages, sealed
from signer.kmc.identity import Identity
from signer.kmc.messages import (
    Answer,
    Apply,
    ErrorNumber,
    Failed,
    Question,
    Request,
    Restore,
    Returned,
    Revoke,
    Revoked,
)
from signer.kmc.metrics import ServerMetrics
from signer.kmc.names import EntityName

_log = structlog.get_logger("qianyan.kmc")
_KINDS: Final = {Apply: "apply", Restore: "restore", Revoke: "revoke"}


_TEXTS: Final = {
    ErrorNumber.MALFORMED: "the message cannot be read",
    ErrorNumber.SENDER: "the sender is not registered here",
    ErrorNumber.SIGNATURE: "the signature does not verify",
    ErrorNumber.TIME: "the time of the request is too far from the time here",
    ErrorNumber.TASK: "the task number was used for another request",
    ErrorNumber.ALGORITHM: "only SM2 with 256 bits, SM4 in ECB and SM3 are done here",
    ErrorNumber.RECIPIENT: "the user's public key is not an SM2 key",
    ErrorNumber.VALIDITY: "the time of validity is over or the wrong way round",
    ErrorNumber.NUMBER_USED: "the certificate number has a key already",
    ErrorNumber.NUMBER_UNKNOWN: "the certificate number has no key here",
    ErrorNumber.TOO_LARGE: "the message is too long or has too many requests",
    ErrorNumber.TRY_AGAIN: "not now; send the same task again",
}


class _MessageError(Exception):
    """The whole message is refused. `subject`: for the audit record; None where nobody is known to have sent it."""

    def __init__(self, number: ErrorNumber, subject: str | None = None, question: Question | None = None) -> None:
        super().__init__(_TEXTS[number])
        self.number = number
        self.subject = subject
        self.question = question


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An answer that is ready but for the store. `key`: to be kept under the request's certificate number."""

    request: Request
    answer: Answer
    key: WrappedKey | None = None


def failed(number: ErrorNumber) -> Failed:
    """The ErrorPkgRespond of that number."""
    return Failed(int(number), _TEXTS[number])


class KmcServer:
    """See the module. `window_ms`: how far a request's time may be from ours."""

    def __init__(
        self,
        database: Database,
        keys: KeyManagement,
        identity: Identity,
        clock: Clock,
        window_ms: int,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._identity = identity
        self._clock = clock
        self._window_ms = window_ms
        self._metrics = metrics or ServerMetrics.create()

    async def answer(self, message: bytes, caller: str) -> bytes:
        """The KMRespond to a CARequest, whatever the bytes are. `caller`: who brought it, for the audit record.

        Raises Refused, NotFound, Busy or Unavailable where no answer can be signed.
        """
        with self._metrics.seconds.time():
            certificate = await self._identity.certificate()
            try:
                question = self._read(message)
                authority = await self._sender(question)
                listed = await self._answers(question, authority, certificate)
                task, outcome = question.task, None
            except _MessageError as error:
                self._metrics.messages.labels("refused").inc()
                await self._record_refusal(error, caller)
                asked = error.question
                task, outcome = (0 if asked is None else asked.task), error.number
                explicit = asked is not None and asked.explicit
                listed = messages.answer_list([failed(error.number)], explicit=explicit)
            body = messages.reply_body(EntityName.of_certificate(certificate), listed, self._clock(), task)
            if outcome is not None:
                _log.info("kmc message refused", caller=caller, number=int(outcome))
            return messages.join_signature(body, await self._identity.sign(body))

    @staticmethod
    def _read(message: bytes) -> Question:
        try:
            return messages.read_question(message)
        except TooLarge as error:
            raise _MessageError(ErrorNumber.TOO_LARGE) from error
        except (Malformed, Refused) as error:
            raise _MessageError(ErrorNumber.MALFORMED) from error

    async def _sender(self, question: Question) -> ServedAuthority:
        """Who signed it, among the registered authorities."""
        async with self._database.read() as connection:
            known = await kmc_served.list_authorities(connection)
        for authority in known:
            if not authority.withdrawn and question.name.is_of(authority.certificate):
                break
        else:
            raise _MessageError(ErrorNumber.SENDER, question=question)
        try:
            verify_signature(public_key_of_certificate(authority.certificate), question.signed, question.signature)
        except Refused as error:
            raise _MessageError(ErrorNumber.SIGNATURE, authority.id, question) from error
        now_ms = self._clock()
        certificate = x509.load_der_x509_certificate(authority.certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not from_datetime(begin) <= now_ms <= from_datetime(end):
            raise _MessageError(ErrorNumber.SENDER, authority.id, question)
        if abs(now_ms - question.at_ms) > self._window_ms:
            raise _MessageError(ErrorNumber.TIME, authority.id, question)
        return authority

    async def _answers(self, question: Question, authority: ServedAuthority, certificate: bytes) -> bytes:
        """The encoded list of answers, durable."""
        digest = sm3.sm3(question.listed)
        async with self._database.read() as connection:
            before = await kmc_served.recall(connection, authority.id, question.task)
        if before is None:
            try:
                prepared = [await self._prepare(one, authority, certificate) for one in question.requests]
                async with self._database.write() as connection:
                    at_ms = await counters.advance_time(connection, self._clock())
                    if not await kmc_served.is_admitted(connection, authority):
                        raise _MessageError(ErrorNumber.SENDER, authority.id, question)
                    before = await kmc_served.recall(connection, authority.id, question.task, lock=True)
                    if before is None:
                        listed = await self._record(connection, question, authority, prepared, at_ms)
                        done = Task(digest, listed)
                        await kmc_served.remember(connection, authority.id, question.task, done, at_ms=at_ms)
            except (Busy, Unavailable) as error:
                _log.warning("kmc_not_now", authority=authority.id, code=error.code, detail=error.detail)
                raise _MessageError(ErrorNumber.TRY_AGAIN, None, question) from error
            if before is None:
                self._metrics.messages.labels("answered").inc()
                return listed
        if before.digest != digest:
            raise _MessageError(ErrorNumber.TASK, authority.id, question)
        self._metrics.messages.labels("repeated").inc()
        return before.answer

    async def _prepare(self, request: Request, authority: ServedAuthority, certificate: bytes) -> _Prepared:
        """What needs keys and signatures, before the store is written to."""
        if isinstance(request, Revoke):
            return _Prepared(request, Revoked(request.number))
        refusal = self._refusal(request)
        if refusal is not None:
            return _Prepared(request, failed(refusal))
        async with self._database.read() as connection:
            known = await kmc_served.find(connection, authority.id, request.number)
        if isinstance(request, Apply):
            if known is not None:
                return _Prepared(request, failed(ErrorNumber.NUMBER_USED))
            key = await self._keys.take()
            return _Prepared(request, await self._return(request, key, authority, certificate), key)
        if known is None:
            return _Prepared(request, failed(ErrorNumber.NUMBER_UNKNOWN))
        return _Prepared(request, await self._return(request, known.key, authority, certificate))

    def _refusal(self, request: Apply | Restore) -> ErrorNumber | None:
        if not request.suitable:
            return ErrorNumber.ALGORITHM
        if request.recipient is None:
            return ErrorNumber.RECIPIENT
        if isinstance(request, Apply) and not max(request.not_before_ms, self._clock()) < request.not_after_ms:
            return ErrorNumber.VALIDITY
        return None

    async def _return(
        self, request: Apply | Restore, key: WrappedKey, authority: ServedAuthority, certificate: bytes
    ) -> Returned:
        recipient = request.recipient
        assert recipient is not None
        centre = public_key_of_certificate(certificate)

        def seal(private_key: sm2.PrivateKey) -> sealed.Unsigned:
            return sealed.seal(private_key, recipient, centre)

        unsigned = await asyncio.to_thread(self._keys.use, key, seal)
        signature = await self._identity.sign_digest(unsigned.digest)
        encoded = sealed.encode(unsigned.sealed, authority.certificate, request.number, certificate, signature)
        return Returned(request.number, key.public_key, encoded, restored=isinstance(request, Restore))

    async def _record(
        self,
        connection: AsyncConnection,
        question: Question,
        authority: ServedAuthority,
        prepared: Sequence[_Prepared],
        at_ms: int,
    ) -> bytes:
        """Everything that the message leaves behind; the encoded list of answers."""
        answers = []
        for one in prepared:
            answer = await self._settle(connection, authority.id, one, at_ms)
            kind, ok = _KINDS[type(one.request)], not isinstance(answer, Failed)
            self._metrics.requests.labels(kind, "ok" if ok else "error").inc()
            outcome = f"kmc_error_{answer.number}" if isinstance(answer, Failed) else "ok"
            detail: dict[str, str | int] = {"number": f"{one.request.number:x}", "task": f"{question.task:x}"}
            event = AuditEvent(f"kmc:{authority.id}", f"kmc.{kind}", f"kmc:{authority.id}", outcome, detail)
            await audit.append(connection, event, at_ms=at_ms)
            answers.append(answer)
        return messages.answer_list(answers, explicit=question.explicit)

    @staticmethod
    async def _settle(connection: AsyncConnection, authority_id: str, one: _Prepared, at_ms: int) -> Answer:
        """The answer, as the store allows it now."""
        request = one.request
        if isinstance(request, Apply) and one.key is not None:
            kept = ServedKey(authority_id, request.number, one.key, request.not_after_ms, at_ms)
            if not await kmc_served.keep(connection, kept):
                return failed(ErrorNumber.NUMBER_USED)
        if isinstance(request, Revoke):
            if await kmc_served.find(connection, authority_id, request.number) is None:
                return failed(ErrorNumber.NUMBER_UNKNOWN)
            await kmc_served.end(connection, authority_id, request.number, at_ms=at_ms)
        return one.answer

    async def _record_refusal(self, error: _MessageError, caller: str) -> None:
        """What a registered authority, or somebody in its name, was refused goes on record."""
        if error.subject is None:
            return
        detail: dict[str, str | int] = {"caller": caller}
        if error.question is not None:
            detail["task"] = f"{error.question.task:x}"
        outcome = f"kmc_error_{int(error.number)}"
        event = AuditEvent(f"kmc:{error.subject}", "kmc.refuse", f"kmc:{error.subject}", outcome, detail)
        try:
            async with self._database.write() as connection:
                await audit.append(connection, event, at_ms=self._clock())
        except QianyanError as trouble:  # the refusal stands; that it could not be recorded is said
            _log.error("kmc_refusal_not_recorded", code=trouble.code, detail=trouble.detail)
