"""Backups made while the service works, and what is restored from them.

Nothing that was answered before is missing, and nothing that was given out after can be given out again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from core.errors import QianyanError
from service.cli import cli
from tests import postgres
from tests.judges import openssl
from tests.running import Installation, Service, free_port


def command(*arguments: str | Path) -> str:
    """Runs a command in this process: what was wrong, empty where nothing was."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is None:
        assert result.exit_code == 0, result.output
        return ""
    assert isinstance(result.exception, QianyanError), result.exc_info
    return result.exception.detail


def csr(name: str) -> bytes:
    return openssl.make_csr(openssl.make_key(), f"/C=CN/O=Somewhere/CN={name}")


class Work:
    """Issues and signs without a pause; `answered` is what was answered by now."""

    def __init__(self, service: Service, count: int) -> None:
        self._service = service
        self._count = count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered: list[str] = []
        self.failed: list[object] = []

    def _run(self) -> None:
        for number in range(self._count):
            if self._stop.is_set():
                return
            try:
                self.answered.append(self._service.issue(csr(f"holder {number}")).serials["sign"])
                signed = self._service.call("POST", "/v1/sign", {"key": "demo", "data": "AAAA"})
                assert signed.status == 200
            except Exception as error:
                self.failed.append(error)
                return

    def __enter__(self) -> Work:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failed == []

    def at_least(self, count: int) -> None:
        while len(self.answered) < count:
            assert self._thread.is_alive(), self.failed
            threading.Event().wait(0.02)


def stored(serial: str) -> str:
    """A serial as the store has it, in hex."""
    number = int(serial, 16)
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex().upper()


def state(installation: Installation, serial: str) -> str:
    """What the store says of a certificate: good, held, revoked or unknown."""
    found = rows(installation.directory, f"SELECT state FROM certificates WHERE hex(serial) = '{stored(serial)}'")
    return str(found[0][0]) if found else "unknown"


def crl(service: Service) -> bytes:
    answer = service.get("/crl/issuing/0.crl")
    assert answer.status == 200
    return answer.body


def number_of(content: bytes) -> int:
    return x509.load_der_x509_crl(content).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def listed(service: Service, serial: str) -> bool:
    read = x509.load_der_x509_crl(crl(service))
    return read.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None


def until_listed(service: Service, serial: str) -> None:
    for _ in range(1200):
        if listed(service, serial):
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"{serial} is on no CRL")


def rows(directory: Path, statement: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(directory / "store.sqlite3") as connection:
        return connection.execute(statement).fetchall()


def revoke(service: Service, serial: str, reason: str) -> None:
    answer = service.call("POST", f"/v1/certificates/{serial}/revoke", {"reason": reason})
    assert answer.status == 200, answer.body


class Restored(Installation):
    """A copy of a backup, with the passphrase put beside it, on ports of its own."""

    def put(self, backup: Path, passphrase: Path) -> Restored:
        shutil.copytree(backup, self.directory)
        for name in ("passphrase", "demo-token"):
            shutil.copy(passphrase.parent / name, self.directory / name)
        text = self.config.read_text()
        for name, port in (("public", self.public_port), ("private", self.private_port)):
            head, _, rest = text.partition(f"[{name}]")
            lines = [
                f"port = {port}" if line.startswith("port = ") else line for line in rest.split("\n[", 1)[0].split("\n")
            ]
            text = "\n[".join([f"{head}[{name}]" + "\n".join(lines), *rest.split("\n[", 1)[1:]])
        self.config.write_text(text)
        return self


def test_a_store_that_is_older_than_reality_gives_nothing_out_twice(tmp_path: Path) -> None:
    old = Installation(tmp_path / "old").made()
    with Service(old) as service:
        with Work(service, 200) as work:
            work.at_least(5)
            held = work.answered[1]
            revoke(service, held, "certificate_hold")
            before = list(work.answered)
            assert command("store", "backup", "--to", tmp_path / "backups", "--config", old.config) == ""
            work.at_least(len(before) + 3)
        lost_good, lost_revoked = work.answered[-1], work.answered[-2]
        kept = service.issue(csr("kept"))  # somebody has it, and it is given to the restored store
        revoke(service, kept.serials["sign"], "key_compromise")
        for usage, certificate in kept.certificates.items():
            (tmp_path / f"kept-{usage}.cer").write_bytes(certificate)
        revoke(service, before[0], "key_compromise")
        revoke(service, held, "superseded")
        revoke(service, lost_revoked, "key_compromise")
        until_listed(service, lost_revoked)
        until_listed(service, kept.serials["sign"])
        last_crl = crl(service)
        (tmp_path / "last.crl").write_bytes(last_crl)
        service.kill()
    last_set = rows(old.directory, "SELECT max(number) FROM status_sets WHERE authority_id = 'issuing'")[0][0]
    used = set(
        rows(old.directory, "SELECT status_month, status_index FROM certificates WHERE authority_id = 'issuing'")
    )

    (backup,) = list((tmp_path / "backups").iterdir())
    assert command("store", "check-backup", backup) == ""
    assert not list(backup.rglob("passphrase")), "who has the backup alone has no key"
    new = Restored(tmp_path / "new").put(backup, old.directory / "passphrase")
    assert all(state(new, serial) != "unknown" for serial in before), "what was answered before the backup is there"
    assert state(new, before[0]) == "good", "the store is older than reality"

    given = ("--crl", tmp_path / "last.crl", "--certificate", tmp_path / "kept-sign.cer")
    given += ("--certificate", tmp_path / "kept-encrypt.cer")
    too_few = command("store", "restored", *given, "--issued-at-most", "1", "--config", new.config)
    assert "more were issued" in too_few
    assert state(new, kept.serials["sign"]) == "unknown", "all of it or nothing"
    ran = new.run("store", "restored", *given, "--issued-at-most", "5000", "--json")
    assert ran.status == 3, ran.stderr
    found = json.loads(ran.stdout)
    assert lost_revoked in found["unknown"]
    assert found["recorded_again"] == 2
    assert found["revoked_again"] == 6, "both certificates of three holders"
    assert state(new, kept.serials["sign"]) == state(new, kept.serials["encrypt"]) == "revoked"
    assert lost_good not in found["unknown"]
    assert state(new, before[0]) == state(new, held) == "revoked"

    with Service(new) as service:
        assert service.get("/readyz").status == 200
        until_listed(service, before[0])
        assert number_of(crl(service)) > number_of(last_crl) + 900
        entry = x509.load_der_x509_crl(crl(service)).get_revoked_certificate_by_serial_number(int(before[0], 16))
        then = x509.load_der_x509_crl(last_crl).get_revoked_certificate_by_serial_number(int(before[0], 16))
        assert entry is not None
        assert then is not None
        assert entry.revocation_date_utc == then.revocation_date_utc
        issued = service.issue(csr("after")).serials["sign"]
        assert service.call("POST", "/v1/sign", {"key": "demo", "data": "AAAA"}).status == 200
    fresh = set(
        rows(
            new.directory,
            "SELECT status_month, status_index FROM certificates WHERE authority_id = 'issuing' AND"
            f" hex(serial) = '{stored(issued)}'",
        )
    )
    assert fresh
    assert not fresh & used, "a status index was given twice"
    assert rows(new.directory, "SELECT max(number) FROM status_sets WHERE authority_id = 'issuing'")[0][0] > last_set
    assert command("store", "check", "--config", new.config) == ""
    assert command("audit", "verify", "--config", new.config) == ""
    actions = {row[0] for row in rows(new.directory, "SELECT action FROM audit")}
    assert {"store.restored", "store.revoked_again"} <= actions


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("backup") / "var").made()


def test_a_backup_that_was_damaged_is_told(installation: Installation, tmp_path: Path) -> None:
    assert command("store", "backup", "--to", tmp_path, "--config", installation.config) == ""
    (directory,) = list(tmp_path.iterdir())
    assert directory.stat().st_mode & 0o077 == 0
    for path in directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert {"qianyan.toml", "store.sqlite3", "keys", "manifest.json"} == {path.name for path in directory.iterdir()}
    assert command("store", "check-backup", directory) == ""
    key = directory / "keys" / "issuing.pem"
    key.write_bytes(key.read_bytes()[:-1])
    assert "keys/issuing.pem" in command("store", "check-backup", directory)
    key.unlink()
    assert "not a whole backup" in command("store", "check-backup", directory)


def test_a_backup_that_cannot_be_made_leaves_none(installation: Installation, tmp_path: Path) -> None:
    broken = Installation(tmp_path / "broken")
    shutil.copytree(installation.directory, broken.directory)
    content = bytearray((broken.directory / "store.sqlite3").read_bytes())
    content[20_000:40_000] = os.urandom(20_000)
    (broken.directory / "store.sqlite3").write_bytes(content)
    for name in ("store.sqlite3-wal", "store.sqlite3-shm"):
        (broken.directory / name).unlink(missing_ok=True)
    said = command("store", "backup", "--to", tmp_path / "backups", "--config", broken.config)
    assert "not whole" in said or "cannot be backed up" in said
    assert "\n" not in said
    assert list((tmp_path / "backups").iterdir()) == []


def test_old_backups_go_and_unfinished_ones_do_not_count(installation: Installation, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from service.backup import made_in, make_backup
    from service.settings import load

    loaded = load(str(installation.config))
    (tmp_path / "qianyan-20200101T000000Z.unfinished").mkdir()
    for day in range(1, 5):
        make_backup(loaded, tmp_path, keep=2, now=datetime(2026, 1, day, tzinfo=UTC))
    assert sorted(path.name for path in made_in(tmp_path)) == ["qianyan-20260103T000000Z", "qianyan-20260104T000000Z"]
    with pytest.raises(Exception, match="no backup in"):
        make_backup(loaded, tmp_path, now=datetime(2026, 1, 4, tzinfo=UTC))
    assert len(made_in(tmp_path)) == 2


def test_a_crl_of_somebody_else_brings_nothing_back(installation: Installation, tmp_path: Path) -> None:
    other = Installation(tmp_path / "other").init()
    assert command("crl", "build", "--config", other.config) == ""
    with sqlite3.connect(other.directory / "store.sqlite3") as connection:
        (content,) = connection.execute("SELECT crl FROM crls WHERE authority_id = 'issuing' LIMIT 1").fetchone()
    before = rows(installation.directory, "SELECT name, value FROM counters")
    for number, wrong in enumerate((content, b"nothing", content[:-3] + b"abc")):
        (tmp_path / f"{number}.crl").write_bytes(wrong)
        file = tmp_path / f"{number}.crl"
        assert command("store", "restored", "--crl", file, "--config", installation.config) != ""
    assert rows(installation.directory, "SELECT name, value FROM counters") == before, "all of it or nothing"


# ---- PostgreSQL's own means


def run(program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [postgres.BINARIES / program, *arguments],
        user=postgres.USER,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_postgresql_dump_and_base_backup_under_way(tmp_path: Path) -> None:
    server = postgres.shared()
    url = asyncio.run(server.new_database(empty=True))
    name = url.rpartition("/")[2]
    old = Installation(tmp_path / "old").init("--store-url", url)
    where = ["-h", str(server.directory), "-p", str(server.port), "-U", "qianyan"]
    base = None
    try:
        with Service(old) as service, Work(service, 200) as work:
            work.at_least(3)
            dumped = list(work.answered)
            run("pg_dump", *where, "-Fc", "-f", server.directory / "dump", name)
            work.at_least(len(dumped) + 2)
            copied = list(work.answered)
            base = server.replica()  # pg_basebackup -X stream
            assert command("store", "backup", "--to", tmp_path / "backups", "--config", old.config) == ""
            (files,) = list((tmp_path / "backups").iterdir())
            assert not (files / "store.sqlite3").exists()
        other = f"{name}_restored"
        run("createdb", *where, "--template", "template0", other)
        run("pg_restore", *where, "--exit-on-error", "--dbname", other, server.directory / "dump")
        (base.data / "standby.signal").unlink()
        base.start()
        for holder, place, answered in ((server, server.url(other), dumped), (base, base.url(name), copied)):
            new = Restored(tmp_path / f"new-{free_port()}").put(files, old.directory / "passphrase")
            new.config.write_text(new.config.read_text().replace(url, place))
            assert command("store", "check", "--config", new.config) == ""
            wanted = ", ".join(f"'{stored(serial).lower()}'" for serial in answered)
            count = f"SELECT count(*) FROM certificates WHERE state = 'good' AND encode(serial, 'hex') IN ({wanted})"
            assert asyncio.run(holder.execute(count, place.rpartition("/")[2])) == len(answered)
        assert command("store", "restored", "--config", new.config) == ""
        assert asyncio.run(base.execute("SELECT value FROM counters WHERE name = 'crl/issuing/0'", name)) > 1000
        left = asyncio.run(base.execute("SELECT count(*) FROM crls", name))
        assert left == 0, "CRLs from the backup are not served again"
    finally:
        if base is not None:
            base.remove()
