"""The start: what is wrong is said in one line with what to do, and nothing is touched."""

from __future__ import annotations

import hashlib
import re
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from tests.running import Installation, Ran, Service, qianyan


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """One that the tests look at and do not change."""
    return Installation(tmp_path_factory.mktemp("start") / "var").init()


@pytest.fixture
def own(tmp_path: Path) -> Installation:
    """One for a test that changes it."""
    return Installation(tmp_path / "var").made()


def refused(ran: Ran, *words: str) -> None:
    """Exit status not 0, one line on standard error, with these words; nothing else, no traceback."""
    assert ran.status != 0
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("qianyan: ")
    for word in words:
        assert word in ran.stderr, ran.stderr


def test_version_and_help() -> None:
    assert re.fullmatch(r"qianyan \d+\.\d+\.\d+\n", qianyan("--version", cold=True).stdout)
    listing = qianyan("--help", cold=True).stdout
    for command in ("init", "serve", "issue", "revoke", "status", "key", "crl", "ca", "audit", "config", "token"):
        assert command in listing


def test_a_second_init_is_refused_and_changes_nothing(installation: Installation) -> None:
    def digest() -> str:
        state = hashlib.sha256()
        for path in sorted(installation.directory.rglob("*")):
            if path.is_file() and not path.name.startswith("store.sqlite3-"):
                state.update(path.name.encode() + path.read_bytes())
        return state.hexdigest()

    before = digest()
    refused(qianyan("init", "--dir", installation.directory, "--demo"), "holds an installation already")
    assert digest() == before


def test_an_init_that_was_broken_off_is_told_apart(own: Installation) -> None:
    own.config.unlink()
    refused(qianyan("init", "--dir", own.directory, "--demo"), "did not finish", "remove")


def test_files_that_hold_secrets_are_the_owners(installation: Installation) -> None:
    secret = [*(installation.directory / "keys").iterdir()]
    secret += [installation.directory / name for name in ("passphrase", "demo-token", "store.sqlite3")]
    assert len(secret) > 6
    for path in secret:
        assert path.stat().st_mode & 0o077 == 0, path
    assert (installation.directory / "keys").stat().st_mode & 0o077 == 0


def test_no_settings_file(tmp_path: Path) -> None:
    refused(qianyan("serve", "--config", tmp_path / "none.toml"), "qianyan init")


def test_an_unknown_setting(own: Installation) -> None:
    own.set("public", "prot = 80")
    refused(own.run("serve"), "public.prot", "is not known")


def test_a_setting_out_of_range(own: Installation) -> None:
    own.set("public", "port = 70000")
    refused(own.run("config", "check"), "public.port")


def test_a_crl_life_past_a_day(own: Installation) -> None:
    own.set("crl", "life_s = 90000")
    refused(own.run("serve"), "crl")


def test_plain_private_listener_off_the_loopback(own: Installation) -> None:
    own.set("private", 'host = "0.0.0.0"')
    refused(own.run("serve"), "loopback")


def test_a_wrong_passphrase(own: Installation) -> None:
    (own.directory / "passphrase").write_text("wrong\n")
    refused(own.run("serve"), "passphrase")


def test_no_passphrase(own: Installation) -> None:
    own.config.write_text(own.config.read_text().replace('passphrase_file = "passphrase"', ""))
    refused(own.run("serve"), "passphrase", "QIANYAN_PASSPHRASE")
    passphrase = (own.directory / "passphrase").read_text().strip()
    ran = qianyan(
        "key", "create", "second", "--caller=*", "--config", own.config, env={"QIANYAN_PASSPHRASE": passphrase}
    )
    assert ran.status == 0, ran.stderr


def test_a_passphrase_file_that_others_may_read(own: Installation) -> None:
    (own.directory / "passphrase").chmod(0o644)
    refused(own.run("serve"), "chmod 600")


def test_a_damaged_key(own: Installation) -> None:
    key = own.directory / "keys" / "issuing.pem"
    key.write_bytes(key.read_bytes()[:-60] + b"\n-----END ENCRYPTED PRIVATE KEY-----\n")
    refused(own.run("serve"), "issuing")


def test_a_key_file_that_is_gone(own: Installation) -> None:
    (own.directory / "keys" / "issuing.pem").unlink()
    refused(own.run("serve"), "issuing")


def test_a_clock_behind_the_store(own: Installation) -> None:
    ahead_ms = (int(time.time()) + 3600) * 1000
    with sqlite3.connect(own.directory / "store.sqlite3") as connection:
        connection.execute("UPDATE counters SET value = ? WHERE name = 'last_time_ms'", (ahead_ms,))
    refused(own.run("serve"), "clock", "behind")


def test_a_port_that_is_taken(installation: Installation) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", installation.public_port))
        taken.listen()
        ran = installation.run("serve")
    assert ran.status == 1
    assert f"127.0.0.1:{installation.public_port}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_store_of_another_revision(own: Installation) -> None:
    with sqlite3.connect(own.directory / "store.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused(own.run("serve"), "revision 9999")


def test_settings_are_listed_with_their_meaning() -> None:
    rows = qianyan("config", "list", "--json").json
    assert all(row["meaning"] for row in rows), [row["name"] for row in rows if not row["meaning"]]
    assert {"public.port", "crl.life_s", "issuance.public_url"} <= {row["name"] for row in rows}


def test_a_good_installation_checks_out(installation: Installation) -> None:
    checked = installation.run("config", "check", "--json")
    assert checked.status == 0, checked.stderr
    assert checked.json["authorities"] == ["issuing", "root"]


def test_external_root(tmp_path: Path) -> None:
    """`init --external-root` waits: serving says what is missing, and nothing is issued."""
    directory = tmp_path / "var"
    ran = qianyan("init", "--dir", directory, "--demo", "--external-root")
    assert ran.status == 0, ran.stderr
    assert (directory / "issuing.csr.der").read_bytes()[0] == 0x30
    assert "ca install" in ran.stdout
    assert not (directory / "keys" / "root.pem").exists()


def test_ready_when_started(installation: Installation) -> None:
    with Service(installation) as service:
        answer = service.get("/readyz")
        assert answer.status == 200, answer.body
        assert set(answer.json["checks"]) == {"store", "clock", "authorities", "ocsp_signer", "crl", "status_set"}
        assert service.get("/healthz").status == 200
        metrics = service.call("GET", "/metrics")
        assert metrics.status == 200
        assert b"process_resident_memory_bytes" in metrics.body
        assert b"qianyan_crl_seconds_left" in metrics.body
        assert service.get("/metrics").status == 404, "metrics are not for the public listener"
        assert service.stop() == 0
