"""The life of a holder's certificates over HTTP and on the command line, and that nobody's data gets out on the way."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result

from service.cli import cli
from tests.holder_world import credit_code, identity_number
from tests.issuance_support import Request, subject_of
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Answer, Installation, Service
from tests.test_issuance_recovery import scalar

PATH = "/v1/certificates"
#: What is planted. The certificates are for somebody else's name, which certificates do show.
PERSON = {"name": "欧阳震华", "phone": "13912345678", "address": "天河区体育西路189号"}
SUBJECT = subject_of({"C": "CN", "O": "公开的名称", "CN": "公开的名称"})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that logs all that it can, and renews at any time."""
    installation = Installation(tmp_path_factory.mktemp("holders") / "var").made()
    installation.set("log", 'level = "debug"')
    installation.set("log", "requests = true")
    installation.set("issuance", "renewal_window_days = 366")
    with Service(installation) as running:
        yield running


@pytest.fixture(scope="module")
def people(service: Service) -> dict[str, str]:
    """A token for each role of a recovery."""
    return {name: token(service, name, scope) for name, scope in ROLES.items()}


ROLES = {
    "clerk": "recover",
    "judge": "recover_judicial",
    "first": "approve_recovery",
    "second": "approve_recovery",
}


def token(service: Service, name: str, *scopes: str) -> str:
    made = run(service, "token", "create", name, *(part for scope in scopes for part in ("--scope", scope)), "--json")
    return str(json.loads(made.stdout)["token"])


def run(service: Service, *arguments: str, status: int = 0, stdin: str | None = None) -> Result:
    """A command in this process, on the running service's store."""
    ran = CliRunner().invoke(cli, [*arguments, "--config", str(service.installation.config)], input=stdin)
    assert ran.exit_code == status, ran.output
    return ran


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def issue(service: Service, request: Request, number: str, kind: str = "person", **more: str) -> Answer:
    holder = {"kind": kind, "number": number, **PERSON, **more}
    return service.call("POST", PATH, {"csr": b64(request.encode()), "profile": "organisation", "holder": holder})


def made(answer: Answer) -> dict[str, Any]:
    assert answer.status == 201, answer.body
    value: dict[str, Any] = answer.json
    return value


def serials(value: dict[str, Any]) -> list[str]:
    return [one["serial"] for one in value["certificates"]]


def state(service: Service, serial: str) -> str:
    return str(service.call("GET", f"{PATH}/{serial}").json["state"])


def test_the_whole_life(service: Service, people: dict[str, str], bouncycastle: BouncyCastle) -> None:
    request, number = Request(SUBJECT), identity_number()
    issued = made(issue(service, request, number))
    holder, (first, _) = issued["holder"], serials(issued)
    renewed = made(service.call("POST", f"{PATH}/{first}/renew", Idempotency_Key="renew-1"))
    assert made(service.call("POST", f"{PATH}/{first}/renew", Idempotency_Key="renew-1")) == renewed
    assert (renewed["enveloped_key"], renewed["holder"]) == (None, holder)
    assert state(service, first) == "renewed"
    changed_request = Request(subject_of({"C": "CN", "O": "新名称", "CN": "新名称"}), key=request.key)
    changed = made(service.call("POST", f"{PATH}/{serials(renewed)[1]}/change", {"csr": b64(changed_request.encode())}))
    assert {state(service, serial) for serial in (first, *serials(renewed))} == {"revoked"}

    now = serials(changed)[0]
    held = service.call("POST", f"{PATH}/{now}/suspend", {"ground": "lost"})
    assert {one["status"] for one in held.json["certificates"]} == {"held"}
    refused = service.call("POST", f"{PATH}/{now}/unlock")
    assert (refused.status, refused.json["code"]) == (422, "suspended")
    assert service.call("POST", f"{PATH}/{now}/resume").status == 200
    given = made(service.call("POST", f"{PATH}/{now}/unlock"))
    assert service.call("POST", "/v1/unlocks/redeem", {"token": given["token"]}).json["serial"] == now
    again = service.call("POST", "/v1/unlocks/redeem", {"token": given["token"]})
    assert (again.status, again.json["code"]) == (409, "unlock_used")

    medium = Request(changed_request.subject)
    body = {"csr": b64(medium.encode()), "ground": "lost"}
    reissued = made(service.call("POST", f"{PATH}/{now}/reissue", body))
    assert state(service, now) == "revoked"

    call = service.call
    old_encryption = serials(changed)[1]
    asked = made(call("POST", f"{PATH}/{old_encryption}/recover", {"reference": "case-1"}, token=people["clerk"]))
    path = f"/v1/recoveries/{asked['id']}"
    assert call("POST", path + "/approve", token=people["clerk"]).status == 403
    assert call("POST", path + "/approve", token=people["first"]).json["state"] == "approved"
    done = call("POST", path + "/approve", token=people["second"]).json
    assert (done["state"], done["approved_by"]) == ("done", ["token:first", "token:second"])
    opened = bouncycastle.open_enveloped_key(scalar(medium.key), base64.b64decode(done["enveloped_key"]))
    original = bouncycastle.open_enveloped_key(scalar(request.key), base64.b64decode(issued["enveloped_key"]))
    assert opened == original, "the key stayed through renewal and change, and came back"
    assert call("GET", path, token=people["first"]).json == done

    past = call("GET", f"/v1/holders/{holder}/history").json
    operations = [one["operation"] for one in past["history"]]
    assert operations == ["recover", "reissue", "unlock", "resume", "suspend", "change", "revoke", "renew", "issue"]
    assert past["history"][1]["replaces"] == now
    assert past["next"] is None
    shown = call("POST", "/v1/holders/find", {"kind": "person", "number": number}).json
    assert shown == call("GET", f"/v1/holders/{holder}").json
    assert (shown["name"], shown["phone"], shown["address"]) == ("欧***", "*********78", "*" * 11)
    good = {one["serial"] for one in shown["certificates"] if one["status"] == "good"}
    assert good == set(serials(reissued))


def test_roles_are_apart(service: Service, people: dict[str, str]) -> None:
    serial = serials(made(issue(service, Request(SUBJECT), credit_code(), "organisation")))[0]
    call, path = service.call, f"{PATH}/{serial}"
    court = {"reference": "court-1", "judicial": True, "recipient_key": b64(Request().key.public_key.to_bytes())}
    assert call("POST", f"{path}/recover", court, token=people["clerk"]).status == 403
    assert call("POST", f"{path}/recover", {"reference": "case-1"}, token=people["judge"]).status == 403
    assert call("POST", f"{path}/recover", court, token=people["judge"]).status == 201
    assert call("POST", f"{path}/recover", court, token=people["first"]).status == 403
    for name in ("unlock", "renew", "change", "reissue", "suspend"):
        assert call("POST", f"{path}/{name}", {}, token=people["clerk"]).status == 403, name
        assert call("POST", f"{path}/{name}", {}, token="").status == 401, name
    assert call("GET", "/v1/recoveries", token="").status == 401
    assert call("GET", "/v1/holders/x", token=people["clerk"]).status == 403
    listed = call("GET", "/v1/recoveries?state=asked", token=people["first"]).json["recoveries"]
    assert "court-1" in {one["reference"] for one in listed}


@pytest.mark.parametrize(
    ("operation", "body", "status", "code"),
    [
        ("renew", {"csr": "AAAA"}, 400, "csr"),
        ("renew", {"more": 1}, 400, "body"),
        ("change", {}, 400, "body"),
        ("reissue", {"csr": "AAAA", "ground": "whim"}, 400, "body"),
        ("suspend", {"ground": "whim"}, 400, "body"),
        ("revoke", {"reason": "whim"}, 400, "body"),
        ("recover", {}, 400, "body"),
        ("recover", {"reference": "x", "recipient": "zz"}, 400, "serial"),
        ("recover", {"reference": "x", "recipient_key": "!"}, 400, "base64"),
    ],
)
def test_bad_bodies(service: Service, operation: str, body: dict[str, Any], status: int, code: str) -> None:
    answer = service.call("POST", f"{PATH}/0badc0de/{operation}", body)
    assert answer.status in (status, 404), answer.body
    assert answer.json["code"] in (code, "certificate_unknown")


def test_on_the_command_line(service: Service, tmp_path: Path) -> None:
    request, number = Request(SUBJECT), credit_code()
    csr, described = tmp_path / "csr.der", tmp_path / "holder.json"
    csr.write_bytes(request.encode())
    described.write_text(json.dumps({"kind": "organisation", "number": number, **PERSON}))
    out = ("--out-dir", str(tmp_path / "out"))
    profile = ("--profile", "organisation", "--holder", str(described))
    issued = json.loads(run(service, "issue", "--csr", str(csr), *profile, *out, "--json").stdout)
    serial, holder = issued["serials"]["sign"], issued["holder"]
    renewed = json.loads(run(service, "renew", serial, *out, "--json").stdout)["serials"]["sign"]
    csr.write_bytes(Request(subject_of({"C": "CN", "O": "新", "CN": "新"}), key=request.key).encode())
    changed = json.loads(run(service, "change", renewed, "--csr", str(csr), *out, "--json").stdout)["serials"]["sign"]
    run(service, "suspend", changed, "--ground", "holder_request")
    csr.write_bytes(Request(subject_of({"C": "CN", "O": "新", "CN": "新"})).encode())
    reissue = ("reissue", changed, "--csr", str(csr), "--ground", "damaged", *out, "--json")
    last = json.loads(run(service, *reissue).stdout)["serials"]["sign"]
    assert "until 20" in run(service, "unlock", last).stdout
    asked = json.loads(run(service, "recovery", "ask", changed, "--reference", "case-9", "--json").stdout)[0]
    assert asked["state"] == "asked"
    same = run(service, "recovery", "approve", asked["id"], status=1)
    assert getattr(same.exception, "code", "") == "same_person"
    assert "case-9" in run(service, "recovery", "list", "--state", "asked").stdout
    assert "rejected" in run(service, "recovery", "reject", asked["id"]).stdout
    assert asked["id"] in run(service, "recovery", "show", asked["id"]).stdout
    run(service, "revoke", last, "--reason", "court_demand")
    found = json.loads(run(service, "holder", "find", "organisation", "--json", stdin=number + "\n").stdout)
    assert (found["id"], found["name"]) == (holder, "欧***")
    past = json.loads(run(service, "holder", "history", holder, "--json").stdout)
    grounds = [(one["operation"], one["ground"]) for one in past[:3]]
    assert grounds == [("revoke", "court_demand"), ("unlock", None), ("reissue", "damaged")]
    assert PERSON["name"] not in run(service, "holder", "show", holder).stdout
    assert PERSON["name"] in run(service, "holder", "show", holder, "--reveal").stdout
    counts = json.loads(run(service, "kmc", "status", "--json").stdout)
    assert counts["in_use"] + counts["history"] >= 4
    assert run(service, "holder", "rekey", "--json").stdout


def test_nothing_of_a_holder_gets_out(service: Service) -> None:
    """Values planted in every place where they may come, right and wrong, are in no log, metric or error."""
    number, code = identity_number(), credit_code()
    wrong_number = number[:-1] + ("1" if number[-1] != "1" else "2")
    wrong_code = code[:-1] + ("A" if code[-1] != "A" else "B")
    request = Request(SUBJECT)
    made(issue(service, request, number))
    call = service.call
    errors = [
        issue(service, Request(SUBJECT), wrong_number),
        issue(service, Request(SUBJECT), wrong_code, "organisation"),
        issue(service, Request(SUBJECT), code),
        issue(service, Request(SUBJECT), number, number),
        issue(service, Request(SUBJECT), number, name=PERSON["name"] * 40),
        issue(service, Request(SUBJECT), number, phone=PERSON["name"]),
        issue(service, Request(SUBJECT), number, note=PERSON["name"]),
        issue(service, request, code, "organisation"),  # the key of another
        call("POST", PATH, {"csr": number, "profile": PERSON["name"], "holder": PERSON}),
        call("POST", PATH, {"csr": "AAAA", "profile": "x", "holder": {"kind": "person", "number": [number]}}),
        call("POST", "/v1/holders/find", {"kind": "person", "number": wrong_number}),
        call("POST", "/v1/holders/find", {"kind": "organisation", "number": code}),
        call("POST", "/v1/holders/find", {"kind": PERSON["name"], "number": number}),
        call("GET", f"/v1/holders/{number}"),
        call("GET", f"/v1/holders/{number}/history?before={number}X"),
        call("POST", f"{PATH}/{number}/recover", {"reference": PERSON["name"]}),
        call("POST", "/v1/unlocks/redeem", {"token": number}),
        service.request(
            "POST", service.private + "/v1/holders/find", b'{"kind": "person", "number": ' + number.encode() + b"x",
            {"Authorization": f"Bearer {service.installation.token}"},
        ),
    ]  # fmt: skip
    assert [answer.status for answer in errors if answer.status < 400 or answer.status >= 500] == []
    said = service.call("GET", "/metrics").body.decode() + "".join(answer.body.decode() for answer in errors)
    said += "".join(service.log)
    planted = [number, wrong_number, code, wrong_code, *PERSON.values()]
    forms = [form for value in planted for form in (value, quote(value), json.dumps(value)[1:-1], b64(value.encode()))]
    assert [form for form in forms if form in said] == []


def test_the_store_has_nothing_readable(service: Service) -> None:
    number = identity_number()
    made(issue(service, Request(SUBJECT), number))
    files = [path for path in service.installation.directory.rglob("*") if path.is_file()]
    dump = b"".join(path.read_bytes() for path in files if not path.is_socket())
    assert b"certificate.issue" in dump
    for value in (number, *PERSON.values()):
        assert value.encode() not in dump
