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
MAKING = (Operation.RENEW, Operation.CHANGE, Operation.REISSUE)
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
    installation = Installation(tmp_path_factory.mktemp("registration") / "var").made()
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
        made.appoint("zhou", "judicial")
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


def asks(operation: Operation, serial: str, request: Request, fresh: Request) -> dict[str, Any]:
    """The payload of an operation on a certificate; `fresh`: a new key's."""
    more: dict[Operation, dict[str, Any]] = {
        Operation.CHANGE: {"csr": b64(Request(key=request.key).encode())},
        Operation.REISSUE: {"csr": b64(fresh.encode()), "ground": "damaged"},
        Operation.REVOKE: {"reason": "court_demand"},
        Operation.RECOVER: {"reference": "case-7"},
    }
    return {"serial": serial, **more.get(operation, {})}


def judged(bouncycastle: BouncyCastle, result: dict[str, Any], key: sm2.PrivateKey) -> None:
    """BouncyCastle accepts the certificates, and opens the encryption key where there is a new one."""
    issuer = base64.b64decode(result["chain"][0])
    for one in result["certificates"]:
        bouncycastle.verify_certificate(base64.b64decode(one["certificate"]), issuer)
    if result["enveloped_key"] is not None:
        opened = bouncycastle.open_enveloped_key(scalar(key), base64.b64decode(result["enveloped_key"]))
        assert len(opened.private) == 32


@pytest.mark.parametrize("state", STATES)
def test_every_transition(office: Office, state: PairState, bouncycastle: BouncyCastle) -> None:
    """As the table of the life cycle says: it leads where that says, or is refused with that code."""
    serial, request = in_state(office, state)
    moves = sorted(OPERATIONS, key=lambda operation: isinstance(TRANSITIONS[operation][state], PairState))
    for operation in moves:
        after = TRANSITIONS[operation][state]
        fresh = Request()
        content = content_of(operation.value, asks(operation, serial, request, fresh))
        answer = office.post("/v1/requests", message(content, [office.people["li"], office.people["wang"]]))
        if not isinstance(after, PairState):
            assert (answer.status, answer.json["code"]) == (422, after.code), (operation, state)
            assert office.state(serial) == state.value
            continue
        assert answer.status in (200, 201, 202), (operation, state, answer.body)
        if operation in MAKING:
            judged(
                bouncycastle, answer.json["result"], request.key if operation is not Operation.REISSUE else fresh.key
            )
        if operation is Operation.RECOVER:
            answer = office.decide("approve", content, "chen")
            if state in (PairState.SUSPENDED, PairState.REVOKED):  # whom the key would go to has no certificate
                assert (answer.status, answer.json["code"]) == (422, "recovery_recipient"), answer.body
            else:
                assert answer.status == 201, answer.body
                bouncycastle.open_enveloped_key(
                    scalar(request.key), base64.b64decode(answer.json["result"]["enveloped_key"])
                )
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


@pytest.mark.parametrize("state", STATES)
def test_a_court_gets_a_key_in_any_state(office: Office, state: PairState, bouncycastle: BouncyCastle) -> None:
    """Judicial recovery is a role of its own, takes two approvers, and goes to the key that the order names."""
    serial, _ = in_state(office, state)
    court = sm2.PrivateKey.generate()
    payload = {"serial": serial, "reference": "order-7", "recipient_key": b64(court.public_key.to_bytes())}
    for people in (("li", "wang"), ("chen", "wang")):
        refused = office.send("recover_judicial", payload, *people)
        assert (refused.status, refused.json["code"]) == (403, "role"), "who enters for holders does not for courts"
    content = content_of("recover_judicial", payload)
    first = office.post("/v1/requests", message(content, [office.people["zhou"], office.people["wang"]]))
    assert (first.status, first.json["approved_by"]) == (202, ["wang"])
    again = office.decide("approve", content, "wang")
    assert (again.status, again.json["state"]) == (202, "entered"), "one approver is no two"
    done = office.decide("approve", content, "chen")
    assert (done.status, done.json["result"]["judicial"]) == (201, True), done.body
    envelope = base64.b64decode(done.json["result"]["enveloped_key"])
    assert len(bouncycastle.open_enveloped_key(scalar(court), envelope).private) == 32
    assert office.state(serial) == state.value


def read_of(office: Office, request_id: str) -> list[tuple[str, str]]:
    """Who of outside the RA read a request, and what of it, as the audit record has it."""
    path = f"/v1/audit?action=request.read&subject=request:gz/{request_id}&limit=9"
    rows = office.call("GET", path, by="reader").json["rows"]
    return sorted((row["actor"], json.loads(row["detail"])["what"]) for row in rows)


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
    assert read_of(office, "over-http") == [("token:reader", "content"), ("token:reader", "evidence")]
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


def test_commands_on_the_host_take_signed_requests_too(office: Office, tmp_path: Path) -> None:
    """Refused, on record, and nothing done; --break-glass does it, and who and why is on record before."""
    serial, _ = in_state(office, PairState.ACTIVE)
    (tmp_path / "csr.der").write_bytes(Request().encode())
    bulk = tmp_path / "r.jsonl"
    bulk.write_text("")
    out, csr = ("--out-dir", tmp_path / "out"), ("--csr", tmp_path / "csr.der")
    config = ("--config", str(office.service.installation.config))
    commands: list[tuple[Any, ...]] = [
        ("issue", *csr, "--profile", "organisation", *out),
        ("renew", serial, *out),
        ("change", serial, *csr, *out),
        ("reissue", serial, *csr, "--ground", "lost", *out),
        ("suspend", serial),
        ("resume", serial),
        ("unlock", serial),
        ("revoke", serial, "--reason", "court_demand"),
        ("bulk", "issue", "--requests", bulk),
        ("recovery", "ask", serial, "--reference", "c"),
        ("recovery", "approve", "x"),
    ]
    for words in commands:
        ran = CliRunner().invoke(cli, [*map(str, words), *config])
        assert getattr(ran.exception, "code", "") == "signed_request_required", words
    assert office.state(serial) == "active"
    path = "/v1/audit?action=break_glass.refuse&limit=100"
    noted = office.call("GET", path, by="reader").json["rows"]
    assert [row["detail"]["command"] if isinstance(row["detail"], dict) else json.loads(row["detail"])["command"]
            for row in noted] == [" ".join(words[: 2 if words[0] in ("bulk", "recovery") else 1])
                                  for words in reversed(commands)]  # fmt: skip
    assert {row["outcome"] for row in noted} == {"signed_request_required"}
    for reason in ("", " ", "a\nb", "x" * 501):
        ran = CliRunner().invoke(cli, ["suspend", serial, "--break-glass", reason, *config])
        assert getattr(ran.exception, "code", "") == "break_glass"
    command(office.service, "revoke", serial, "--reason", "key_compromise", "--break-glass", "登记处断网，令 2026-7")
    assert office.state(serial) == "revoked"
    rows = office.call("GET", f"/v1/audit?subject=/{serial}&limit=9", by="reader").json["rows"]
    used = [row for row in rows if row["action"] == "break_glass.use"]
    assert len(used) == 1
    assert "登记处断网，令 2026-7" in json.dumps(used[0], ensure_ascii=False)
    assert used[0]["actor"].startswith("cli:")
    revoked = office.call("GET", "/v1/audit?action=certificate.revoke&limit=1", by="reader").json["rows"][0]
    assert used[0]["seq"] < revoked["seq"], "before anything is done"


def test_keys_and_retention_by_command(office: Office, tmp_path: Path) -> None:
    office.done("issue", issue_payload())
    done = json.loads(command(office.service, "holder", "rekey", "--json").stdout)
    assert done["holders"] >= 1
    assert done["requests"] >= 1
    assert done["persons"] >= 4
    assert json.loads(command(office.service, "holder", "rekey", "--continue", "--json").stdout)["holders"] == 0
    drop = ["holder", "drop-keys", "--config", str(office.service.installation.config)]
    assert getattr(CliRunner().invoke(cli, drop).exception, "code", "") == "holder_key_new"
    looked = json.loads(command(office.service, "ra", "retire", "--dry-run", "--json").stdout)
    assert (looked["requests"], looked["files"]) == (0, [])
    archive = tmp_path / "archive"
    assert "0 requests" in command(office.service, "ra", "retire", "--archive", archive).stdout
    neither = CliRunner().invoke(cli, ["ra", "retire", "--config", str(office.service.installation.config)])
    assert getattr(neither.exception, "code", "") == "retention_where"
    request_id = json.loads(office.call("GET", "/v1/requests?ra=gz&limit=1", by="reader").body)["requests"][0][
        "request_id"
    ]
    assert office.call("GET", f"/v1/requests/{request_id}/evidence?ra=gz", by="reader").json["evidence"]


def test_a_start_rehearses(office: Office) -> None:
    assert any('"rehearsed"' in line for line in office.service.log)
