"""The whole service on PostgreSQL: made, served by two workers, a certificate's life, and a store moved there."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import postgres
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service
from tests.test_service_workers import Workers, until

SUBJECT = "C=CN,O=省政务服务中心,CN=测试单位"


def empty_database() -> str:
    """The URL of a database with nothing in it."""
    return asyncio.run(postgres.shared().new_database(empty=True))


def count(url: str, table: str) -> int:
    """How many rows a table has."""
    return int(asyncio.run(postgres.shared().execute(f"SELECT count(*) FROM {table}", url.rsplit("/", 1)[1])))


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Two workers on a PostgreSQL store."""
    with Workers(Installation(tmp_path / "var").init("--store-url", empty_database())) as running:
        yield running


def revoked_and_good(service: Service, bouncycastle: BouncyCastle) -> None:
    """Issues, reads `good` on every worker, revokes, reads `revoked` on every worker."""
    issued = service.issue(bouncycastle.make_csr(SUBJECT).der)
    request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)
    serial = int(issued.serials["sign"], 16)

    def states() -> set[str]:
        return {bouncycastle.check_ocsp(service.ocsp(request).body, issued.chain[0], serial).status for _ in range(16)}

    until(lambda: states() == {"good"}, "a worker does not say good")
    answer = service.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "key_compromise"})
    assert answer.status == 200
    until(lambda: states() == {"revoked"}, "a worker does not say revoked")
    for _ in range(3):
        assert states() == {"revoked"}


def test_the_main_job(workers: Workers, bouncycastle: BouncyCastle) -> None:
    assert not (workers.installation.directory / "store.sqlite3").exists()
    revoked_and_good(workers, bouncycastle)
    digest = base64.b64encode(bytes(32)).decode()
    assert workers.call("POST", "/v1/sign", {"key": "demo", "digest": digest}).status == 200
    assert workers.installation.run("key", "freeze", "demo").status == 0
    for _ in range(8):
        assert workers.call("POST", "/v1/sign", {"key": "demo", "digest": digest}).status == 422
    assert workers.get("/readyz").status == 200
    assert workers.installation.run("audit", "verify").status == 0
    found = workers.installation.run("store", "check", "--json").json
    assert found["faults"] == []
    assert found["rows"]["certificates"] >= 5
    ahead = re.compile(rb'^qianyan_store_partition_years_ahead(?:\{[^}]*worker="0"[^}]*\})? 3\.0$', re.MULTILINE)
    until(lambda: ahead.search(workers.call("GET", "/metrics").body) is not None, "no room was made ahead")
    years = workers.installation.run("store", "partitions", "--json").json["years"]
    this_year = datetime.now(UTC).year
    assert {this_year, this_year + 3} <= {one["year"] for one in years if one["attached"]}


def test_a_store_moves_from_sqlite(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    installation = Installation(tmp_path / "var").made()
    csr = tmp_path / "csr.der"
    csr.write_bytes(bouncycastle.make_csr(SUBJECT).der)
    made = installation.run("issue", "--csr", csr, "--profile", "organisation", "--out-dir", tmp_path / "out", "--json")
    assert made.status == 0, made.stderr
    before = installation.run("store", "check", "--json").json
    url = empty_database()
    copied = installation.run("store", "copy", "--to", url, "--json")
    assert copied.status == 0, copied.stderr
    assert copied.json == before
    again = installation.run("store", "copy", "--to", url)
    assert again.status == 1
    assert "not empty" in again.stderr
    installation.set("store", f'url = "{url}"')
    (installation.directory / "store.sqlite3").unlink()
    assert installation.run("store", "check", "--json").json == before
    with Service(installation) as service:
        revoked_and_good(service, bouncycastle)


def test_what_an_init_refuses(tmp_path: Path) -> None:
    directory = tmp_path / "var"
    url = empty_database()
    for bad, said in (
        (url.replace("qianyan@", "qianyan:hunter2@"), "password_file"),
        ("mysql://x/y", "postgresql"),
        (url.replace(url.rsplit("/", 1)[1], "nowhere"), "nowhere"),
    ):
        with pytest.raises(AssertionError, match=said) as refused:
            Installation(tmp_path / said).init("--store-url", bad)
        assert "hunter2" not in str(refused.value)
    Installation(directory).init("--store-url", url)
    with pytest.raises(AssertionError, match="there is a store"):
        Installation(tmp_path / "second").init("--store-url", url)
    assert count(url, "authorities") == 2


def test_the_password_is_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").init("--store-url", empty_database())
    (installation.directory / "db-password").write_text("hunter2\n")
    installation.set("store", 'password_file = "db-password"')
    (installation.directory / "db-password").chmod(0o644)
    assert "chmod 600" in installation.run("store", "check").stderr
    (installation.directory / "db-password").chmod(0o600)
    for command in (("store", "check"), ("config", "check", "--json")):
        ran = installation.run(*command)
        assert ran.status == 0, ran.stderr
        assert "hunter2" not in ran.stdout + ran.stderr
