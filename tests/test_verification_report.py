"""Verification reports: what is in them, that no byte can change, and that they can be judged and read off line."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from core.clock import system_clock
from core.errors import Malformed, QianyanError, Refused, SettingsError
from core.http import CALLER, Caller
from core.model import RevocationReason
from core.store import keys
from service.commands import report_command
from service.problems import of_error
from signer._native import sm2
from signer.signing import canonical, report_html, report_pdf
from signer.signing.foreign import sm3
from signer.signing.parsed import parse
from signer.signing.report import Reporter, check
from signer.signing.settings import SigningSettings
from signer.signing.verification_settings import ReportSettings, VerificationSettings
from signer.signing.verify_http import VerificationRoutes
from tests.engine_world import World, open_world
from tests.foreign_world import ocsp_at, open_foreign
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import qianyan
from tests.signing_world import DAY_MS, Realm, authority, certificate, make_realm, usage

MESSAGE = "合同正文".encode()
SUBJECT = "holder"
OCTETS = {"Content-Type": "application/octet-stream"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Site:
    """The routes on a socket. `signer`: the certificate of the key `k`, which signs the reports."""

    def __init__(self, world: World, realm: Realm, client: TestClient[Any, Any], signer: bytes) -> None:
        self.world = world
        self.realm = realm
        self.client = client
        self.signer = signer

    async def post(self, path: str, body: Any, *, token: str | None = "sign", **headers: str) -> tuple[int, bytes]:
        given = {"Content-Type": "application/json"} | ({"Authorization": token} if token else {}) | headers
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.client.post(path, data=data, headers=given) as response:
            return response.status, await response.read()

    async def item(self, **changes: Any) -> dict[str, Any]:
        holder = await self.realm.issue()
        return {
            "certificate": b64(holder.certificate),
            "data": b64(MESSAGE),
            "signature": b64(holder.key.sign(MESSAGE)),
            **changes,
        }


async def give_certificate(world: World, realm: Realm) -> bytes:
    """A certificate by our issuing authority for the key `k`, of the engine."""
    made = certificate(
        99, realm.issuing, "report signer", world.engine.public_key("k"), [usage("digital_signature")],
        realm.now_ms - DAY_MS, realm.now_ms + DAY_MS, realm.issuing.key,
    )  # fmt: skip
    async with world.database.write() as connection:
        await keys.set_service(connection, "k", None, None, made, at_ms=realm.now_ms)
    return made


@web.middleware
async def _renders(request: web.Request, handler: Any) -> web.StreamResponse:
    token = request.headers.get("Authorization")
    if token is not None:
        request[CALLER] = Caller("app", frozenset(token.split()))
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except QianyanError as error:
        return of_error(error, "id")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "world").mkdir()
    async with open_world(tmp_path / "world", keys=("k",)) as world:
        realm = await make_realm(world)
        signer = await give_certificate(world, realm)
        reporter = Reporter(world.engine, world.database, realm.service, lambda: realm.now_ms, "k", "9.9")
        app = web.Application(middlewares=[_renders])
        app.add_routes(VerificationRoutes(realm.service, SigningSettings(), reporter).private())
        async with TestClient(TestServer(app)) as client:
            yield Site(world, realm, client, signer)


async def make(site: Site, *items: Any, **more: Any) -> bytes:
    status, record = await site.post("/v1/reports", {"items": list(items), **more})
    assert status == 200, record
    return record


async def test_a_report_says_what_was_checked_and_is_signed(site: Site) -> None:
    good = await site.item()
    gone = await site.item()
    await site.realm.revoke(1002, RevocationReason.SUPERSEDED, site.realm.now_ms - 1_000)
    key = sm2.PrivateKey.generate()
    bare = {
        "public_key": b64(key.public_key.to_bytes()),
        "digest": b64(key.public_key.digest(b"m")),
        "signature": b64(key.sign(b"m")),
    }
    record = await make(site, good, gone, bare, {"colour": 1}, report={"reference": "案号 2026-17"})
    checked = check(record)
    report = checked.report
    assert report["reference"] == "案号 2026-17"
    assert report["summary"] == {"items": 4, "valid": 2}
    assert [item["reason"] for item in report["items"]] == [None, "revoked", None, "malformed"]
    assert report["items"][0]["data_sm3"] == sm3(MESSAGE).hex()
    assert report["items"][1]["revocation_reason"] == "superseded"
    assert report["items"][2]["digest"] == key.public_key.digest(b"m").hex()
    realm = site.realm
    leaf = sm3(base64.b64decode(good["certificate"])).hex()
    assert report["items"][0]["certificate"] == leaf
    issuing, root = sm3(realm.issuing.certificate).hex(), sm3(realm.root.certificate).hex()
    assert report["items"][0]["path"] == [issuing, root]
    assert SUBJECT in report["certificates"][leaf]["subject"]
    assert {entry["kind"] for entry in report["statuses"]} == {"store"}
    assert report["service"] == {"name": "qianyan", "version": "9.9"}
    checked.judge_signer([parse(realm.root.certificate)])
    checked.judge_signer([parse(realm.issuing.certificate)])
    stranger = authority("root", None, realm.now_ms)
    with pytest.raises(Refused, match="does not lead"):
        checked.judge_signer([parse(stranger.certificate)])
    # Somebody else's SM2, over the bytes that the canonical form says.
    value = orjson.loads(record)
    openssl.verify(
        checked.signer.point, canonical.encode(value["report"]), base64.b64decode(value["signature"]["value"])
    )


async def test_foreign_evidence_is_in_the_report(site: Site, bouncycastle: BouncyCastle) -> None:
    async with open_foreign(site.world, bouncycastle, system_clock()) as foreign:
        holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
        answer = foreign.ocsp(holder.serial)
        foreign.site.put("/ocsp", answer)
        reporter = Reporter(site.world.engine, site.world.database, foreign.service, system_clock, "k", "1")
        app = web.Application(middlewares=[_renders])
        app.add_routes(VerificationRoutes(foreign.service, SigningSettings(), reporter).private())
        async with TestClient(TestServer(app)) as client:
            other = Site(site.world, site.realm, client, site.signer)
            item = {
                "certificate": b64(holder.certificate),
                "data": b64(MESSAGE),
                "signature": b64(holder.key.sign(MESSAGE)),
            }
            report = check(await make(other, item)).report
        assert report["items"][0]["valid"]
        by_kind = {entry["kind"]: entry for entry in report["statuses"]}
        assert by_kind["ocsp"]["sm3"] == sm3(answer).hex()
        assert by_kind["ocsp"]["produced_at"]
        assert by_kind["crl"]["crl_number"] == "1"
        assert by_kind["crl"]["source"] == foreign.site.url("/root.crl")


async def test_a_holders_name_stays_out_where_the_caller_says_so(site: Site) -> None:
    record = await make(site, await site.item(), report={"subjects": False})
    assert SUBJECT.encode() not in record.replace(b"report signer", b"")
    assert b"issuing" in record


async def test_no_byte_can_change(site: Site) -> None:
    """Whatever octet changes, is cut off or is added, the record is refused; so is every other writing of it."""
    record = await make(site, await site.item())
    for at in range(0, len(record), 3):
        for flip in (0x01, 0x20):
            changed = record[:at] + bytes([record[at] ^ flip]) + record[at + 1 :]
            with pytest.raises((Malformed, Refused)):
                check(changed)
    value = orjson.loads(record)
    for other in (
        record + b"\n", b" " + record, record[:-1], b"", b"[]", b"{}", b"\xff",
        orjson.dumps(value, option=orjson.OPT_INDENT_2),
        canonical.encode({**value, "more": 1}),
        canonical.encode({**value, "signature": {**value["signature"], "chain": []}}),
        canonical.encode({**value, "signature": {**value["signature"], "algorithm": "sm2"}}),
        canonical.encode({**value, "report": {**value["report"], "id": 5}}),
        record.replace(b'"valid":true', b'"valid":false', 1),
    ):  # fmt: skip
        with pytest.raises((Malformed, Refused)):
            check(other)


async def test_a_report_by_somebody_elses_key_is_not_the_signers(site: Site) -> None:
    """Signed anew by another key, with the right certificate beside it or a self-made one."""
    record = await make(site, await site.item())
    value = orjson.loads(record)
    impostor = authority("report signer", None, site.realm.now_ms, extensions=[usage("digital_signature")])
    value["report"]["items"][0]["reason"] = "revoked"
    signed = sm2.signature_to_der(impostor.key.sign(canonical.encode(value["report"])))
    value["signature"]["value"] = b64(signed)
    with pytest.raises(Refused, match="does not verify"):
        check(canonical.encode(value))
    value["signature"] |= {"certificate": b64(impostor.certificate), "chain": []}
    value["report"]["signer"] = {"certificate": sm3(impostor.certificate).hex(), "chain": []}
    signed = sm2.signature_to_der(impostor.key.sign(canonical.encode(value["report"])))
    value["signature"]["value"] = b64(signed)
    with pytest.raises(Refused, match="does not lead"):
        check(canonical.encode(value)).judge_signer([parse(site.realm.root.certificate)])


# ---- who may, and how much


async def test_who_gets_a_report_and_of_how_much(site: Site) -> None:
    item = await site.item()
    assert (await site.post("/v1/reports", {"items": [item]}, token=None))[0] == 401
    assert (await site.post("/v1/reports", {"items": [item]}, token="read"))[0] == 403
    status, problem = await site.post("/v1/verify", {"items": [item], "report": True}, token=None)
    assert (status, orjson.loads(problem)["code"]) == (401, "report_private")
    site.realm.service.bounds = VerificationSettings(report=ReportSettings(public=True, max_items=2))
    status, answer = await site.post("/v1/verify", {"items": [item], "report": True}, token=None)
    assert status == 200
    value = orjson.loads(answer)
    assert value["results"][0]["valid"]
    assert check(base64.b64decode(value["report"])).report["summary"] == {"items": 1, "valid": 1}
    status, problem = await site.post("/v1/reports", {"items": [item] * 3})
    assert (status, orjson.loads(problem)["code"]) == (413, "items")
    for report in (5, {"colour": 1}, {"reference": "x" * 201}, {"subjects": "no"}):
        status, _ = await site.post("/v1/reports", {"items": [item], "report": report})
        assert status == 400


async def test_a_key_without_a_certificate_signs_no_report(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        realm = await make_realm(world)
        for reporter, code in (
            (None, "report_key"),
            (Reporter(world.engine, world.database, realm.service, system_clock, "k", "1"), "report_certificate"),
        ):
            app = web.Application(middlewares=[_renders])
            app.add_routes(VerificationRoutes(realm.service, SigningSettings(), reporter).private())
            async with TestClient(TestServer(app)) as client:
                site = Site(world, realm, client, b"")
                status, problem = await site.post("/v1/reports", {"items": [await site.item()]})
                assert (status, orjson.loads(problem)["code"]) == (422, code)


# ---- the other forms of /v1/verify


async def test_octets_in_octets_out(site: Site) -> None:
    key = sm2.PrivateKey.generate()
    records = b"".join(
        bytes([number]) * 32 + key.public_key.to_bytes() + key.sign_digest(bytes([number & 0xFE]) * 32)
        for number in range(100)
    )
    status, answer = await site.post("/v1/verify", records, token=None, **OCTETS)
    assert (status, answer) == (200, bytes([1, 0]) * 50)
    short = b"".join(records[at : at + 32] + records[at + 33 : at + 161] for at in range(0, len(records), 161))
    status, answer = await site.post("/v1/verify?key_octets=64", short, token=None, **OCTETS)
    assert (status, answer) == (200, bytes([1, 0]) * 50)
    for path, body, code in (
        ("/v1/verify", records[:-1], "record_length"),
        ("/v1/verify", b"", "record_length"),
        ("/v1/verify?key_octets=33", records, "key_octets"),
    ):
        status, problem = await site.post(path, body, token=None, **OCTETS)
        assert (status, orjson.loads(problem)["code"]) == (400, code)
    site.realm.service.bounds = VerificationSettings(max_records=99)
    status, problem = await site.post("/v1/verify", records, token=None, **OCTETS)
    assert status == 413


async def test_certificates_by_number_and_intermediates(site: Site) -> None:
    item = await site.item()
    certificate_text = item.pop("certificate")
    items = [{**item, "certificate": number} for number in (0, 1, 2, -1, True, 0)]
    body = {"items": items, "certificates": [certificate_text, "?"], "intermediates": [certificate_text]}
    status, answer = await site.post("/v1/verify", body, token=None)
    assert status == 200
    reasons = [result["reason"] for result in orjson.loads(answer)["results"]]
    assert reasons == [None, "malformed", "malformed", "malformed", "malformed", None]
    for change in ({"certificates": 5}, {"intermediates": 5}, {"intermediates": ["?"]}):
        status, _ = await site.post("/v1/verify", {**body, **change}, token=None)
        assert status == 400
    status, _ = await site.post("/v1/verify", {**body, "intermediates": [certificate_text] * 33}, token=None)
    assert status == 413


# ---- canonical JSON


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        # RFC 8785 §3.2.3, the names of its example, in its order.
        (
            {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7},
            '{"\\r":2,"1":4,"\x80":6,"ö":7,"€":1,"😀":5,"\ufb33":3}',
        ),
        # RFC 8785 §3.2.2.2.
        ({"string": '€$\x0f\nA\'B"\\\\"/'}, '{"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'),
        ([None, True, False, 0, -1, 9007199254740991], "[null,true,false,0,-1,9007199254740991]"),
        ("\u2028\x7f", '"\u2028\x7f"'),
        ({}, "{}"),
    ],
)  # fmt: skip
def test_canonical_form(value: Any, encoded: str) -> None:
    assert canonical.encode(value) == encoded.encode()
    assert canonical.decode(encoded.encode()) == value


@pytest.mark.parametrize("value", [1.5, 1 << 53, float("nan"), b"x", {1: 2}, "\ud800", [[]] and {"a": {2}}])
def test_what_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that there is none is what counts
        canonical.encode(value)


@pytest.mark.parametrize(
    "encoded",
    [b'{"a":1,"a":1}', b'{"b":1,"a":1}', b"[1, 2]", b'"\\u0041"', b"1.0", b"1e2", b"-0", b"9007199254740992", b"["],
)  # fmt: skip
def test_what_is_not_in_canonical_form(encoded: bytes) -> None:
    with pytest.raises(Malformed):
        canonical.decode(encoded)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_canonical_form_is_read_back(value: Any) -> None:
    encoded = canonical.encode(value)
    assert canonical.decode(encoded) == value


# ---- for people, and on the command line


async def test_the_page_and_the_document(site: Site, tmp_path: Path) -> None:
    item = await site.item()
    record = await make(site, item, {**item, "data": b64(b"x")}, report={"reference": "<script>&甲"})
    checked = check(record)
    page = report_html.render(checked, record).decode()
    assert "签名验证报告" in page
    assert "invalid: the signature does not verify" in page
    assert "&lt;script&gt;&amp;甲" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    kept = re.search(r'id="record">([^<]+)<', page)
    assert kept is not None
    assert base64.b64decode(kept.group(1)) == record

    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(report_pdf.render(checked, record, report_pdf.find_fonts([])))
    text = poppler("pdftotext", "-layout", pdf, "-").decode()
    assert "签名验证报告" in text
    assert "证书链" not in text
    assert checked.report["id"] in text
    assert b"report.json" in poppler("pdfdetach", "-list", pdf)
    poppler("pdfdetach", "-save", "1", "-o", tmp_path / "back.json", pdf)
    assert (tmp_path / "back.json").read_bytes() == record


def poppler(name: str, *arguments: str | Path) -> bytes:
    """What one of poppler's tools prints."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: apt install poppler-utils"
    return subprocess.run([found, *arguments], capture_output=True, check=True).stdout


def test_fonts_that_are_not_there_or_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no font file"):
        report_pdf.find_fonts([tmp_path / "none.ttf"])


async def test_the_command_line(site: Site, tmp_path: Path) -> None:
    record = await make(site, await site.item())
    file, root, other = tmp_path / "r.json", tmp_path / "root.pem", tmp_path / "other.cer"
    file.write_bytes(record)
    root.write_bytes(x509.load_der_x509_certificate(site.realm.root.certificate).public_bytes(Encoding.PEM))
    other.write_bytes(authority("root", None, site.realm.now_ms).certificate)
    ran = await asyncio.to_thread(qianyan, "report", "verify", file, "--anchors", root, "--json")
    assert ran.status == 0, ran.stderr
    assert (ran.json["intact"], ran.json["trusted"], ran.json["valid"]) == (True, True, 1)
    status, _, complaint = command("verify", file)
    assert status == 4
    assert "--anchors" in complaint
    status, _, complaint = command("verify", file, "--anchors", other)
    assert status == 3
    assert "does not lead" in complaint
    page, document = tmp_path / "r.html", tmp_path / "r.pdf"
    assert command("render", file, "--html", page, "--pdf", document)[0] == 0
    assert document.read_bytes().startswith(b"%PDF")
    assert page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(Refused, match="already"):
        command("render", file, "--html", page)
    assert command("render", file)[0] == 2
    file.write_bytes(record.replace(b'"valid":true', b'"valid":fals3'))
    status, told, _ = command("verify", file, "--anchors", root, "--json")
    value = orjson.loads(told)
    assert (status, value["intact"], value["trusted"]) == (3, False, False)
    assert command("render", file, "--html", tmp_path / "no.html")[0] == 3
    assert not (tmp_path / "no.html").exists()


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """`qianyan report` in this process: (exit status, output, complaints)."""
    result = CliRunner().invoke(report_command.report, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
