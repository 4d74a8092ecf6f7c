"""An authority is taken over by command and served: OpenSSL reads OCSP and CRLs, qianyan_status the status set.

One service for the module; its authority's key comes from a file. A second authority brings its status alone.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from core.asn1 import der
from core.asn1.x509 import public_key_from_spki
from core.errors import QianyanError
from core.model import RevocationReason
from qianyan_status import Status, StatusSet, load
from service.cli import cli
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests.hsm_world import INDEX, make_devices
from tests.import_world import CRL_URL, DAY_MS, ENCRYPTS, OldAuthority, pem_file
from tests.judges import openssl
from tests.running import QIANYAN, Installation, Ran, Service

KEY, HOLD = RevocationReason.KEY_COMPROMISE, RevocationReason.CERTIFICATE_HOLD
GOOD, REVOKED, LOST, ENCRYPTION, LATER = 0xA001, 0xA002, 0xA003, 0xA004, 0xA005
PATIENCE_S = 60
CRL_NUMBER = 4711


class Site:
    """The installation, its service, and the authority that was elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.installation = Installation(directory / "here").made()
        self.device_key = sm2.PrivateKey.generate()
        (device,) = make_devices(directory, 1, self.device_key)
        with self.installation.config.open("a") as file:
            file.write(f'\n[hsm]\npassword_file = "{directory / "password"}"\n')
            file.write(f'\n[[hsm.devices]]\nname = "d0"\nlibrary = "{device.library}"\n')
        self.old = OldAuthority(int(time.time()) * 1000)
        self.leaves = {
            serial: self.old.leaf(serial, usage=ENCRYPTS) if serial == ENCRYPTION else self.old.leaf(serial)
            for serial in (GOOD, REVOKED, ENCRYPTION, LATER)
        }
        self.then = self.old.now_ms - 20 * DAY_MS
        self.service: Service | None = None

    def file(self, name: str, content: bytes) -> Path:
        """A file of the other system's."""
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def run(self, *arguments: str | Path, status: int = 0) -> Ran:
        """A command, in this process."""
        told = [*map(str, arguments), "--config", str(self.installation.config)]
        done = CliRunner().invoke(cli, told)
        refused = isinstance(done.exception, QianyanError)
        assert (1 if refused else done.exit_code) == status, (done.output, done.exception)
        return Ran(status, done.stdout, done.stderr)

    def take_over(self) -> None:
        """The commands of docs/import.md."""
        ca, key = self.file("ca.pem", self.old.certificate), self.file("key.pem", self.old.key_pem())
        self.run("import", "ca", "old", "--certificate", ca, "--key", key)
        pem = pem_file(self.directory / "issued.pem", [*self.leaves.values(), OldAuthority(self.old.now_ms).leaf(7)])
        ran = self.run("import", "certificates", "old", pem, "--report", self.directory / "report", "--json", status=3)
        assert (ran.json["accepted"], ran.json["refused"]) == (4, 1)
        crl = self.old.crl([(REVOKED, KEY, self.then), (LOST, KEY, self.then)], number=CRL_NUMBER, url=CRL_URL)
        self.run("import", "crl", "old", self.file("old.crl", crl))

    def ocsp(
        self, certificate: bytes, old: OldAuthority | None = None, *, wait: bool = True, nonce: bool = False
    ) -> str:
        """What OpenSSL reads of the answer, its signature checked. wait: until there is one about a certificate: a
        running service opens a new key when it hears of it."""
        assert self.service is not None
        issuer = (old or self.old).certificate
        request = openssl.make_ocsp_request(issuer, certificate, nonce=nonce)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.service.ocsp(request)
            try:
                text = openssl.ocsp_text(answer.body)
                openssl.verify_ocsp(answer.body, issuer)
                return text
            except openssl.Refused as refused:
                said = str(refused)
            assert "internalerror" not in said.lower(), "a key that is not opened yet is no fault of ours"
            if not wait:
                return said
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def get(self, path: str, until: Callable[[bytes], bool]) -> bytes:
        """A download, asked for until it is the one that is waited for."""
        assert self.service is not None
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.service.get(path)
            if answer.status == 200 and until(answer.body):
                return answer.body
            assert time.monotonic() < deadline, (path, answer.status, answer.body[:200])
            time.sleep(0.1)

    def set(self, until: Callable[[StatusSet], bool]) -> StatusSet:
        """The status set with its delta, when it says what is waited for."""
        found: list[StatusSet] = []

        def looked(delta: bytes) -> bool:
            assert self.service is not None
            base = self.service.get("/set/old.set")
            if base.status != 200:
                return False
            found[:] = [load(base.body, delta, issuer=self.old.certificate, verify=verify_signature)]
            return until(found[0])

        self.get("/set/old-delta.set", looked)
        return found[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("import"))
    site.take_over()
    with Service(site.installation) as service:
        site.service = service
        yield site


def test_nothing_is_served_before_it_is_finished(site: Site) -> None:
    assert "unauthorized" in site.ocsp(site.leaves[GOOD], wait=False)
    assert site.service is not None
    assert site.service.get("/crl/old/1.crl").status == 503
    assert site.service.get("/set/old.set").status == 404
    report = [orjson.loads(line) for line in (site.directory / "report").read_bytes().splitlines()]
    assert [line["result"] for line in report] == ["accepted"] * 4 + ["refused"]
    site.run("import", "finish", "old")


def test_ocsp_tells_of_imported_certificates(site: Site) -> None:
    assert ": good" in site.ocsp(site.leaves[GOOD])
    assert ": good" in site.ocsp(site.leaves[ENCRYPTION])
    revoked = site.ocsp(site.leaves[REVOKED])
    assert ": revoked" in revoked
    assert "keyCompromise" in revoked
    assert ": revoked" in site.ocsp(site.old.leaf(LOST)), "a serial that only the old CRL knew"
    assert ": unknown" in site.ocsp(site.old.leaf(0xBEEF))


def test_the_crl_goes_on_above_the_old_one(site: Site) -> None:
    crl = site.get("/crl/old/1.crl", lambda body: True)
    openssl.verify_signed(crl, site.old.certificate)
    text = openssl.crl_text(crl)
    assert f"{CRL_NUMBER + 1}" in text.split("CRL Number:")[1].split("\n")[1]
    assert f"URI:{CRL_URL}" in text, "the address that its certificates name"
    assert text.count("Serial Number:") == 2
    assert f"{REVOKED:X}" in text
    assert f"{LOST:X}" in text


def test_the_status_set_tells_of_certificates_without_an_index(site: Site) -> None:
    loaded = site.set(lambda found: found.contents.imports is not None)
    assert loaded.query(site.leaves[GOOD]).status is Status.GOOD
    assert loaded.query(site.leaves[REVOKED]).status is Status.REVOKED
    assert loaded.query(site.old.leaf(LOST, begins_ms=site.old.now_ms - 100 * DAY_MS)).status is Status.REVOKED
    newer = site.old.leaf(0xBEEF, begins_ms=site.old.now_ms)
    assert loaded.query(newer).status is Status.NOT_COVERED, "issued after the cutoff"


def test_what_changes_here_shows_everywhere(site: Site) -> None:
    before = site.set(lambda found: found.contents.imports is not None)
    site.run("revoke", f"{LATER:x}", "--reason", "superseded", "--authority", "old")
    assert ": revoked" in site.ocsp(site.leaves[LATER])
    after = site.set(lambda found: found.query(site.leaves[LATER]).status is Status.REVOKED)
    assert after.query(site.leaves[GOOD]).status is Status.GOOD
    assert before.contents.imports is not None
    assert after.contents.imports is not None
    assert after.contents.imports.salt == before.contents.imports.salt, "by a delta, not a new set"
    crl = site.get("/crl/old/1.crl", lambda body: f"{LATER:X}" in openssl.crl_text(body))
    openssl.verify_signed(crl, site.old.certificate)
    assert "the counters are what the rows say" in site.run("stats", "check").stdout


def test_it_goes_on_after_a_kill_with_nothing_twice(site: Site) -> None:
    count = 4_500
    path = pem_file(site.directory / "year.pem", (site.old.leaf(0x10_0000 + n, name="年") for n in range(count)))
    report, store = site.directory / "year.jsonl", site.installation.directory / "store.sqlite3"
    command = [QIANYAN, "import", "certificates", "old", path, "--report", report, "--config", site.installation.config]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ)) as running:
        deadline = time.monotonic() + PATIENCE_S
        while _position(store) == 0:
            assert running.poll() is None, running.stderr
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert 0 < _position(store) < count, "it was killed on the way"
    with report.open("ab") as file:
        file.write(b'{"a line whose chunk did not commit')
    ran = site.run("import", "certificates", "old", path, "--report", report, "--json")
    assert (ran.json["state"], ran.json["accepted"], ran.json["known"]) == ("done", count, 0)
    lines = [orjson.loads(line) for line in report.read_bytes().splitlines()]
    assert [line["item"] for line in lines] == list(range(count))
    with sqlite3.connect(store) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT serial) FROM certificates WHERE status_index < 0")
        assert found.fetchone() == (count + 5, count + 5)


def _position(store: Path) -> int:
    with sqlite3.connect(store) as connection:
        return int(
            connection.execute("SELECT coalesce(max(position), 0) FROM imports WHERE state = 'running'").fetchone()[0]
        )


def test_an_authority_may_bring_its_status_alone(site: Site) -> None:
    other = OldAuthority(site.old.now_ms)
    site.run("import", "ca", "status-only", "--certificate", site.file("other.pem", other.certificate))
    leaves = [other.leaf(0xC1), other.leaf(0xC2)]
    site.run("import", "certificates", "status-only", pem_file(site.directory / "c.pem", leaves))
    site.run("import", "crl", "status-only", site.file("c.crl", other.crl([(0xC2, KEY, site.then)], number=1)))
    crls = {
        name: site.file(f"{name}.crl", other.crl(listed, number=number, this_ms=site.old.now_ms - age_ms))
        for name, listed, number, age_ms in (("newer", [], 3, 30_000), ("older", [(0xC1, HOLD, site.then)], 2, 45_000))
    }
    (said,) = site.run("import", "crl", "status-only", crls["newer"], "--json", status=3).json
    assert said["unlisted"] == {"revoked": 1, "held": 0, "undated": 0}, "it stays revoked, and that is told"
    site.run("import", "crl", "status-only", crls["older"], status=1)
    report = site.directory / "older.jsonl"
    ran = site.run("import", "crl", "status-only", crls["older"], "--allow-older", "--report", report, status=3)
    assert "1 revoked, 0 on hold" in ran.stderr
    assert [orjson.loads(line)["result"] for line in report.read_bytes().splitlines()] == ["accepted", "unlisted"]
    site.run("resume", f"{0xC1:x}", "--authority", "status-only")
    request = site.directory / "ocsp.csr"
    site.run("import", "ocsp-request", "status-only", "--out", request)
    openssl.verify_csr(request.read_bytes())
    point = _point_of(request.read_bytes())
    site.run("import", "ocsp-certificate", "status-only", site.file("w.der", other.leaf(0xC8, point=point)), status=1)
    site.run("import", "ocsp-certificate", "status-only", site.file("o.der", other.ocsp_signer(0xC9, point)))
    site.run("import", "finish", "status-only")
    assert ": good" in site.ocsp(leaves[0], other)
    assert ": revoked" in site.ocsp(leaves[1], other)
    shown = site.run("import", "status", "status-only", "--json").json
    assert shown["finished"]
    assert {"address": CRL_URL, "served_at": "/crl/status-only/1.crl"} in shown["crls"]


def _point_of(request: bytes) -> bytes:
    """The public key of a PKCS#10 request."""
    body = der.Reader(request).enter(der.SEQUENCE).enter(der.SEQUENCE)
    body.take_tlv()  # version
    body.take_tlv()  # subject
    return public_key_from_spki(body.take_tlv())


def test_an_authority_whose_key_is_in_a_device(site: Site) -> None:
    other = OldAuthority(site.old.now_ms, key=site.device_key)
    ca = site.file("device.pem", other.certificate)
    wrong = site.file("wrong.pem", OldAuthority(site.old.now_ms).certificate)
    site.run("import", "ca", "in-device", "--certificate", wrong, "--device-index", str(INDEX), status=1)
    site.run("import", "ca", "in-device", "--certificate", ca, "--key-id", "in-device")
    site.run("import", "certificates", "in-device", pem_file(site.directory / "d.pem", [other.leaf(0xD1)]))
    site.run("import", "finish", "in-device", "--without-crl")
    assert ": good" in site.ocsp(other.leaf(0xD1), other, nonce=True), "signed in batches, by the hot path"
    crl = site.get("/crl/in-device/1.crl", lambda body: True)
    openssl.verify_signed(crl, other.certificate)


def test_statistics_are_told_over_http_and_by_command(site: Site) -> None:
    assert site.service is not None
    asked = "/v1/statistics?by=authority,province,usage&authority=old&period=year"
    answer = site.service.call("GET", asked)
    assert answer.status == 200, answer.body
    issued = sum(row["issued"] for row in answer.json["business"] if row["province"] == "广东省")
    states = {(row["province"], row["usage"]): row for row in answer.json["states"]}
    assert issued >= 4
    assert states["广东省", "sign"]["revoked"] == 2
    assert states["广东省", "encrypt"]["good"] == 1
    table = site.service.call("GET", f"{asked}&format=csv&report=states")
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert table.body.decode().splitlines()[0] == "authority,province,usage,good,held,revoked,expired"
    for query, field in (
        ("by=colour", "by"),
        ("from=2026-02-30", "from"),
        ("colour=red", "colour"),
        ("format=x", "format"),
    ):
        refused = site.service.call("GET", f"/v1/statistics?{query}")
        assert (refused.status, refused.json["field"]) == (400, field), query
    assert site.service.call("GET", "/v1/statistics", token="").status == 401
    shown = site.run("stats", "show", "--by", "authority", "--authority", "old", "--json").json
    assert [row["authority"] for row in shown["states"]] == ["old"]
    assert "广东省" in site.run("stats", "show", "--by", "region", "--csv").stdout
    site.run("stats", "rebuild")
    assert site.service.call("GET", asked).json["states"] == answer.json["states"]


def test_the_record_is_archived_and_leaves_the_store_by_command(site: Site) -> None:
    site.run("audit", "checkpoint")
    archive = site.directory / "archive"
    site.run("audit", "export", "--out", archive)
    assert site.run("audit", "prune", "--archive", archive, "--days", "0", "--json").json["removed"] == 0, (
        "no whole tile"
    )
    files = site.run("audit", "retention", archive, "--json").json
    assert sum(one["rows"] for one in files) >= 20
    assert not any(one["over"] for one in files)
    site.run("audit", "verify", "--archive", archive)
    found = CliRunner().invoke(
        cli, ["audit", "search", "--archive", str(archive), "--action", "import.finish", "--json"]
    )
    assert len(orjson.loads(found.stdout)) >= 1
