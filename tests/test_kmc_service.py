"""Two services: one has its encryption keys from the other, whose master key is in a hardware module."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli import cli
from signer._native import sm2
from tests.hsm_world import make_devices
from tests.issuance_support import Request
from tests.judges.bouncycastle import BouncyCastle
from tests.kmc_world import Party, public_key_of, public_key_of_request, scalar_of
from tests.running import Installation, Service

KEK = bytes(range(16))


def run(installation: Installation, *arguments: str | Path) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(cli, [*map(str, arguments), "--config", str(installation.config)])


def done(installation: Installation, *arguments: str | Path) -> str:
    result = run(installation, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def identity(installation: Installation) -> Path:
    """Gives the installation the key "kmc" with a certificate, for CA-KM messages; returns the certificate's file."""
    directory = installation.directory
    csr = directory / "kmc.csr"
    assert getattr(run(installation, "kmc", "request", "--cn", "x", "--out", csr).exception, "code", "") == "kmc_off"
    installation.set("kmc", 'key = "kmc"')
    done(installation, "kmc", "request", "--cn", "密钥管理", "--out", csr)
    certificate = directory / "kmc.der"
    certificate.write_bytes(Party("密钥管理", certified=public_key_of_request(csr.read_bytes())).certificate)
    done(installation, "key", "service", "kmc", "--certificate", certificate)
    return certificate


class Between:
    """Passes messages on to the centre; before it passes an answer back, it does what it was told to."""

    def __init__(self) -> None:
        self.url = ""
        self.answered: Callable[[], None] = lambda: None
        self.count = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {"Authorization": self.headers["Authorization"], "Content-Type": self.headers["Content-Type"]}
                with urllib.request.urlopen(urllib.request.Request(outer.url, body, headers), timeout=60) as answer:
                    content = answer.read()
                outer.count += 1
                outer.answered()
                with contextlib.suppress(OSError):  # who asked may be dead by now
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@dataclass
class Pair:
    """The installations, the centre as a running service, and what is between them."""

    km: Installation
    ca: Installation
    centre: Service
    between: Between


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    km, ca = Installation(directory / "km").init(), Installation(directory / "ca").init()
    (device,) = make_devices(directory, 1, sm2.PrivateKey.generate())
    device.put_kek(3, KEK)
    with km.config.open("a") as file:
        file.write(f'\n[hsm]\npassword_file = "{directory / "password"}"\n\n')
        file.write(f'[[hsm.devices]]\nname = "d0"\nlibrary = "{device.library}"\n')
    km_certificate, ca_certificate = identity(km), identity(ca)
    km.set("kmc", 'master = "hsm"')
    km.set("kmc", "master_kek_index = 3")
    with pytest.raises(AssertionError, match="qianyan kmc master create"):
        Service(km).start()
    missing = run(km, "kmc", "master", "create", "--kek-index", "5")
    assert "no key-encryption key at index 5" in str(missing.exception)
    assert json.loads(done(km, "kmc", "master", "create", "--json"))["kek_index"] == 3
    done(km, "kmc", "ca", "add", "yue", "--certificate", ca_certificate)
    between = Between()
    token = ca.directory / "km-token"
    token.write_text(km.token + "\n")
    token.chmod(0o600)
    with ca.config.open("a") as file:
        file.write(
            f'\n[[kmc.centres]]\nname = "km"\nauthorities = ["issuing"]\nurl = "http://127.0.0.1:{between.port}/v1/kmc"\n'
            f'certificate = "{km_certificate}"\ntoken_file = "km-token"\ntimeout_s = 30\n'
        )
    with Service(km) as centre:
        between.url = f"{centre.private}/v1/kmc"
        yield Pair(km, ca, centre, between)
    between.server.shutdown()
    between.server.server_close()


@pytest.fixture(scope="module")
def judge() -> BouncyCastle:
    return BouncyCastle()


def counts(installation: Installation) -> dict[str, dict[str, dict[str, int]]]:
    value: dict[str, dict[str, dict[str, int]]] = json.loads(done(installation, "kmc", "status", "--json"))
    return value


def test_killed_between_the_centres_answer_and_its_own(pair: Pair, judge: BouncyCastle) -> None:
    """`kill -9` once the centre has made the key; the same request later gets that key."""
    request = Request()
    csr = request.encode()
    service = Service(pair.ca)
    service.start()
    pair.between.answered = service.kill
    with pytest.raises(OSError):  # noqa: PT011 - whatever a connection to a dead process gives
        service.issue(csr, "organisation", Idempotency_Key="killed")
    pair.between.answered = lambda: None
    assert counts(pair.km)["served"] == {"yue": {"in_use": 1, "history": 0}}
    assert counts(pair.ca)["centres"] == {"km": {"asked": 1}}
    with Service(pair.ca) as again:
        issued = again.issue(csr, "organisation", Idempotency_Key="killed")
        assert issued.enveloped_key is not None
        opened = judge.open_enveloped_key(scalar_of(request.key), issued.enveloped_key)
        public = sm2.PrivateKey.from_bytes(opened.private).public_key.to_bytes()
        assert public == public_key_of(issued.certificates["encrypt"])
        assert counts(pair.km)["served"] == {"yue": {"in_use": 1, "history": 0}}, "no second key"
        asked = pair.between.count
        same = again.issue(csr, "organisation", Idempotency_Key="killed")
        assert (same.value, pair.between.count) == (issued.value, asked)
        metrics = again.call("GET", "/metrics").body.decode()
        assert 'qianyan_kmc_centre_calls_total{centre="km",outcome="ok"} 1.0' in metrics
        assert 'qianyan_kmc_centre_open{centre="km"} 0.0' in metrics
    served = pair.centre.call("GET", "/metrics").body.decode()
    assert 'qianyan_kmc_messages_total{outcome="repeated"} 1.0' in served
    assert 'qianyan_kmc_requests_total{kind="apply",outcome="ok"} 1.0' in served


def test_the_listener_asks_for_the_scope(pair: Pair) -> None:
    made = json.loads(done(pair.km, "token", "create", "signer", "--scope", "sign", "--json"))
    assert pair.centre.request("POST", f"{pair.centre.private}/v1/kmc", b"0").status == 401
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert pair.centre.request("POST", f"{pair.centre.private}/v1/kmc", b"0", bearer).status == 403
    bearer = {"Authorization": f"Bearer {pair.km.token}"}
    too_long = pair.centre.request("POST", f"{pair.centre.private}/v1/kmc", bytes(300_000), bearer)
    assert too_long.status == 413
    answer = pair.centre.request("POST", f"{pair.centre.private}/v1/kmc", b"0", bearer)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")


def test_commands_for_authorities(pair: Pair) -> None:
    certificate = pair.ca.directory / "kmc.der"
    twice = run(pair.km, "kmc", "ca", "add", "yue", "--certificate", certificate)
    assert getattr(twice.exception, "code", None) == "kmc_ca_exists"
    unknown = run(pair.km, "kmc", "ca", "withdraw", "nobody")
    assert getattr(unknown.exception, "code", None) == "kmc_ca_unknown"
    done(pair.km, "kmc", "ca", "withdraw", "yue")
    assert json.loads(done(pair.km, "kmc", "ca", "list", "--json"))[0]["withdrawn"] is True
    assert "withdrawn" in done(pair.km, "kmc", "ca", "list")
    done(pair.km, "kmc", "ca", "admit", "yue")
    done(pair.km, "kmc", "ca", "replace", "yue", "--certificate", certificate)
    assert "for yue: 1 in use, 0 history" in done(pair.km, "kmc", "status")
    assert "at km: 1 used" in done(pair.ca, "kmc", "status")


def test_everything_is_brought_under_the_modules_key(pair: Pair) -> None:
    shown = json.loads(done(pair.km, "kmc", "master", "status", "--json"))["masters"]
    assert [one["number"] for one in shown] == [0, 1]
    assert shown[1]["values"]["served"] == 1, "the running service wraps in the module"
    value = json.loads(done(pair.km, "kmc", "master", "rewrap", "--json"))
    assert set(value) == {"rewrapped"}
    shown = json.loads(done(pair.km, "kmc", "master", "status", "--json"))["masters"]
    assert set(shown[0]["values"].values()) == {0}
    assert "master" in done(pair.km, "kmc", "master", "status")
