"""The same work by signed requests: each made, signed by an operator and an approver, and sent as an RA sends it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from loadtest import sm2
from loadtest.call import Answer, Call, Journey, Wrong
from loadtest.scenarios.base import Scenario, World, need
from loadtest.scenarios.issuance import IssuanceJourney, Issued
from loadtest.x509 import build_request
from qianyan_ra import Certificate, Maker, Person, Request, SoftwareKey, add_signature, sign

_MEDIA_TYPE: Final = {"Content-Type": "application/pkcs7-mime"}


def person(kept: dict[str, str]) -> Person:
    """Somebody of the target's RA, from base64 of certificate and key."""
    key = SoftwareKey.from_scalar(bytearray(base64.b64decode(kept["key"])))
    return Person(Certificate.parse(base64.b64decode(kept["certificate"])), key)


class _SignedJourney(IssuanceJourney):
    """Steps that are signed."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.ra, "registration authority")
        self._maker = Maker(world.target.ra["id"])
        self._operator, self._approver = (person(world.target.ra[who]) for who in ("operator", "approver"))

    def _call(self, kind: str, request: Request, status: int) -> Call:
        now = datetime.now(UTC)
        message = add_signature(sign(request.content(), self._operator, now), self._approver, now)
        return Call(kind, "private", "POST", "/v1/requests", _MEDIA_TYPE, message, status=status, also=(200, 201))

    def _signed_issue(self) -> Generator[Call, Answer, Issued]:
        key = sm2.PrivateKey.generate()
        csr = build_request(key, f"压测 {self.world.rng.getrandbits(64):016x}", "压力测试单位")
        answer = yield self._call("ra-issue", self._maker.issue("organisation", csr), 201)
        return self.issued(key, _result(answer), answer)

    def _signed_revoke(self, issued: Issued) -> Journey:
        request = self._maker.revoke(f"{issued.serials[0]:x}", "key_compromise")
        self.world.changes.changing(issued.serials, "revoked", time.time())
        _result((yield self._call("ra-revoke", request, 200)))
        self.world.changes.changed(issued.serials, time.time())
        self.remember(issued.serials[0])


def _result(answer: Answer) -> dict[str, Any]:
    """What a request that is done answers. Raises Wrong."""
    try:
        told = json.loads(answer.body)
        if told["state"] != "done":
            raise Wrong(f"a request with both signatures is {told['state']}, not done")
        result: dict[str, Any] = told["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise Wrong(f"not an answer to a signed request: {error!r}") from error
    return result


class SignedIssue(_SignedJourney):
    """A pair of certificates, by a request with two signatures."""

    name: ClassVar[str] = "ra-issue"
    help: ClassVar[str] = "certificates by a request that operator and approver signed"

    def journey(self) -> Journey:
        yield from self._signed_issue()


class SignedLifeCycle(_SignedJourney):
    """Issued and revoked by signed requests, with OCSP asked after each."""

    name: ClassVar[str] = "ra-life-cycle"
    help: ClassVar[str] = "issue and revoke by signed requests, with OCSP after each"

    def journey(self) -> Journey:
        issued = yield from self._signed_issue()
        yield from self.ask(issued.serials[0])
        yield from self._signed_revoke(issued)
        yield from self.ask(issued.serials[0])
        yield from self.ask_older()


ALL: Final[tuple[type[Scenario], ...]] = (SignedIssue, SignedLifeCycle)
