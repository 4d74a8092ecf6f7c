"""Authorities of OpenSSL and of BouncyCastle are taken over, on both databases: OCSP, CRL and status set tell of each
certificate what the old authority's books say, and go on above its numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from qianyan_status import Status, StatusSet, load
from service.cli import cli
from signer.engine.verify import verify_signature
from tests import postgres
from tests.foreign_authorities import (
    CRL_NUMBER,
    CRL_URL,
    ENCRYPTION,
    GOOD,
    HELD,
    LATER,
    LOST,
    REVOKED,
    UNKNOWN,
    BouncyCastleAuthority,
    Foreign,
    OpenSslAuthority,
)
from tests.import_world import pem_file
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service
from tests.store_world import BACKENDS

PATIENCE_S = 120


@dataclass
class Moved:
    """An authority with all that it issued; LOST's certificate is not handed over, UNKNOWN's neither."""

    foreign: Foreign
    leaves: dict[int, bytes] = field(default_factory=dict)
    crl: bytes = field(init=False)

    def __post_init__(self) -> None:
        begins = datetime.now(UTC).replace(microsecond=0) - timedelta(days=50)
        for serial in (GOOD, REVOKED, HELD, ENCRYPTION, LOST, UNKNOWN):
            self.leaves[serial] = self.foreign.leaf(serial, begins, encrypts=serial == ENCRYPTION)
        self.leaves[LATER] = self.foreign.leaf(LATER, begins + timedelta(days=1))
        self.crl = self.foreign.crl()

    def take_over(self, directory: Path, config: Path) -> None:
        """The commands of docs/import.md."""
        name = self.foreign.name
        files = {"ca.der": self.foreign.certificate, "key.pem": self.foreign.key_pem, "all.crl": self.crl}
        paths = {file: directory / f"{name}-{file}" for file in files}
        for file, content in files.items():
            paths[file].write_bytes(content)
            paths[file].chmod(0o600)
        handed = [self.leaves[serial] for serial in (GOOD, REVOKED, HELD, ENCRYPTION)]
        issued = pem_file(directory / f"{name}.pem", handed)
        for command in (
            ["ca", name, "--certificate", paths["ca.der"], "--key", paths["key.pem"]],
            ["certificates", name, issued],
            ["crl", name, paths["all.crl"]],
            ["finish", name],
        ):
            told = ["import", *map(str, command), "--config", str(config)]
            done = CliRunner().invoke(cli, told)
            assert done.exit_code == 0, (done.output, done.exception)


@dataclass
class Site:
    """A service on one database, with both authorities."""

    service: Service
    moved: dict[str, Moved]

    def ocsp(self, moved: Moved, serial: int) -> str:
        """What OpenSSL reads of the answer, its signature checked, when there is one about certificates."""
        issuer = moved.foreign.certificate
        request = openssl.make_ocsp_request(issuer, moved.leaves[serial])
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.service.ocsp(request)
            try:
                openssl.verify_ocsp(answer.body, issuer)
                return openssl.ocsp_text(answer.body)
            except openssl.Refused as refused:
                said = str(refused)
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def get(self, path: str) -> bytes:
        """A download, when it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self.service.get(path)).status != 200:
            assert time.monotonic() < deadline, (path, answer.status)
            time.sleep(0.1)
        return answer.body

    def set(self, moved: Moved) -> StatusSet:
        """The status set, when it tells of what was imported."""
        name, deadline = moved.foreign.name, time.monotonic() + PATIENCE_S
        while True:
            found = load(
                self.get(f"/set/{name}.set"),
                self.get(f"/set/{name}-delta.set"),
                issuer=moved.foreign.certificate,
                verify=verify_signature,
            )
            if found.contents.imports is not None:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory, bouncycastle: BouncyCastle) -> dict[str, Moved]:
    directory = tmp_path_factory.mktemp("authorities")
    both: list[Foreign] = [OpenSslAuthority(directory / "openssl"), BouncyCastleAuthority(bouncycastle)]
    return {foreign.name: Moved(foreign) for foreign in both}


@pytest.fixture(scope="module", params=BACKENDS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authorities: dict[str, Moved]
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("foreign")
    installation = Installation(directory / "here")
    if request.param == "postgres":
        installation.init("--store-url", asyncio.run(postgres.shared().new_database(empty=True)))
    else:
        installation.made()
    for one in authorities.values():
        one.take_over(directory, installation.config)
    with Service(installation) as service:
        yield Site(service, authorities)


@pytest.fixture(params=["from-openssl", "from-bouncycastle"])
def moved(request: pytest.FixtureRequest, site: Site) -> Moved:
    return site.moved[request.param]


def test_ocsp(site: Site, moved: Moved) -> None:
    for serial, said in (
        (GOOD, ["good"]),
        (ENCRYPTION, ["good"]),
        (REVOKED, ["revoked", "keyCompromise"]),
        (HELD, ["revoked", "certificateHold"]),
        (LOST, ["revoked", "keyCompromise"]),
        (UNKNOWN, ["unknown"]),
        (LATER, ["unknown"]),
    ):
        text = site.ocsp(moved, serial)
        assert f"Cert Status: {said[0]}" in text, (f"{serial:x}", text)
        assert all(word in text for word in said)


def test_crl(site: Site, moved: Moved) -> None:
    crl = site.get(f"/crl/{moved.foreign.name}/1.crl")
    openssl.verify_signed(crl, moved.foreign.certificate)
    text = openssl.crl_text(crl)
    number = text.split("CRL Number:")[1].split("\n")[1].strip()
    assert int(number, 0) > CRL_NUMBER
    assert f"URI:{CRL_URL.format(name=moved.foreign.name)}" in text
    listed = {line.split(":")[1].strip() for line in text.splitlines() if "Serial Number:" in line}
    assert {int(serial, 16) for serial in listed} == {REVOKED, HELD, LOST}
    assert text.count("Key Compromise") == 2
    assert text.count("Certificate Hold") == 1


def test_status_set(site: Site, moved: Moved) -> None:
    loaded = site.set(moved)
    assert loaded.contents.imports is not None
    assert loaded.contents.imports.count == 5, "with the one that only the CRL knew"
    for serial, status, on_hold in (
        (GOOD, Status.GOOD, False),
        (ENCRYPTION, Status.GOOD, False),
        (REVOKED, Status.REVOKED, False),
        (HELD, Status.REVOKED, True),
        (LOST, Status.REVOKED, False),
        (LATER, Status.NOT_COVERED, False),
    ):
        answer = loaded.query(moved.leaves[serial])
        assert (answer.status, answer.on_hold) == (status, on_hold), f"{serial:x}"
