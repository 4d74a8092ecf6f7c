"""The commands for keys, against a service that runs: limits, callers, decryption, backup and restore."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli import cli
from signer._native import sm2
from tests.running import Answer, Installation, Service

DIGEST = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("keys") / "var").made()


@pytest.fixture(scope="module")
def service(installation: Installation) -> Iterator[Service]:
    with Service(installation) as service:
        yield service


def command(installation: Installation, *arguments: str | Path) -> str:
    """What a command prints; run in this process, which is quicker, against the service in its own."""
    ran = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(installation.config)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def json_of(installation: Installation, *arguments: str | Path) -> Any:
    """What a command prints for machines."""
    return json.loads(command(installation, *arguments, "--json"))


def refusal(installation: Installation, *arguments: str | Path) -> str:
    """What a command says is wrong."""
    ran = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(installation.config)])
    assert ran.exit_code in (1, 2), (arguments, ran.output)
    return str(ran.output + getattr(ran.exception, "detail", ""))


def sign(service: Service, key: str, **more: Any) -> Answer:
    return service.call("POST", "/v1/sign", {"key": key, "digest": DIGEST, **more})


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


def test_limits_and_callers_are_obeyed_by_a_running_service(installation: Installation, service: Service) -> None:
    wanted = ("--caller", "other", "--max-uses", "2", "--hours", "daily 00:00-24:00 UTC")
    made = json_of(installation, "key", "create", "office", *wanted)
    assert made["callers"] == ["token:other"]
    assert (made["purpose"], made["max_rate"], made["max_uses"]) == ("data", None, 2)
    assert refused(sign(service, "office")) == (403, "key_caller")
    allowed = json_of(installation, "key", "allow", "office", "demo")
    assert allowed["callers"] == ["token:demo", "token:other"]
    assert [sign(service, "office").status for _ in range(2)] == [200, 200]
    assert refused(sign(service, "office")) == (422, "key_count")
    shown = json_of(installation, "key", "show", "office")
    assert (shown["uses"]["allotted"], shown["max_uses"]) == (2, 2)
    changed = json_of(installation, "key", "limit", "office", "--no-uses", "--max-rate", "1")
    assert (changed["max_uses"], changed["max_rate"], changed["hours"]) == (None, 1, "daily 00:00-24:00 UTC")
    answers = [sign(service, "office")]
    while answers[-1].status == 200:
        answers.append(sign(service, "office"))
    assert refused(answers[-1]) == (429, "key_rate")
    assert answers[-1].headers["Retry-After"] == "1"
    command(installation, "key", "deny", "office", "token:demo")
    assert refused(sign(service, "office")) == (403, "key_caller")
    text = command(installation, "key", "show", "office")
    assert "1 a second" in text
    assert "token:other" in text


WRONG_CALLS = [
    (["create", "x"], "--caller"),
    (["create", "x", "--caller", "*", "--purpose", "certificate"], "certificate"),
    (["create", "x", "--caller", "*", "--purpose", "seal"], "names its callers"),
    (["create", "x", "--caller", "a", "--hours", "sometimes"], "hours"),
    (["limit", "demo"], "at least one"),
    (["limit", "demo", "--max-rate", "1", "--no-rate"], "exclude"),
    (["limit", "issuing", "--max-rate", "1"], "own"),
    (["deny", "demo", "somebody"], "not among the callers"),
    (["show", "none"], "no key"),
    (["backup", "--out", "b", "--shares", "3", "--threshold", "2"], "--share-dir"),
    (
        ["backup", "--out", "b", "--shares", "2", "--threshold", "2", "--share-file", "a", "--share-file", "a"],
        "different",
    ),
]


def test_wrong_calls_say_what_is_wrong(installation: Installation) -> None:
    for arguments, said in WRONG_CALLS:
        assert said in refusal(installation, "key", *arguments)


def test_an_encryption_key_decrypts_over_http(installation: Installation, service: Service) -> None:
    made = json_of(installation, "key", "create", "sealed", "--purpose", "encrypt", "--caller", "*")
    public = sm2.PublicKey.from_bytes(bytes.fromhex(made["public_key"]))
    sealed = base64.b64encode(public.encrypt(b"secret text")).decode()
    answer = service.call("POST", "/v1/decrypt", {"key": "sealed", "ciphertext": sealed})
    assert answer.status == 200, answer.body
    assert base64.b64decode(answer.json["plaintext"]) == b"secret text"
    assert refused(sign(service, "sealed")) == (422, "key_purpose")
    assert refused(service.call("POST", "/v1/decrypt", {"key": "demo", "ciphertext": sealed})) == (422, "key_purpose")
    answer = service.call("POST", "/v1/decrypt", {"key": "sealed", "ciphertext": sealed}, token="wrong")
    assert answer.status == 401
    assert "secret text" not in "".join(service.log)


def test_backup_and_restore(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    safe, shares = tmp_path / "backup.json", tmp_path / "shares"
    shares.mkdir()
    backup = ("key", "backup", "--out", safe, "--shares", "3", "--threshold", "2", "--share-dir", shares)
    made = json_of(installation, *backup)
    assert {"demo", "kmc-master"} <= set(made["keys"])
    paths = [Path(path) for path in made["shares"]]
    assert [path.stat().st_mode & 0o777 for path in (*paths, safe)] == [0o600] * 4
    assert "nothing was written" in refusal(installation, *backup)
    keys = installation.directory / "keys"
    before = {path.name: path.stat().st_ino for path in keys.iterdir()}
    for name in ("demo", "kmc-master"):
        (keys / f"{name}.pem").unlink()
    assert "1 more" in refusal(installation, "key", "restore", safe, "--share", paths[0])
    assert not (keys / "demo.pem").exists()
    restored = json_of(installation, "key", "restore", safe, "--share", paths[2], "--share", paths[0])
    assert {name for name, outcome in restored["keys"].items() if outcome == "restored"} == {"demo", "kmc-master"}
    after = {path.name: path.stat().st_ino for path in keys.iterdir()}
    kept = set(before) - {"demo.pem", "kmc-master.pem"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}, "working files are left alone"
    with Service(installation) as service:
        assert sign(service, "demo").status == 200
    command(installation, "audit", "verify")
