"""The audit record of a running service: its checkpoints, what auditors read over HTTP, proofs and archives."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.checkpoint import Checkpoint
from tests.running import Installation, Ran, Service, qianyan

PATIENCE_S = 60


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that makes a checkpoint every second, and has a withdrawn token on record."""
    installation = Installation(tmp_path_factory.mktemp("audit") / "q").made()
    installation.set("audit", "checkpoint_interval_s = 1")
    with Service(installation) as service:
        yield service


def newest(service: Service, *, at_least: int = 1) -> Checkpoint:
    """The newest checkpoint, once it covers that many rows."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = service.call("GET", "/v1/audit/checkpoint")
        if answer.status == 200 and (found := Checkpoint.decode(answer.body)).size >= at_least:
            return found
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.1)


def ran(service: Service, *arguments: str | Path) -> Ran:
    """A command with the service's settings that must succeed."""
    done = service.installation.run(*arguments)
    assert done.status == 0, done.stderr
    return done


def newest_row(service: Service, action: str) -> dict[str, object]:
    rows = service.call("GET", f"/v1/audit?action={action}&limit=1").json["rows"]
    assert len(rows) == 1
    return dict(rows[0])


def test_what_is_done_is_on_record_and_proved_without_the_store(running: Service, tmp_path: Path) -> None:
    ran(running, "token", "create", "auditor", "--scope", "audit")
    row = newest_row(running, "token.create")
    assert row["subject"] == "auditor"
    seq = int(str(row["seq"]))
    checkpoint = newest(running, at_least=seq)
    proof = running.call("GET", f"/v1/audit/{seq}/proof")
    assert proof.status == 200
    path = tmp_path / "proof.json"
    path.write_bytes(proof.body)
    key = checkpoint.public_key.hex()
    checked = qianyan("audit", "check", path, "--key", key)
    assert checked.status == 0, checked.stderr
    assert '"auditor"' in checked.stdout
    path.write_bytes(proof.body.replace(b"auditor", b"nobody!"))
    forged = qianyan("audit", "check", path, "--key", key, "--json")
    assert (forged.status, forged.json["holds"]) == (3, False)


def test_checkpoints_come_by_themselves_and_only_when_something_happened(running: Service, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = newest(running)
    kept.write_bytes(first.encode())
    ran(running, "token", "create", "second", "--scope", "read")
    later = newest(running, at_least=first.size + 1)
    growth = tmp_path / "growth.json"
    ran(running, "audit", "prove", "--since-checkpoint", kept, "--out", growth)
    assert qianyan("audit", "check", growth, "--key", later.public_key.hex()).status == 0
    verified = ran(running, "audit", "verify", "--checkpoint", kept, "--json").json
    assert verified["whole"] is True
    assert verified["checkpoints"] >= 3


def test_only_auditors_read(running: Service) -> None:
    token = ran(running, "token", "create", "third", "--scope", "sign", "--json").json["token"]
    for path in ("/v1/audit", "/v1/audit/checkpoint", "/v1/audit/1/proof"):
        assert running.call("GET", path, token=token).status == 403
        assert running.call("GET", path, token="").status == 401
    assert running.call("GET", "/v1/audit?colour=red").json["code"] == "query"
    assert running.call("GET", "/v1/audit?limit=x").json["code"] == "query"
    assert running.call("GET", "/v1/audit/999999999/proof").json["code"] == "audit_seq"


def test_an_archive_is_checked_and_searched_without_the_store(running: Service, tmp_path: Path) -> None:
    out = tmp_path / "archive"
    checkpoint = newest(running)
    written = ran(running, "audit", "export", "--out", out, "--json").json
    assert written["rows"] >= checkpoint.size
    key = checkpoint.public_key.hex()
    assert qianyan("audit", "check-archive", out, "--key", key, "--json").json["whole"] is True
    found = qianyan("audit", "search", out, "--action", "key.", "--json").json
    assert {row["action"] for row in found} >= {"key.create"}
    shown = ran(running, "audit", "show", "--action", "key.", "--json").json
    assert [row["seq"] for row in found] == sorted(row["seq"] for row in shown)[: len(found)]
    file = out / written["files"][0]
    file.write_bytes(file.read_bytes().replace(b"key.create", b"key.delete"))
    assert qianyan("audit", "check-archive", out, "--key", key).status == 3


def test_a_record_changed_behind_the_services_back_shows(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "q").made()
    made = installation.run("audit", "checkpoint", "--out", tmp_path / "kept", "--json")
    assert made.status == 0, made.stderr
    with sqlite3.connect(installation.directory / "store.sqlite3") as store:
        store.execute("DELETE FROM audit WHERE seq >= ?", (made.json["size"],))
        store.execute("DELETE FROM audit_checkpoints")
        store.execute("UPDATE counters SET value = (SELECT max(seq) FROM audit) WHERE name = 'audit'")
    store.close()
    assert installation.run("audit", "verify").status == 0  # the store alone cannot tell
    found = installation.run("audit", "verify", "--checkpoint", tmp_path / "kept", "--json")
    assert found.status == 3
    assert "cut off" in json.loads(found.stdout)["problem"]
