"""The RA's client against a running service: the documentation's commands and program as they stand there, every kind
of request, refusals, and BouncyCastle's messages."""

from __future__ import annotations

import base64
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qianyan_ra import (
    Answer,
    BadAnswer,
    Certificate,
    Client,
    Holder,
    Maker,
    Person,
    Problem,
    Request,
    SoftwareKey,
    StillWaiting,
    Unfit,
    appoint,
    dismiss,
    make_csr,
    open_enveloped_key,
    parse,
    sign,
)
from service.cli import cli
from tests.holder_world import credit_code
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.ra_request import sign_with_bouncycastle
from tests.openapi_world import is_a
from tests.ra_world import certified, pem
from tests.running import Installation, Service
from tests.script_world import run_script

DOC = Path(__file__).parent.parent / "docs" / "ra-integration.md"
RA = "east-01"
ADDRESS = "https://ca.example.cn:8443"
PASSPHRASE = b"a passphrase of your own"


def blocks(language: str) -> list[str]:
    """The documentation's blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOC.read_text(), re.DOTALL | re.MULTILINE)


@dataclass
class Desk:
    """A service with TLS and the RA of the documentation, made by the documentation's own commands."""

    service: Service
    directory: Path
    said: str
    li: Person
    wang: Person
    zhao: Person

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.service.installation.directory / "tls-ca.pem"))

    @property
    def token(self) -> str:
        return (self.directory / "east-01.token").read_text().strip()

    def client(self, *, token: str | None = None) -> Client:
        return Client(self.service.private, tls=self.tls, token=token or self.token)

    def ask(self, *arguments: str) -> Result:
        """A command of `qianyan ra request` that looks."""
        where = ["--url", self.service.private, "--tls-ca", str(self.service.installation.directory / "tls-ca.pem")]
        token = ["--token-file", str(self.directory / "east-01.token")]
        return CliRunner().invoke(cli, ["ra", "request", *arguments, *where, *token])


def appoint_by_token(service: Service, person_id: str, *roles: str) -> Person:
    """A person more, by the service's own interface."""
    key = SoftwareKey.generate()
    csr = base64.b64encode(make_csr(key, {"C": "CN", "O": "东区登记处", "CN": person_id})).decode()
    body = {"id": person_id, "name": person_id, "roles": list(roles), "csr": csr}
    answer = service.call("POST", f"/v1/ras/{RA}/people", body)
    assert answer.status == 201, answer.body
    return Person(Certificate.parse(base64.b64decode(answer.json["certificate"])), key)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    installation = Installation(tmp_path_factory.mktemp("ra") / "var", tls="on").made()
    with Service(installation) as service:
        directory = tmp_path_factory.mktemp("desk")
        (directory / "tls-ca.pem").write_bytes((installation.directory / "tls-ca.pem").read_bytes())
        script = "\n".join(blocks("sh")).replace(ADDRESS, service.private)
        environment = {"QIANYAN_CONFIG": str(installation.config)}
        said = run_script(script, directory, tmp_path_factory.mktemp("tools"), environment)
        people = [
            Person.load(directory / f"{name}.cer", directory / f"{name}-key.pem", PASSPHRASE) for name in ("li", "wang")
        ]
        yield Desk(service, directory, said, *people, appoint_by_token(service, "zhao", "approver"))


def issued(desk: Desk, client: Client) -> tuple[SoftwareKey, Answer]:
    key = SoftwareKey.generate()
    csr = make_csr(key, {"C": "CN", "O": "客户端测试有限公司", "CN": "客户端测试有限公司"})
    request = Maker(RA).issue("organisation", csr, Holder("organisation", credit_code()))
    return key, client.submit(request, desk.li, desk.wang)


# ---- the documentation


def test_the_commands_of_the_documentation_issue_open_and_suspend(desk: Desk) -> None:
    assert "business-0001  issue  done" in desk.said
    assert "business-0002  suspend  entered" in desk.said
    assert "business-0002  suspend  done" in desk.said
    holder = SoftwareKey.from_pem((desk.directory / "holder-enc-key.pem").read_bytes(), PASSPHRASE)
    text = subprocess.run(
        ["openssl", "x509", "-in", desk.directory / "holder" / "enc.pem", "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    certificate = Certificate.parse(text)
    assert certificate.public_key == holder.public_key
    status = desk.service.post("/v1/status", {"serials": [certificate.serial_hex]})
    assert status.json["statuses"][0]["status"] == "held"
    for secret in ("li-key.pem", "holder-enc-key.pem", "business-0001.json"):
        assert (desk.directory / secret).stat().st_mode & 0o077 == 0, secret


def test_the_program_of_the_documentation_runs_as_it_stands(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks("python")
    monkeypatch.chdir(desk.directory)
    exec(compile(program.replace(ADDRESS, desk.service.private), str(DOC), "exec"), {})
    with desk.client() as client:
        assert client.show(RA, "business-0003").done
        rejected = client.show(RA, "business-0004")
    assert (rejected.state, rejected.decided_by) == ("rejected", "wang")
    assert rejected.reason == "the holder's signature on the form is missing"


def test_the_documentation_names_codes_that_there_are() -> None:
    description = json.dumps(json.loads(CliRunner().invoke(cli, ["openapi"]).output))
    section = DOC.read_text().split("## Refusals")[1].split("## Evidence")[0]
    codes = set(re.findall(r"`([a-z]+_[a-z_]+)`", section)) - {"request_id_reused`"}
    assert len(codes) > 20
    assert [code for code in sorted(codes) if f'"{code}"' not in description] == []


# ---- every kind


def test_every_kind_of_request_over_a_certificates_life(desk: Desk, bouncycastle: BouncyCastle) -> None:
    maker = Maker(RA)
    both = (desk.li, desk.wang)
    with desk.client() as client:
        key, first = issued(desk, client)
        assert first.done
        assert (first.entered_by, first.decided_by, first.approved_by) == ("li", "wang", ("wang",))
        assert first.enveloped_key is not None
        encryption = open_enveloped_key(first.enveloped_key, key)
        assert Certificate.parse(first.certificate("encrypt").certificate).public_key == encryption.public_key
        scalar = bouncycastle.open_enveloped_key(key_octets(key), first.enveloped_key)
        assert scalar.public == encryption.public_key
        bouncycastle.verify_certificate(first.certificate("sign").certificate, first.chain[0])
        serial = first.certificate("sign").serial

        def done(request: Request) -> Answer:
            answer = client.submit(request, *both)
            assert answer.done, answer
            is_a(answer.members, "RequestAnswer")
            return answer

        done(maker.suspend(serial, ground="lost"))
        done(maker.resume(serial))
        assert done(maker.unlock(serial)).result["token"]
        with pytest.raises(Problem) as early:
            client.submit(maker.renew(serial), *both)
        assert (early.value.status, early.value.code, early.value.retryable) == (422, "renewal_early", False)
        changed_csr = make_csr(key, {"C": "CN", "O": "客户端测试有限公司", "OU": "一部", "CN": "客户端测试有限公司"})
        changed = done(maker.change(serial, changed_csr))
        new_key = SoftwareKey.generate()
        csr = make_csr(new_key, {"C": "CN", "O": "客户端测试有限公司", "OU": "一部", "CN": "客户端测试有限公司"})
        reissued = done(maker.reissue(changed.certificate("sign").serial, csr, "damaged"))
        serial = reissued.certificate("sign").serial

        asked = client.submit(maker.recover(first.certificate("encrypt").serial, "case-7"), *both)
        assert asked.waiting
        recovered = client.approve(RA, asked.request_id, desk.zhao, look=lambda content: b"case-7" in content)
        assert recovered.done
        for answer in (asked, recovered):
            is_a(answer.members, "RequestAnswer")
        assert recovered.enveloped_key is not None
        assert open_enveloped_key(recovered.enveloped_key, new_key).public_key == encryption.public_key
        revoked = done(maker.revoke(serial, "holder_gone"))
        assert {one["status"] for one in revoked.result["certificates"]} == {"revoked"}


def key_octets(key: SoftwareKey) -> bytes:
    """The scalar, for a judge that opens envelopes with it."""
    return bytes(key._scalar.export())


# ---- again, and refused


def test_sent_again_it_is_one_and_another_content_is_refused(desk: Desk) -> None:
    with desk.client() as client:
        _, first = issued(desk, client)
        serial = first.certificate("sign").serial
        request = Maker(RA).suspend(serial, request_id="again-1")
        message = sign(request.content(), desk.li, client._clock())
        entered = client.send(message)
        assert client.send(message).entered_at == entered.entered_at
        assert client.submit(request, desk.li).request_id == "again-1"
        with pytest.raises(Problem) as reused:
            client.submit(Maker(RA).resume(serial, request_id="again-1"), desk.li)
        assert (reused.value.status, reused.value.code) == (409, "request_id_reused")
        assert reused.value.request_id
        with pytest.raises(StillWaiting):
            client.wait(RA, "again-1", timeout_s=0)
        with pytest.raises(Unfit, match="not approved"):
            client.approve(RA, "again-1", desk.wang, look=lambda content: False)
        assert client.show(RA, "again-1").waiting


@pytest.mark.parametrize(
    ("people", "code"),
    [(("li", "li"), "same_person"), (("wang", "zhao"), "role"), (("zhao",), "role"), (("stranger",), "signer_unknown")],
)
def test_people_out_of_role_are_refused_with_the_services_code(desk: Desk, people: tuple[str, ...], code: str) -> None:
    request = Maker(RA).resume("0102")
    with desk.client() as client:
        if code == "same_person":
            with pytest.raises(Unfit) as found:
                client.submit(request, desk.li, desk.li)
            assert found.value.code == code
            return
        stranger = SoftwareKey.generate()
        known = {"li": desk.li, "wang": desk.wang, "zhao": desk.zhao}
        if people == ("stranger",):
            known["stranger"] = Person(Certificate.parse(certified(stranger.public_key)), stranger)
        with pytest.raises(Problem) as refused:
            client.submit(request, *(known[name] for name in people))
    assert refused.value.code == code


def test_looking_needs_a_token(desk: Desk) -> None:
    with Client(desk.service.private, tls=desk.tls) as client, pytest.raises(Problem) as refused:
        client.show(RA, "business-0001")
    assert (refused.value.status, refused.value.code) == (401, "unauthenticated")


def test_bouncycastles_messages_are_taken_and_their_evidence_is_kept(desk: Desk, tmp_path: Path) -> None:
    """RaRequest.java enters, and approves beside itself; the service does it and keeps the octets."""
    with desk.client() as client:
        _, first = issued(desk, client)
        content = Maker(RA).suspend(first.certificate("sign").serial, request_id="java-1").content()
        (tmp_path / "in.json").write_bytes(content)
        for person, name in ((desk.li, "li"), (desk.wang, "wang")):
            assert isinstance(person.signer, SoftwareKey)
            (tmp_path / f"{name}-key.pem").write_bytes(person.signer.to_pem(None))
            (tmp_path / f"{name}.pem").write_bytes(pem(person.certificate.encoded))
        sign_with_bouncycastle(tmp_path / "li-key.pem", tmp_path / "li.pem", tmp_path / "in.json", tmp_path / "once")
        sign_with_bouncycastle(tmp_path / "wang-key.pem", tmp_path / "wang.pem", tmp_path / "once", tmp_path / "twice")
        done = client.send((tmp_path / "twice").read_bytes())
        assert done.done
        ((_, kept),) = client.evidence(RA, "java-1")
        assert kept == (tmp_path / "twice").read_bytes()


# ---- commands that the documentation does not run


def test_commands_look_and_say_what_is_wrong_with_a_status(desk: Desk, tmp_path: Path) -> None:
    listed = json.loads(desk.ask("list", "--ra", RA, "--json").output)["requests"]
    assert {one["request_id"] for one in listed} >= {"business-0001", "business-0002"}
    shown = desk.ask("show", "business-0001", "--ra", RA, "--out-dir", str(tmp_path / "out"))
    assert "business-0001  issue  done" in shown.output
    assert (tmp_path / "out" / "sign.pem").read_bytes() == (desk.directory / "holder" / "sign.pem").read_bytes()
    raw = desk.ask("content", "business-0001", "--ra", RA)
    assert raw.stdout_bytes == (desk.directory / "business-0001.json").read_bytes()
    fetched = desk.ask("evidence", "business-0002", "--ra", RA, "--out-dir", str(tmp_path / "evidence"))
    assert fetched.exit_code == 0, fetched.output
    kept = sorted((tmp_path / "evidence").iterdir())
    assert len(kept) == 2
    assert all(parse(path.read_bytes()).content == parse(kept[0].read_bytes()).content for path in kept)
    read = CliRunner().invoke(cli, ["ra", "request", "read", str(kept[0])])
    assert "signed by certificate" in read.output
    assert '"kind": "suspend"' in read.output
    unknown = desk.ask("show", "nothing", "--ra", RA)
    assert unknown.exit_code == 1
    assert "request_unknown" in unknown.output


def test_an_approver_is_shown_and_asked_and_may_reject(desk: Desk) -> None:
    with desk.client() as client:
        serial = client.show(RA, "business-0001").certificate("sign").serial
        client.submit(Maker(RA).revoke(serial, "lost", request_id="asked-1"), desk.li)
    key = str(desk.directory / "wang-key.pem")
    wang = ["--certificate", str(desk.directory / "wang.cer"), "--key", key]
    wang += ["--passphrase-file", str(desk.directory / "passphrase")]
    unasked = desk.ask("approve", "asked-1", "--ra", RA, *wang)
    assert unasked.exit_code == 1
    assert '"reason": "lost"' in unasked.stderr, "what is to be signed is shown before anything is asked"
    assert "--yes" in unasked.stderr
    rejected = desk.ask("reject", "asked-1", "--ra", RA, "--reason", "no form", *wang, "--json")
    assert json.loads(rejected.output)["state"] == "rejected"
    waited = desk.ask("show", "asked-1", "--ra", RA, "--wait", "5")
    assert "reason: no form" in waited.output


def test_an_administrator_of_the_ra_appoints_and_dismisses(desk: Desk) -> None:
    chief = appoint_by_token(desk.service, "chief", "business_administrator")
    key = SoftwareKey.generate()
    csr = make_csr(key, {"C": "CN", "O": "东区登记处", "CN": "新人"})
    with desk.client() as client:
        done = client.submit_appointment(appoint(RA, "sun", "孙新", ["operator"], csr=csr), chief)
        assert done.done
        is_a(done.members, "RequestAnswer")
        assert done.person_certificate is not None
        sun = Person(Certificate.parse(done.person_certificate), key)
        serial = client.show(RA, "business-0001").certificate("sign").serial
        assert client.submit(Maker(RA).revoke(serial, "lost"), sun).entered_by == "sun"
        with pytest.raises(Problem) as refused:
            client.submit_appointment(dismiss(RA, "li"), sun)
        assert refused.value.code == "role"
        directory = desk.directory
        (directory / "chief.cer").write_bytes(chief.certificate.encoded)
        assert isinstance(chief.signer, SoftwareKey)
        (directory / "chief-key.pem").write_bytes(chief.signer.to_pem(None))
        by = ["--certificate", str(directory / "chief.cer"), "--key", str(directory / "chief-key.pem")]
        own = SoftwareKey.generate()
        (directory / "zhou.csr").write_bytes(make_csr(own, {"C": "CN", "O": "东区登记处", "CN": "周新"}))
        out = directory / "zhou.cer"
        given = ["--name", "周新", "--role", "approver", "--csr", str(directory / "zhou.csr")]
        ran = desk.ask("appoint", "zhou", "--ra", RA, *given, "--out", str(out), *by)
        assert ran.exit_code == 0, ran.output
        assert Certificate.parse(out.read_bytes()).public_key == own.public_key
        ended = desk.ask("dismiss", "sun", "--ra", RA, "--ground", "post_left", *by)
        assert "dismiss  done" in ended.output
        with pytest.raises(Problem) as withdrawn:
            client.submit(Maker(RA).revoke(serial, "lost"), sun)
        assert withdrawn.value.code in ("person_withdrawn", "certificate_revoked", "signer_unknown")


def test_make_refuses_what_does_not_belong(desk: Desk, tmp_path: Path) -> None:
    def make(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["ra", "request", "make", *arguments])

    assert "revoke needs --serial" in make("revoke", "--ra", RA, "--reason", "lost").output
    assert "--profile is not for resume" in make("resume", "--ra", RA, "--serial", "01", "--profile", "person").output
    holder = tmp_path / "holder.json"
    holder.write_text('{"kind": "person", "number": "110101199003070013"}')
    csr = str(desk.directory / "holder.csr")
    wrong = make("issue", "--ra", RA, "--profile", "organisation", "--csr", csr, "--holder", str(holder))
    assert wrong.exit_code == 1
    assert "check digit" in wrong.output
    assert "1101011990" not in wrong.output
    judicial = make(
        "recover_judicial", "--ra", RA, "--serial", "01", "--reference", "order-1",
        "--recipient-certificate", str(desk.directory / "li.cer"),
    )  # fmt: skip
    named = json.loads(judicial.output)["payload"]["recipient_key"]
    assert base64.b64decode(named) == desk.li.certificate.public_key


def test_an_address_that_is_not_the_services_is_told_apart(desk: Desk) -> None:
    with Client(desk.service.public) as client, pytest.raises((BadAnswer, Problem)) as refused:
        client.show(RA, "business-0001")
    assert refused.value.code == "not_found"
