"""Checking, repairing and loading a directory; the commands; a bucket."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from click.testing import CliRunner

from core.model import RevocationReason, serial_to_hex
from core.store import certificates, outbox
from core.store.database import Database
from service.cli import cli
from status.directory.check import Checker
from status.directory.drive import drive
from status.directory.ldif import LdifExport
from tests.directory_world import (
    PATIENCE_S,
    SUFFIX,
    Holders,
    Slapd,
    caught_up,
    directory_settings,
    new_service,
    publishing,
    until,
)
from tests.judges import openssl
from tests.running import Installation, Service, free_port
from tests.store_world import new_store


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    server = Slapd().start()
    yield server
    server.remove()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await new_store(tmp_path)
    yield opened
    await opened.close()


async def test_a_check_finds_whatever_differs_and_has_it_repaired(slapd: Slapd, database: Database) -> None:
    base = f"ou=checked,{SUFFIX}"
    holders = await Holders(database).begin()
    target = slapd.target(base, expired="remove")
    service = new_service(database, directory_settings(target))
    made = await holders.issue(6)
    ended = await holders.issue(2, ends_in_ms=2_000)
    await holders.publish_crl(3)
    async with publishing(service):
        await caught_up(service)
    good = await Checker(service, target, repair=False).run()
    assert (good.good, good.in_directory - len(ended), good.others) == (True, 6, 3) or good.differences

    dn = {der: f"cn={serial_to_hex(serial)},ou=certificates,{base}" for serial, der in made}
    slapd.modify(f"dn: {dn[made[0][1]]}\nchangetype: delete\n")
    slapd.modify(f"dn: {dn[made[1][1]]}\nchangetype: modify\ndelete: qianyanSerial\n")
    slapd.modify(f"dn: cn=issuing-0,ou=crls,{base}\nchangetype: delete\n")
    foreign = holders.certify(99, holders.issuer, holders.root)
    stray = f"cn=stray,ou=certificates,{base}"
    slapd.modify(
        f"dn: {stray}\nchangetype: add\nobjectClass: qianyanEntry\nobjectClass: pkiUser\n"
        f"objectClass: qianyanCertified\nuserCertificate;binary:: {as_base64(foreign)}\n"
    )
    async with database.write() as connection:  # revoked, and nobody told the publisher
        record = await certificates.find(connection, made[2][0])
        await certificates.revoke(connection, record, RevocationReason.KEY_COMPROMISE, at_ms=record.issued_at_ms)

    async def expired() -> bool:
        return all(
            end[0]
            for end in [(await Checker(service, target, repair=False).run(),)]
            if end[0].differences["revoked"] == 3
        )

    report = await Checker(service, target, repair=False).run()
    assert report.differences["missing"] == 1
    assert report.differences["orphan"] == 1
    assert report.differences["wrong"] == 2
    assert report.differences["revoked"] >= 1

    async def all_expired() -> bool:
        return (await Checker(service, target, repair=False).run()).differences["revoked"] == 3

    await until(all_expired, "what has expired is not found")
    assert not (await Checker(service, target, repair=True).run()).good
    await drive(service, target)
    final = await Checker(service, target, repair=False).run()
    assert final.good, final.examples
    assert slapd.certificates(base) == {der for serial, der in made if serial != made[2][0]}
    assert stray not in slapd.search(base)


def as_base64(data: bytes) -> str:
    """On one line."""
    return base64.b64encode(data).decode()


async def test_ldif_fills_an_empty_server_and_publication_goes_on_from_there(
    database: Database, tmp_path: Path
) -> None:
    server = Slapd().start()
    try:
        holders = await Holders(database).begin()
        target = server.target(f"ou=ldif,{SUFFIX}")
        service = new_service(database, directory_settings(target))
        made = await holders.issue(20, subject={"C": "CN", "O": "某, 公司", "CN": "#奇怪的;名字"})
        await holders.publish_crl(2)
        file = tmp_path / "all.ldif"
        with file.open("w") as opened:
            export = LdifExport(database, target, service.clock, opened, suffix=SUFFIX)
            position = await export.write()
        async with database.read() as connection:
            assert position == await outbox.head(connection)
        server.kill()
        server.empty()
        slapadd(server, file)
        server.start()
        assert server.certificates(target.base) == {der for _, der in made}
        later = await holders.issue(1)
        async with publishing(service):
            await caught_up(service)
            (standing,) = await service.status()
        assert standing.target is not None
        assert standing.target.position > position
        assert server.certificates(target.base) == {der for _, der in made + later}
        assert (await Checker(service, target, repair=False).run()).good
    finally:
        server.remove()


def slapadd(server: Slapd, file: Path) -> None:
    """As docs/directory.md says."""
    done = subprocess.run(
        ["/usr/sbin/slapadd", "-q", "-f", server.directory / "slapd.conf", "-b", SUFFIX, "-l", file],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def command(installation: Installation, *arguments: str) -> tuple[int, Any]:
    """(exit status, what it printed as JSON)."""
    ran = CliRunner().invoke(
        cli, ["directory", *arguments, "--json", "--config", str(installation.config)], catch_exceptions=False
    )
    return ran.exit_code, json.loads(ran.stdout)


def test_an_installation_publishes_what_it_issues_by_command(slapd: Slapd, tmp_path: Path) -> None:
    base = f"ou=commands,{SUFFIX}"
    installation = Installation(tmp_path / "here").made()
    text = installation.config.read_text()
    installation.config.write_text(
        f'{text}\n[[directory.targets]]\nname = "main"\nurl = "{slapd.url}"\nbase = "{base}"\n'
        f'bind_dn = "cn=publisher,{SUFFIX}"\npassword_file = "{slapd.password_file}"\n'
    )
    status, rows = command(installation, "status")
    assert (status, rows[0]["position"]) == (3, None), "what was issued is not there yet"
    status, loaded = command(installation, "load")
    assert (status, loaded["refused"]) == (0, 0)
    assert slapd.search(base, "(cACertificate=*)"), "both authorities are there"
    status, rows = command(installation, "status")
    assert (status, rows[0]["pending"], rows[0]["trouble"]) == (0, 0, None)
    (first, *_) = slapd.search(base, "(cACertificate=*)")
    slapd.modify(f"dn: {first}\nchangetype: delete\n")
    status, found = command(installation, "check")
    assert (status, found["differences"]) == (3, {"wrong": 1})
    status, found = command(installation, "check", "--repair")
    assert (status, found["repaired"]) == (0, True)
    assert command(installation, "check")[0] == 0
    assert command(installation, "retry")[1]["tried"] == 0
    published_by_the_service(installation, slapd, base)
    slapd.modify(
        f"dn: cn=qianyan publication,{base}\nchangetype: modify\nreplace: qianyanTarget\nqianyanTarget: another\n"
    )
    assert command(installation, "load", "--take-over")[1]["refused"] == 0
    file = tmp_path / "all.ldif"
    status, written = command(installation, "load", "--ldif", str(file))
    assert (status, written["refused"]) == (0, 0)
    assert file.read_text().count("cACertificate;binary::") == 2
    assert command(installation, "forget", "main") == (0, {"forgotten": "main"})


def published_by_the_service(installation: Installation, slapd: Slapd, base: str) -> None:
    """What a running service issues and revokes, and its own CRLs, come to the directory by themselves."""
    with Service(installation) as service:
        request = openssl.make_csr(openssl.make_key(), "/C=CN/O=Somewhere/CN=Someone")
        issued = service.issue(request)

        def found() -> set[bytes]:
            return slapd.certificates(base)

        wait_until(lambda: found() == set(issued.certificates.values()))
        answer = service.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "key_compromise"})
        assert answer.status == 200, answer.body
        wait_until(lambda: not found())
        wait_until(lambda: served(service) in crls(slapd, base))
        metrics = service.call("GET", "/metrics").body.decode()
        assert 'qianyan_directory_delay_seconds_count{change="revocation",target="main"}' in metrics
        assert 'qianyan_directory_leading{target="main"} 1.0' in metrics


def served(service: Service) -> bytes:
    """The issuing authority's CRL over HTTP."""
    return service.get("/crl/issuing/0.crl").body


def crls(slapd: Slapd, base: str) -> list[bytes]:
    """Every CRL in the directory."""
    entries = slapd.search(base, "(objectClass=cRLDistributionPoint)").values()
    return [value for entry in entries for value in entry.get("certificateRevocationList;binary", [])]


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """(endpoint, client) of an S3-compatible service with one bucket."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="publisher",
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 20, "mode": "standard"}),
        )
        client.create_bucket(Bucket="certificates")
        yield endpoint, client
    finally:
        server.kill()
        server.wait()


async def test_lists_and_authorities_are_put_into_a_bucket(
    bucket: tuple[str, Any], database: Database, tmp_path: Path
) -> None:
    endpoint, client = bucket
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    store = {"name": "bucket", "endpoint": endpoint, "bucket": "certificates", "access_key_id": "publisher",
             "secret_key_file": str(secret)}  # fmt: skip
    holders = await Holders(database).begin(partitions=2)
    service = new_service(database, directory_settings(objects=[store]))
    await holders.publish_crl(4)

    def read(name: str) -> tuple[bytes, str]:
        found = client.get_object(Bucket="certificates", Key=name)
        return found["Body"].read(), found["ContentType"]

    async with publishing(service):
        await caught_up(service)
        await holders.issue()
        full, delta = await holders.publish_crl(5, delta_of=4)
        other, _ = await holders.publish_crl(1, partition=1)
        await caught_up(service)
        assert read("crl/issuing/0.crl") == (full, "application/pkix-crl")
        assert read("crl/issuing/0-delta.crl")[0] == delta
        assert read("crl/issuing/1.crl")[0] == other
        assert read("ca/issuing.cer") == (holders.certificate, "application/pkix-cert")
        client.put_object(Bucket="certificates", Key="crl/issuing/1.crl", Body=full)
        await holders.publish_crl(2, partition=1)
        await caught_up(service)
        (standing,) = await service.status()
    assert standing.refused == 1, "a newer list is not written over"
    assert read("crl/issuing/1.crl")[0] == full
