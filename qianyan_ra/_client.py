"""Sends signed requests and reads what comes back, over HTTP/1.1 with TLS, by the standard library alone.

Owns one connection, kept open between calls: a client for each thread. Every call may be made again without harm,
because a request's id makes it one; so what got no answer, and what the service was too busy for, is sent again here,
the same bytes, a bounded number of times. Redirects are not followed: nothing of a request goes to where it was not
meant for.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from qianyan_ra import _answers as answers
from qianyan_ra import _cms as cms
from qianyan_ra._answers import Answer
from qianyan_ra._errors import BadAnswer, KeyTrouble, NoAnswer, StillWaiting, Unfit
from qianyan_ra._keys import Person
from qianyan_ra._people import Appointment
from qianyan_ra._requests import Named, Request, name_of, rejection

CMS_TYPE: Final = "application/pkcs7-mime"
_PATH: Final = "/v1/requests"
_MAX_BODY: Final = 16 << 20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0


def _now() -> datetime:
    return datetime.now(UTC)


class Client:
    """A connection to the service's private listener.

    url: `https://…`; plain `http://` only to this machine (for a TLS terminator). tls: an `ssl.SSLContext`, for a CA
    of your own or a client certificate (`tls_context`); the system's CAs without it. token: for looking
    (`requests:read`); signed requests need none. attempts: how often a call is made at most. timeout_s: for
    connecting and for each wait for octets.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 15.0,
        attempts: int = 5,
        clock: Callable[[], datetime] = _now,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = _address(url)
        assert parts.hostname is not None
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise Unfit("requests travel over TLS: the address begins with https://", code="url_plain")
        if attempts < 1:
            raise Unfit("a call is made once at least", code="attempts")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Unfit("the token is not one: it has characters that no token has", code="token")
        self._host, self._port = parts.hostname, parts.port
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._token = token
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._clock = clock
        self._pause = pause
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- what an RA does

    def submit(self, request: Request, *people: Person) -> Answer:
        """Signs `request` by one person (it is entered) or by two (it is done), and sends it."""
        if not 1 <= len(people) <= cms.MAX_SIGNERS:
            raise Unfit("a request is signed by one person or by two", code="cms_signers")
        message = cms.sign(request.content(), people[0], self._clock())
        for person in people[1:]:
            message = cms.add_signature(message, person, self._clock())
        return self.send(message)

    def send(self, message: bytes) -> Answer:
        """Sends a signed request. Raises Problem, NoAnswer, BadAnswer."""
        return self._answer("POST", _PATH, message, name_of(cms.parse(message).content))

    def approve(self, ra: str, request_id: str, person: Person, *, look: Callable[[bytes], bool]) -> Answer:
        """Approves what another entered: fetches its content, shows it to `look`, signs it if that says so.

        Raises Unfit (code "not_approved") where `look` does not; BadAnswer where another request's content came.
        """
        content = self.content(ra, request_id)
        named = name_of(content)
        if (named.ra, named.request_id) != (ra, request_id) or named.kind is None:
            raise BadAnswer("the content is that of another request", code="answer")
        if not look(content):
            raise Unfit("the content was looked at and not approved", code="not_approved")
        return self.send_approval(cms.sign(content, person, self._clock()))

    def send_approval(self, message: bytes) -> Answer:
        """Sends an approval that was signed before."""
        return self._decide(message, "approve")

    def reject(self, ra: str, request_id: str, person: Person, reason: str) -> Answer:
        """Rejects what another entered; the reason is kept and told."""
        return self.send_rejection(cms.sign(rejection(ra, request_id, reason), person, self._clock()))

    def send_rejection(self, message: bytes) -> Answer:
        """Sends a rejection that was signed before."""
        return self._decide(message, "reject")

    def _decide(self, message: bytes, decision: str) -> Answer:
        named = name_of(cms.parse(message).content)
        path = f"{_PATH}/{quote(named.request_id, safe='')}/{decision}?{urlencode({'ra': named.ra})}"
        return self._answer("POST", path, message, named)

    def submit_appointment(self, wish: Appointment, administrator: Person) -> Answer:
        """Appoints or dismisses somebody of the RA, by the signature of an administrator of it."""
        path = f"/v1/ras/{quote(wish.ra, safe='')}/people"
        if wish.act == "dismiss":
            path += f"/{quote(wish.person_id, safe='')}/withdraw"
        message = cms.sign(wish.content(), administrator, self._clock())
        return self._answer("POST", path, message, Named(wish.ra, wish.request_id, None))

    # ---- looking; needs a token

    def show(self, ra: str, request_id: str) -> Answer:
        """Where a request stands."""
        path = f"{_PATH}/{quote(request_id, safe='')}?{urlencode({'ra': ra})}"
        return self._answer("GET", path, None, Named(ra, request_id, None))

    def content(self, ra: str, request_id: str) -> bytes:
        """The content octets that were signed, as they came."""
        path = f"{_PATH}/{quote(request_id, safe='')}/content?{urlencode({'ra': ra})}"
        return self._call("GET", path, None)

    def evidence(self, ra: str, request_id: str) -> list[tuple[str, bytes]]:
        """Every message that was signed for a request, in order: (step, CMS). The service keeps them; so may an RA."""
        path = f"{_PATH}/{quote(request_id, safe='')}/evidence?{urlencode({'ra': ra})}"
        found = answers.decode(self._call("GET", path, None))
        try:
            return [(answers.read_word(one["step"]), answers.read_binary(one["message"])) for one in found["evidence"]]
        except (KeyError, TypeError) as error:
            raise BadAnswer("the answer has no evidence", code="answer") from error

    def list(self, ra: str, *, state: str | None = None, page: int = 100) -> Iterator[Answer]:
        """The RA's requests, page by page as they are asked for."""
        after: str | None = None
        while True:
            query = {"ra": ra, "limit": str(page), "state": state, "after": after}
            given = {name: value for name, value in query.items() if value is not None}
            found = answers.decode(self._call("GET", f"{_PATH}?{urlencode(given)}", None))
            try:
                requests, following = found["requests"], found.get("next")
                members = [Answer.of_json(one) for one in requests]
            except (KeyError, TypeError, AttributeError) as error:
                raise BadAnswer("the answer is not a list of requests", code="answer") from error
            yield from members
            if following is None or following == after:
                return
            after = str(following)

    def wait(self, ra: str, request_id: str, *, timeout_s: float, interval_s: float = 2.0) -> Answer:
        """Looks until the request is decided. Raises StillWaiting after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (answer := self.show(ra, request_id)).waiting:
            left = until - time.monotonic()
            if left <= 0:
                raise StillWaiting("nobody has decided yet", code="waiting")
            self._pause(min(interval_s, left))
        return answer

    # ---- how

    def _answer(self, method: str, path: str, body: bytes | None, about: Named) -> Answer:
        answer = Answer.of_json(answers.decode(self._call(method, path, body)))
        if (answer.ra, answer.request_id) != (about.ra, about.request_id):
            raise BadAnswer("the answer is about another request", code="answer")
        return answer

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        """The body of a good answer, after as many attempts as it takes. Raises Problem, NoAnswer, BadAnswer."""
        headers = {"Accept": "application/json", "User-Agent": "qianyan-ra"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = CMS_TYPE
        attempt = 1
        while True:
            kept_open = self._connection is not None
            try:
                status, fields, received = self._once(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if kept_open:  # the service ends idle connections: a new one at once, and no attempt spent
                    continue
                if isinstance(error, ssl.SSLCertVerificationError) or attempt >= self._attempts:
                    raise _no_answer(error, attempt) from error
                self._pause(_pause_s(attempt, None))
            else:
                if 200 <= status < 300:
                    return received
                problem = answers.problem(status, received, fields.get("X-Request-Id"), _retry_after(fields))
                if not problem.retryable or attempt >= self._attempts:
                    raise problem
                self._pause(_pause_s(attempt, problem.retry_after_s))
            attempt += 1

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        received = response.read(_MAX_BODY + 1)
        if len(received) > _MAX_BODY:
            self.close()
            raise BadAnswer(f"the answer has more than {_MAX_BODY} bytes", code="answer_size")
        if response.length:  # a bounded read says nothing of what did not come
            raise http.client.IncompleteRead(received, response.length)
        return response.status, response.headers, received

    def _open(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)


def tls_context(
    *, ca_file: str | None = None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """TLS with a CA of your own, and a client certificate where the listener asks for one.

    Raises KeyTrouble (code "tls_file") where a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    except OSError as error:  # of which SSLError is one
        raise KeyTrouble(f"a file for TLS cannot be used: {error}", code="tls_file") from error
    return context


def _address(url: str) -> SplitResult:
    """The parts of the service's address. Raises Unfit (code "url")."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        known = None
    if not known or parts.path.strip("/") or parts.query or parts.username:
        raise Unfit("the service's address is https://HOST[:PORT]", code="url")
    return parts


def _no_answer(error: Exception, attempts: int) -> NoAnswer:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NoAnswer(f"the service's TLS certificate is not trusted: {error.verify_message}", code="tls")
    times = "once" if attempts == 1 else f"{attempts} times"
    return NoAnswer(
        f"no answer, tried {times} ({type(error).__name__}: {error}); whether it was done is not known: send the same "
        "request again",
        code="no_answer",
    )


def _retry_after(fields: http.client.HTTPMessage) -> float | None:
    text = fields.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _pause_s(attempt: int, asked_s: float | None) -> float:
    """Twice as long each time, jittered so that many clients do not come back at once; not before the service asked."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
    jittered = random.uniform(longest / 2, longest)  # noqa: S311 - spreads clients, hides nothing
    return jittered if asked_s is None else min(asked_s, 60.0) + jittered
