"""Signing's hot path: what arrived in one pass of the event loop is admitted, accounted for and signed together.

Stands in front of signer.signing.http and says nothing that it would not say. Plain requests are sorted by caller, key
and form (`_sign`); at the end of the pass the store is asked for news, each group is admitted once, and all are signed
by one native call. Whatever does not go smoothly is done request by request in a task, by the same code that aiohttp's
handlers call, so that each fails alone and is answered, counted and audited as there.

Owns the tasks under way. Knows callers, the engine's interface and the fields of an HTTP answer; not sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog

from core.errors import Busy, Denied, Malformed, QianyanError, Unavailable
from core.http import Caller, allow, parse_json
from service import problems
from service.callers import Callers
from service.client_certificates import Presented, identify
from service.limits import Gate
from service.wire import _sign, _wire
from signer.engine.engine import SigningEngine
from signer.engine.keyuse import APPLICATION_PURPOSES
from signer.signing.http import SigningRoutes
from signer.signing.settings import SigningSettings

#: The longest body that is taken here; a longer one costs so much more than its way in that aiohttp may have it.
MAX_BODY_BYTES: Final = 128 << 10
#: Requests that wait for an answer of their own, each in a task.
_TASKS_MAX: Final = 16_384
#: Digests of a group where the engine signs nothing at once (devices).
_GROUP_MIN: Final = 64
_SCOPE: Final = "sign"

_log = structlog.get_logger("qianyan.http")


class _NoCertificate:
    """A connection that was looked at and had none."""


_NONE: Final = _NoCertificate()


@dataclass(frozen=True, slots=True)
class _Entered:
    """A group whose requests were let in, by `gate` where the caller has limits."""

    group: _sign.Group
    caller: Caller
    gate: Gate | None
    key_id: str


class HotSigning:
    """See the module. `routes` are for service.wire; made inside the running loop."""

    def __init__(
        self,
        engine: SigningEngine,
        signing: SigningRoutes,
        callers: Callers,
        settings: SigningSettings,
        *,
        max_pending: int,
    ) -> None:
        self._engine = engine
        self._signing = signing
        self._callers = callers
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn_max = max(_GROUP_MIN, engine.now_max)
        self._left: list[_sign.Group] = []
        self._gatherer = _sign.Gatherer(
            limit=self._turn_max,
            max_waiting=max_pending,
            turn=self._turn,
            soon=self._loop.call_soon,
            otherwise=self._otherwise,
            full=self._full,
            certificate=self._certificate if callers.asks_certificates else None,
        )

    def routes(self) -> list[_wire.Route]:
        """Their patterns are those of signer.signing.http."""
        octets = min(MAX_BODY_BYTES, self._settings.max_digests * 32)
        json = min(MAX_BODY_BYTES, self._settings.max_body_bytes)
        keys, pattern = b"/v1/keys/", "/v1/keys/{key}/sign"
        return [
            _wire.Route("POST", b"/v1/sign", self._gatherer.json, pattern="/v1/sign", max_body=json),
            _wire.Route("POST", keys, self._gatherer.octets, pattern=pattern, prefix=True, max_body=octets),
        ]

    async def close(self) -> None:
        """Returns when every answer under way is given."""
        while self._tasks or self._gatherer.waiting:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)  # the turn is due

    # ---- a pass

    def _turn(self) -> None:
        """Signs what has come, at most so much that others get their turn; the rest takes the next one."""
        groups, self._left = self._left + self._gatherer.take(), []
        count = at = 0
        while at < len(groups) and (not count or count + groups[at].count <= self._turn_max):
            count += groups[at].count
            at += 1
        if at < len(groups):
            groups, self._left = groups[:at], groups[at:]
            self._loop.call_soon(self._turn)
        self._gatherer.done(count)
        try:
            fresh = self._callers.fresh(None)
        except QianyanError:
            fresh = False  # each is told why
        entered: list[_Entered] = []
        for group in groups:
            try:
                let_in = self._let_in(group) if fresh else None
                if let_in is None:
                    self._apart(group, None)
                else:
                    entered.append(let_in)
            except Exception as error:  # whatever it was, nobody may be left waiting
                self._fail(group, error)
        try:
            self._sign_for(entered)
        except Exception as error:
            for one in entered:
                self._fail(one.group, error)

    def _let_in(self, group: _sign.Group) -> _Entered | None:
        """Admits a whole group; None where some of its requests may have their way, and others not."""
        account = self._callers.known(_text(group.authorization), _shown(group))
        if account is None or _SCOPE not in account.caller.scopes:
            return None
        gate = account.gate
        if gate is not None and (group.octets or not gate.enter_all(len(group.requests))):
            return None
        account.requests += len(group.requests)
        for request in group.requests:
            request.caller = account.caller.id
        return _Entered(group, account.caller, gate, group.key.decode("ascii"))

    def _sign_for(self, entered: list[_Entered]) -> None:
        """Signs for those that may, all at once; the others go to the queue, or one by one."""
        plain = []
        for one in entered:
            if self._engine.is_plain(one.key_id, caller=one.caller.id, purpose=APPLICATION_PURPOSES):
                plain.append(one)
            else:
                self._apart(one.group, one.caller, one.gate)
        uses = [(one.key_id, one.caller.id, one.group.digests) for one in plain]
        try:
            signed = self._engine.sign_all_now(uses, APPLICATION_PURPOSES)
        except Exception as error:  # the native core's own: nothing was signed, and everybody leaves the gate
            for one in plain:
                if one.gate is not None:
                    one.gate.leave(len(one.group.requests))
                self._fail(one.group, error)
            return
        for one, raw in zip(plain, signed, strict=True):
            if raw is not None:
                if one.gate is not None:
                    one.gate.leave(len(one.group.requests))
                _wire.Request.answer_many(one.group.requests, _sign.answers(one.group, raw))
            elif one.gate is None:
                self._spawn(self._together(one.group, one.caller, one.key_id))
            else:
                self._apart(one.group, one.caller, one.gate)

    async def _together(self, group: _sign.Group, caller: Caller, key_id: str) -> None:
        """Signs a group by the engine's queue; request by request where it is refused as a whole."""
        try:
            raw = await self._engine.sign_digests(key_id, group.digests, caller=caller.id, purpose=APPLICATION_PURPOSES)
            _wire.Request.answer_many(group.requests, _sign.answers(group, raw))
        except (Busy, Unavailable) as error:
            self._fail(group, error)
        except QianyanError:
            self._apart(group, caller)
        except Exception as error:
            self._fail(group, error)

    def _fail(self, group: _sign.Group, error: Exception) -> None:
        """Answers those that are not answered yet."""
        if not isinstance(error, QianyanError):
            _log.error("wire_signing_failed", exc_info=error)
        for request in group.requests:
            if not request.answered:
                request.answer(*_problem(error, request))

    # ---- one by one

    def _apart(self, group: _sign.Group, caller: Caller | None, gate: Gate | None = None) -> None:
        """Each request in a task of its own. caller: whose they are, where they were let in already, by `gate`."""
        key = group.key if group.octets else None
        for request in group.requests:
            if len(self._tasks) < _TASKS_MAX:
                self._spawn(self._alone(request, key, caller, gate))
            else:
                if gate is not None:
                    gate.leave()
                request.answer(*self._full(request))

    def _otherwise(self, request: Any, key: bytes | None) -> Any:
        """A request that is not written plainly."""
        if len(self._tasks) >= _TASKS_MAX:
            return self._full(request)
        self._spawn(self._alone(request, key))
        return request

    async def _alone(
        self, request: Any, key: bytes | None, caller: Caller | None = None, gate: Gate | None = None
    ) -> None:
        try:
            if caller is None:
                caller, gate = await self._enter(request)
            if key is None:
                body = orjson.dumps(await self._signing.sign_value(caller, parse_json(request.body)))
                answer = 200, _sign.json_fields(len(body)), body
            else:
                body = await self._signing.sign_octets(caller, key.decode("ascii"), request.body)
                answer = 200, _sign.octets_fields(len(body)), body
        except Exception as error:  # the outermost frame: whatever it was, the client gets an answer
            answer = _problem(error, request)
        finally:
            if gate is not None:
                gate.leave()
        request.answer(*answer)

    async def _enter(self, request: Any) -> tuple[Caller, Gate | None]:
        """Who asks, and the gate that it has entered. Raises as service.callers, Denied where it may not sign."""
        if not self._callers.fresh(None):
            await self._callers.refresh()
        account = self._callers.account_of(_text(request.authorization), self._presented(request), request)
        if account is None:
            return allow(None, _SCOPE), None
        request.caller = account.caller.id
        gate = account.gate
        if gate is None:
            return allow(account.caller, _SCOPE), None
        try:
            gate.enter()
        except Busy as error:
            account.refused[error.code] += 1
            raise
        try:
            return allow(account.caller, _SCOPE), gate
        except Denied:
            gate.leave()
            raise

    # ---- the rest

    def _full(self, request: Any) -> _sign.Answer:
        return _problem(self._engine.full(), request)

    def _certificate(self, request: Any) -> Any:
        """What the client showed in the handshake, read once a connection; `_NONE` for nothing, or nothing readable."""
        known = request.context
        if known is None:
            try:
                known = self._presented(request) or _NONE
            except Malformed:
                known = _NONE  # its requests are answered one by one, and told
            request.context = known
        return known

    def _presented(self, request: Any) -> Presented | None:
        """The certificate of the connection. Raises Malformed where it cannot be read."""
        if not self._callers.asks_certificates:
            return None
        if isinstance(request.context, Presented):
            return request.context
        tls = request.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        return None if der is None else identify(der)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _text(authorization: bytes | None) -> str | None:
    return None if authorization is None else authorization.decode("ascii")


def _shown(group: _sign.Group) -> Presented | None:
    return group.certificate if isinstance(group.certificate, Presented) else None


def _problem(error: Exception, request: Any) -> _sign.Answer:
    """The answer to a request that failed; what is ours to mend goes to the log (as service.middleware does)."""
    request_id = request.request_id.decode("ascii")
    problem = problems.render(error, request_id)
    if problem.status == 500:
        named = isinstance(error, QianyanError)
        code = error.code if isinstance(error, QianyanError) else "unforeseen"
        _log.error("request_failed", request_id=request_id, named=named, code=code, exc_info=error)
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in problem.fields.items()]
    lines.append(f"Content-Length: {len(problem.body)}\r\n")
    return problem.status, "\r\n".join(lines).encode("ascii"), problem.body
