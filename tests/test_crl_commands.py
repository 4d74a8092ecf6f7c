"""Partitions, deltas and files of a running service, by its commands and from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from core.asn1 import names
from service.holder import build_request
from signer._native import sm2
from tests.crl_world import listed
from tests.running import Installation, Service, qianyan


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that writes files, too."""
    installation = Installation(tmp_path_factory.mktemp("crl") / "var").made()
    installation.set("crl", 'directory = "www"')
    installation.set("crl", "debounce_s = 0.2")
    with Service(installation) as service:
        yield service


def issue(service: Service, name: str) -> tuple[str, x509.Certificate]:
    """(serial, signing certificate)"""
    subject = names.build_name({"C": "CN", "O": "单位", "CN": name}).public_bytes()
    issued = service.issue(build_request(sm2.PrivateKey.generate(), subject))
    return issued.serials["sign"], x509.load_der_x509_certificate(issued.certificates["sign"])


def url_of(certificate: x509.Certificate) -> str:
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name is not None
    return str(points[0].full_name[0].value)


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, when that is true."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in a minute"
        time.sleep(0.05)
    return found


def test_from_one_partition_to_three_and_back(running: Service, tmp_path: Path) -> None:
    installation = running.installation
    public = f"http://127.0.0.1:{installation.public_port}"
    issuer = tmp_path / "issuing.cer"
    issuer.write_bytes(running.get("/ca/issuing.cer").body)
    first_serial, first = issue(running, "一")
    assert url_of(first) == f"{public}/crl/issuing/0.crl"
    listing = installation.run("ca", "partitions", "issuing", "3", "--json").json
    assert [(row["partition"], row["open"]) for row in listing] == [(0, True), (1, True), (2, True)]
    wanted = {f"{public}/crl/issuing/{n}.crl" for n in range(3)}
    seen: set[str] = set()
    while seen != wanted:
        seen.add(url_of(issue(running, f"{len(seen)}")[1]))
        assert seen <= wanted
    until(lambda: all(running.get(f"/crl/issuing/{n}.crl").status == 200 for n in range(3)))

    revoked = installation.run("revoke", first_serial, "--reason", "superseded")
    assert revoked.status == 0, revoked.stderr
    serial = int(first_serial, 16)
    until(lambda: serial in listed(running.get("/crl/issuing/0.crl").body))
    assert serial in listed(running.get("/crl/issuing/0-delta.crl").body)
    urls = [f"{public}/crl/issuing/{n}.crl" for n in range(3)]
    checked = qianyan("crl", "check", *urls, "--issuer", issuer, "--json")
    assert checked.status == 0, checked.stdout
    assert {(row["url"].rpartition("/")[2], row["kind"]) for row in checked.json} >= {
        ("0.crl", "full"),
        ("0-delta.crl", "delta"),
        ("2.crl", "full"),
    }

    closed = installation.run("ca", "partitions", "issuing", "1", "--json").json
    assert [(row["partition"], row["open"]) for row in closed] == [(0, True), (1, False), (2, False)]
    assert {url_of(issue(running, f"后{n}")[1]) for n in range(5)} == {f"{public}/crl/issuing/0.crl"}
    status = installation.run("crl", "status", "--json").json
    assert {(row["authority"], row["partition"]) for row in status} >= {("issuing", n) for n in range(3)}
    assert all(row["number"] >= 1 and not row["late"] and row["builder"] for row in status)

    www = installation.directory / "www"
    path = www / "crl" / "issuing" / "0.crl"
    until(lambda: path.exists() and serial in listed(path.read_bytes()))
    assert (www / "ca" / "issuing.cer").read_bytes() == issuer.read_bytes()
    assert (www / "crl" / "root" / "0.crl").exists()
    assert running.get("/readyz").status == 200


def test_wrong_calls_say_what_is_wrong(running: Service) -> None:
    unknown = running.installation.run("ca", "partitions", "nobody", "2")
    assert (unknown.status, "there is no authority 'nobody'" in unknown.stderr) == (1, True)
    assert running.installation.run("ca", "partitions", "issuing", "0").status == 2
