"""The whole life of certificates by signed requests alone, over HTTP: every transition from every state, and who looks.

The service is set so that nothing else issues or changes certificates. Authority and people are made by command and
over HTTP; messages carry no token.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.model import serial_from_hex
from service.cli import cli
from signer._native import sm2
from signer.issuance.states import TRANSITIONS, Operation, PairState
from tests.holder_world import identity_number
from tests.issuance_support import Request
from tests.judges.bouncycastle import BouncyCastle
from tests.registration_world import Signer, b64, content_of, issue_payload, message, rejection
from tests.running import Answer, Installation, Service
from tests.test_issuance_recovery import scalar

#: What is planted, and must be nowhere but in the store, sealed.
PLANTED = {"name": "欧阳震华", "phone": "13912345678", "address": "天河区体育西路189号"}
STATES = [PairState.ACTIVE, PairState.RENEWED, PairState.SUSPENDED, PairState.SUSPENDED_RENEWED, PairState.REVOKED]
OPERATIONS = [operation for operation in Operation if operation is not Operation.ISSUE]


def command(service: Service, *arguments: str | Path) -> Result:
    """A command in this process, on the running service's store."""
    named = [*map(str, arguments), "--config", str(service.installation.config)]
    ran = CliRunner().invoke(cli, named)
    assert ran.exit_code == 0, ran.output
    return ran


class Office:
    """The service with an authority, and those who sign for it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.people: dict[str, Signer] = {}
        self.tokens: dict[str, str] = {}

    def token(self, name: str, *scopes: str) -> str:
        made = command(self.service, "token", "create", name, *(p for s in scopes for p in ("--scope", s)), "--json")
        self.tokens[name] = json.loads(made.stdout)["token"]
        return self.tokens[name]

    def call(self, method: str, path: str, value: Any = None, *, by: str = "manager") -> Answer:
        return self.service.call(method, path, value, token=self.tokens[by])

    def appoint(self, person: str, *roles: str, ra: str = "gz") -> None:
        signer = Signer()
        body = {"id": person, "name": PLANTED["name"], "roles": list(roles), "csr": b64(signer.csr(person))}
        made = self.call("POST", f"/v1/ras/{ra}/people", body)
        assert made.status == 201, made.body
        signer.certificate = base64.b64decode(made.json["certificate"])
        self.people[person] = signer

    def post(self, path: str, encoded: bytes, media_type: str = "application/pkcs7-mime") -> Answer:
        url = self.service.private + path
        return self.service.request("POST", url, encoded, {"Content-Type": media_type})

    def send(self, kind: str, payload: dict[str, Any], *people: str) -> Answer:
        signers = [self.people[person] for person in people or ("li", "wang")]
        return self.post("/v1/requests", message(content_of(kind, payload), signers))

    def done(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = self.send(kind, payload)
        assert answer.status in (200, 201), answer.body
        result: dict[str, Any] = answer.json["result"]
        return result

    def decide(self, what: str, content: bytes, person: str, signed: bytes | None = None) -> Answer:
        request_id = json.loads(content)["request_id"]
        return self.post(f"/v1/requests/{request_id}/{what}?ra=gz", message(signed or content, [self.people[person]]))

    def state(self, serial: str) -> str:
        answer = self.service.call("GET", f"/v1/certificates/{serial}")
        return str(answer.json["state"])


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    installation = Installation(tmp_path_factory.mktemp("registration") / "var").init()
    installation.set("log", 'level = "debug"')
    installation.set("log", "requests = true")
    installation.set("issuance", "renewal_window_days = 366")
    installation.set("registration", "required = true")
    with Service(installation) as running:
        made = Office(running)
        made.token("manager", "registration:read", "registration:write")
        made.token("backend", "read")
        made.token("reader", "requests:read", "metrics", "audit")
        command(
            running, "ra", "register", "gz", "--name", "广州登记处", "--profile", "*", "--region", "*",
            "--customer", "*", "--caller", "token:backend",
        )  # fmt: skip
        made.appoint("li", "operator")
        made.appoint("wang", "approver")
        made.appoint("chen", "approver", "operator")
        yield made


def in_state(office: Office, state: PairState) -> tuple[str, Request]:
    """The serial of a signing certificate that stands so."""
    request = Request()
    serial = office.done("issue", issue_payload(request))["certificates"][0]["serial"]
    if state in (PairState.RENEWED, PairState.SUSPENDED_RENEWED):
        office.done("renew", {"serial": serial})
    if state in (PairState.SUSPENDED, PairState.SUSPENDED_RENEWED):
        office.done("suspend", {"serial": serial, "ground": "lost"})
    if state is PairState.REVOKED:
        office.done("revoke", {"serial": serial, "reason": "holder_request"})
    assert office.state(serial) == state.value
    return serial, request


def asks(operation: Operation, serial: str, request: Request) -> dict[str, Any]:
    """The payload of an operation on a certificate."""
    more: dict[Operation, dict[str, Any]] = {
        Operation.CHANGE: {"csr": b64(Request(key=request.key).encode())},
        Operation.REISSUE: {"csr": b64(Request().encode()), "ground": "damaged"},
        Operation.REVOKE: {"reason": "court_demand"},
        Operation.RECOVER: {"reference": "case-7"},
    }
    return {"serial": serial, **more.get(operation, {})}


@pytest.mark.parametrize("state", STATES)
def test_every_transition(office: Office, state: PairState) -> None:
    """As the table of the life cycle says: it leads where that says, or is refused with that code."""
    serial, request = in_state(office, state)
    moves = sorted(OPERATIONS, key=lambda operation: isinstance(TRANSITIONS[operation][state], PairState))
    for operation in moves:
        after = TRANSITIONS[operation][state]
        answer = office.send(operation.value, asks(operation, serial, request))
        if not isinstance(after, PairState):
            assert (answer.status, answer.json["code"]) == (422, after.code), (operation, state)
            assert office.state(serial) == state.value
            continue
        if operation is Operation.RECOVER and state in (PairState.SUSPENDED, PairState.REVOKED):
            continue  # entered; whom the key would go to is judged with the last approval
        assert answer.status in (200, 201, 202), (operation, state, answer.body)
        if operation in (Operation.UNLOCK, Operation.RECOVER):
            assert office.state(serial) == after.value
            continue
        assert office.state(serial) == after.value, (operation, state)
        serial, request = in_state(office, state)


def test_a_pair_moves_together_and_its_key_opens(office: Office, bouncycastle: BouncyCastle) -> None:
    request = Request()
    issued = office.done("issue", issue_payload(request))
    signing, encryption = (base64.b64decode(one["certificate"]) for one in issued["certificates"])
    issuer = base64.b64decode(issued["chain"][0])
    for certificate in (signing, encryption):
        bouncycastle.verify_certificate(certificate, issuer)
    key = bouncycastle.open_enveloped_key(scalar(request.key), base64.b64decode(issued["enveloped_key"]))
    second = issued["certificates"][1]["serial"]
    content = content_of("recover", {"serial": second, "reference": "case-1"})
    first = office.post("/v1/requests", message(content, [office.people["li"], office.people["wang"]]))
    assert (first.status, first.json["approved_by"]) == (202, ["wang"])
    given = office.decide("approve", content, "chen")
    assert (given.status, given.json["state"]) == (201, "done")
    envelope = base64.b64decode(given.json["result"]["enveloped_key"])
    assert bouncycastle.open_enveloped_key(scalar(request.key), envelope) == key
    held = office.done("suspend", {"serial": second})
    assert {one["status"] for one in held["certificates"]} == {"held"}
    assert len(held["certificates"]) == 2


def test_two_steps_and_who_looks(office: Office) -> None:
    content = content_of("issue", issue_payload(), request_id="over-http")
    entered = office.post("/v1/requests", message(content, [office.people["li"]]))
    assert (entered.status, entered.json["state"]) == (202, "entered")
    path = "/v1/requests/over-http"
    for by in ("backend", "reader"):
        assert office.call("GET", f"{path}/content?ra=gz", by=by).body == content
        assert office.call("GET", f"{path}?ra=gz", by=by).json == entered.json
    refused = office.call("GET", f"{path}?ra=gz", by="manager")
    assert (refused.status, refused.json["code"]) == (403, "scope")
    assert office.service.call("GET", f"{path}?ra=gz", token="").status == 401
    assert office.call("GET", f"{path}?ra=elsewhere", by="backend").status == 403
    assert office.call("GET", f"{path}?ra=elsewhere", by="reader").json["code"] == "request_unknown"
    waiting = office.call("GET", "/v1/requests?ra=gz&state=entered", by="reader").json["requests"]
    assert "over-http" in {one["request_id"] for one in waiting}
    own = office.decide("approve", content, "li")
    assert (own.status, own.json["code"]) == (403, "same_person")
    approved = office.decide("approve", content, "wang")
    assert (approved.status, approved.json["decided_by"]) == (201, "wang")
    evidence = office.call("GET", f"{path}/evidence?ra=gz", by="reader").json["evidence"]
    assert [(one["step"], one["people"]) for one in evidence] == [("enter", "li"), ("approve", "wang")]
    content = content_of("issue", issue_payload(), request_id="not-so")
    office.post("/v1/requests", message(content, [office.people["li"]]))
    rejected = office.decide("reject", content, "wang", rejection(content, "缺少材料"))
    assert (rejected.status, rejected.json["state"], rejected.json["reason"]) == (200, "rejected", "缺少材料")
    seen: list[str] = []
    after = ""
    for _ in itertools.count():
        page = office.call("GET", f"/v1/requests?ra=gz&limit=7{after}", by="reader").json
        seen += [one["request_id"] for one in page["requests"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == len(set(seen)) >= 2


def test_what_http_refuses(office: Office) -> None:
    content = content_of("issue", issue_payload())
    signed = message(content, [office.people["li"], office.people["wang"]])
    for path, encoded, media_type, status, code in (
        ("/v1/requests", signed, "application/json", 400, "content_type"),
        ("/v1/requests", b"nonsense", "application/pkcs7-mime", 400, "der"),
        ("/v1/requests", b"0" * (1 << 18), "application/pkcs7-mime", 413, "body_size"),
        ("/v1/requests/x/approve", signed, "application/pkcs7-mime", 400, "ra"),
        ("/v1/requests/x/approve?ra=gz", signed, "application/pkcs7-mime", 400, "request_content"),
    ):
        answer = office.post(path, encoded, media_type)
        assert (answer.status, answer.json["code"]) == (status, code), path
    for path in (
        "/v1/requests?ra=gz&state=x",
        "/v1/requests?ra=gz&limit=0",
        "/v1/requests?ra=gz&after=x",
        "/v1/requests",
    ):
        assert office.call("GET", path, by="reader").status == 400, path


def test_tokens_alone_do_nothing(office: Office) -> None:
    """What issues or changes certificates by token is refused; looking, and spending an unlock token, are not."""
    serial, _ = in_state(office, PairState.ACTIVE)
    call = office.service.call
    for path in ("", f"/{serial}/revoke", f"/{serial}/suspend", f"/{serial}/renew", f"/{serial}/reissue"):
        refused = call("POST", f"/v1/certificates{path}", {"csr": "x"})
        assert (refused.status, refused.json["code"]) == (403, "signed_request_required"), path
    assert office.state(serial) == "active"
    token = office.done("unlock", {"serial": serial})["token"]
    assert serial_from_hex(call("POST", "/v1/unlocks/redeem", {"token": token}).json["serial"]) == serial_from_hex(
        serial
    )


def test_authorities_over_http_and_by_command(office: Office, tmp_path: Path) -> None:
    body = {"id": "sz", "name": "深圳登记处", "profiles": ["organisation"], "regions": ["4403"], "customers": ["*"]}
    assert office.call("POST", "/v1/ras", body).status == 201
    assert office.call("POST", "/v1/ras", body).json["code"] == "ra_exists"
    assert office.call("POST", "/v1/ras", body, by="backend").status == 403
    changed = office.call("POST", "/v1/ras/sz", {"regions": ["4403", "4413"]})
    assert changed.json["regions"] == ["4403", "4413"]
    signer = Signer()
    (tmp_path / "csr.der").write_bytes(signer.csr())
    out = tmp_path / "sun.cer"
    command(
        office.service, "person", "add", "sz", "sun", "--name", PLANTED["name"], "--role", "operator",
        "--csr", tmp_path / "csr.der", "--out", out,
    )  # fmt: skip
    listed = json.loads(command(office.service, "person", "list", "sz", "--json").stdout)
    assert [(one["id"], one["name"], one["roles"]) for one in listed] == [("sun", "欧***", ["operator"])]
    assert office.call("GET", "/v1/ras/sz").json["people"] == listed
    signer.certificate = out.read_bytes()
    content = content_of("issue", issue_payload(region="440305"), ra="sz")
    assert office.post("/v1/requests", message(content, [signer])).status == 202
    assert "sz" in command(office.service, "ra", "list").stdout
    assert "440" in command(office.service, "ra", "show", "sz").stdout
    command(office.service, "person", "withdraw", "sz", "sun")
    gone = office.post("/v1/requests", message(content_of("issue", issue_payload(), ra="sz"), [signer]))
    assert (gone.status, gone.json["code"]) == (403, "person_withdrawn")
    ended = json.loads(command(office.service, "ra", "withdraw", "sz", "--json").stdout)
    assert ended["state"] == "withdrawn"
    gone = office.post("/v1/requests", message(content_of("issue", issue_payload(), ra="sz"), [signer]))
    assert gone.json["code"] == "ra_withdrawn"
    assert office.call("POST", "/v1/ras/sz/withdraw").json["state"] == "withdrawn"


def test_nobodys_data_gets_out(office: Office) -> None:
    number = identity_number()
    who = {"kind": "person", "number": number, **PLANTED}
    payload = {"csr": b64(Request().encode()), "profile": "organisation", "holder": who}
    content = content_of("issue", payload, request_id="planted")
    signers = [office.people["li"], office.people["wang"]]
    answers = [
        office.post("/v1/requests", message(content, signers)),
        office.post("/v1/requests", message(content_of("issue", payload | {"profile": "none"}), signers)),
        office.send("issue", payload | {"holder": who | {"number": number[:-1]}}),
        office.send("issue", payload | {"holder": who | {"phone": 5}}),
        office.call("GET", "/v1/requests/planted?ra=gz", by="reader"),
        office.call("GET", "/v1/requests?ra=gz", by="reader"),
        office.call("GET", "/metrics", by="reader"),
        office.call("GET", "/v1/audit?limit=1000", by="reader"),
    ]
    assert answers[0].status == 201
    assert {answer.status for answer in answers[1:4]} == {400, 422}
    assert b"qianyan_ra_requests_total" in answers[-2].body
    assert b"request.refuse" in answers[-1].body
    store = b"".join(path.read_bytes() for path in office.service.installation.directory.glob("*.sqlite3*"))
    everything = b"".join(answer.body for answer in answers) + "".join(office.service.log).encode() + store
    for value in (number, number[:-1], *PLANTED.values()):
        assert value.encode() not in everything
        assert json.dumps(value).strip('"').encode() not in everything


def test_the_keys_of_people_are_their_own(office: Office) -> None:
    """A key that signs for one is not taken for another."""
    signer = Signer(sm2.PrivateKey.generate())
    body = {"id": "ma", "name": "马", "roles": ["operator"], "csr": b64(signer.csr("ma"))}
    assert office.call("POST", "/v1/ras/gz/people", body).status == 201
    again = office.call("POST", "/v1/ras/gz/people", body)
    assert (again.status, again.json["code"]) == (409, "certificate_registered")
    other = office.call("POST", "/v1/ras/gz/people", body | {"id": "niu"})
    assert (other.status, other.json["code"]) == (422, "key_of_another")
    gone = office.call("POST", "/v1/ras/gz/people/ma/withdraw", {"ground": "post_left"})
    assert gone.json["state"] == "withdrawn"
