"""A registration authority's work: certificates issued, held, resumed, revoked, and OCSP asked what became of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from cryptography import x509

from loadtest import sm2
from loadtest.call import Answer, Call, Journey, Wrong
from loadtest.scenarios.base import Scenario, World, expect
from loadtest.scenarios.ocsp import NONCE_OCTETS, Judge, request
from loadtest.target import PROPAGATION_S, State
from loadtest.x509 import build_request, public_key_of, verify_issued

_JSON: Final = {"Content-Type": "application/json"}
#: How many finished certificates are remembered to be asked about again.
_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Issued:
    """What came back for one request."""

    key: sm2.PrivateKey
    serials: list[int]
    certificates: dict[str, bytes]


def private(kind: str, path: str, value: dict[str, Any], *, status: int = 200) -> Call:
    """A JSON call of the private listener."""
    return Call(kind, "private", "POST", path, _JSON, json.dumps(value).encode(), status=status)


class IssuanceJourney(Scenario):
    """Steps that the scenarios are made of."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._judge = Judge(world.target.issuer)
        self._over: list[tuple[int, float]] = []

    def _issue(self, kind: str = "issue") -> Generator[Call, Answer, Issued]:
        key = sm2.PrivateKey.generate()
        csr = build_request(key, f"压测 {self.world.rng.getrandbits(64):016x}", "压力测试单位")
        body = {"csr": base64.b64encode(csr).decode(), "profile": "organisation"}
        answer = yield private(kind, "/v1/certificates", body, status=201)
        try:
            told = json.loads(answer.body)
        except ValueError as error:
            raise Wrong(f"not JSON: {error}") from error
        return self.issued(key, told, answer)

    def issued(self, key: sm2.PrivateKey, told: dict[str, Any], answer: Answer) -> Issued:
        """What the service says that it issued, judged. Raises Wrong."""
        try:
            certificates = {one["usage"]: base64.b64decode(one["certificate"]) for one in told["certificates"]}
            serials = [int(one["serial"], 16) for one in told["certificates"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Wrong(f"not an answer to a request for certificates: {error!r}") from error
        self._judge_issued(key, certificates, serials)
        for serial in serials:
            self.world.changes.issued(serial, answer.sent_at)
        return Issued(key, serials, certificates)

    def _judge_issued(self, key: sm2.PrivateKey, certificates: dict[str, bytes], serials: list[int]) -> None:
        """Each is signed by the issuer, has the serial that was told and, for signing, the holder's key."""
        for usage, certificate in certificates.items():
            try:
                verify_issued(certificate, self.world.target.issuer.public_key)
            except (ValueError, sm2.InvalidSignature) as error:
                raise Wrong(f"the {usage} certificate is not signed by the authority") from error
            expect(x509.load_der_x509_certificate(certificate).serial_number in serials, "another serial than told")
        expect(public_key_of(certificates["sign"]) == key.public_key.to_bytes(), "a certificate for another key")

    def _change(self, issued: Issued, verb: str, state: State, body: dict[str, Any]) -> Journey:
        self.world.changes.changing(issued.serials, state, time.time())
        yield private(verb, f"/v1/certificates/{issued.serials[0]:x}/{verb}", body)
        self.world.changes.changed(issued.serials, time.time())

    def ask(self, serial: int) -> Journey:
        """OCSP with a nonce; always judged, by what is possible between question and answer."""
        body, at = request(self.world.target.issuer, [serial], nonce=True)
        headers = {"Content-Type": "application/ocsp-request"}
        answer = yield Call("ocsp-after", "public", "POST", "/ocsp", headers, body, patch=(at, NONCE_OCTETS))
        told = self._judge.read(answer)[serial]
        possible = self.world.changes.possible(serial, answer.sent_at, answer.received_at)
        expect(told in possible, f"{serial:x} is told {told}; it can only be {' or '.join(sorted(possible))}")

    def ask_older(self) -> Journey:
        """About one that was revoked longer ago than a change may take: only `revoked` is true."""
        if self._over and self._over[0][1] + PROPAGATION_S < time.time():
            serial, _ = self._over.pop(0)
            yield from self.ask(serial)

    def _revoke(self, issued: Issued) -> Journey:
        yield from self._change(issued, "revoke", "revoked", {"reason": "key_compromise"})
        self.remember(issued.serials[0])

    def remember(self, serial: int) -> None:
        """It is revoked; `ask_older` asks about it in a while."""
        self._over = [*self._over[-_REMEMBERED:], (serial, time.time())]


class Issue(IssuanceJourney):
    """A pair of certificates for a new holder."""

    name: ClassVar[str] = "issue"
    help: ClassVar[str] = "certificates for a new holder (a pair)"

    def journey(self) -> Journey:
        yield from self._issue()


class LifeCycle(IssuanceJourney):
    """Everything that can happen to a certificate, with OCSP asked after each step."""

    name: ClassVar[str] = "life-cycle"
    help: ClassVar[str] = "issue, suspend, resume, revoke, with OCSP after each"

    def journey(self) -> Journey:
        issued = yield from self._issue()
        yield from self.ask(issued.serials[0])
        yield from self._change(issued, "suspend", "held", {})
        yield from self.ask(issued.serials[0])
        yield from self._change(issued, "resume", "good", {})
        yield from self.ask(issued.serials[0])
        yield from self._revoke(issued)
        yield from self.ask(issued.serials[0])
        yield from self.ask_older()


class Revoke(IssuanceJourney):
    """Revocations one after another, each of a certificate issued a moment before."""

    name: ClassVar[str] = "revoke"
    help: ClassVar[str] = "issue and revoke at once; OCSP asked about those revoked before"

    def journey(self) -> Journey:
        issued = yield from self._issue()
        yield from self._revoke(issued)
        yield from self.ask_older()


ALL: Final[tuple[type[Scenario], ...]] = (Issue, LifeCycle, Revoke)
