"""Drain and resume by command and over HTTP, on a service with several workers; what of it survives a worker's end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from signer._native import sm2
from tests.hsm_world import INDEX, make_devices, until
from tests.running import Answer, Installation, Service
from tests.softsdf import SoftDevice

WORKERS = 2
SESSIONS = 2


class Workers(Service):
    """A service of several workers."""

    arguments = ("--workers", str(WORKERS))

    def sign(self, digests: bytes) -> Answer:
        """The call for volume, on a connection of its own."""
        headers = {"Authorization": f"Bearer {self.installation.token}", "Content-Type": "application/octet-stream"}
        return self.request("POST", self.private + "/v1/keys/seal/sign", digests, headers)


@dataclass
class Site:
    installation: Installation
    devices: list[SoftDevice]
    key: sm2.PrivateKey
    service: Workers

    def status(self) -> dict[str, Any]:
        """As the service itself tells, by device."""
        answer = self.service.call("GET", "/v1/hsm")
        assert answer.status == 200, answer.body
        return {one["device"]: one for one in answer.json["devices"]}

    def states(self, device: str) -> list[str]:
        return [worker["state"] for worker in self.status()[device]["workers"]]

    def sign(self, rounds: int = 10) -> None:
        """Signs on whichever worker the connection comes to, and verifies."""
        for _ in range(rounds):
            digests = os.urandom(32 * 8)
            answer = self.service.sign(digests)
            assert answer.status == 200, answer.body
            assert sm2.verify_many(self.key.public_key, digests, answer.body) == b"\1" * 8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tmp_path = tmp_path_factory.mktemp("hsm")
    installation = Installation(tmp_path / "var").made()
    key = sm2.PrivateKey.generate()
    devices = make_devices(tmp_path, 2, key)
    tables = "\n".join(
        f'[[hsm.devices]]\nname = "d{number}"\nlibrary = "{device.library}"' for number, device in enumerate(devices)
    )
    with installation.config.open("a") as file:
        file.write(
            f'\n[hsm]\npassword_file = "{tmp_path / "password"}"\nsessions_per_device = {SESSIONS}\n\n{tables}\n'
        )
    made = installation.run("key", "create", "seal", "--caller", "*", "--device-index", str(INDEX))
    assert made.status == 0, made.stderr
    with Workers(installation) as service:
        found = Site(installation, devices, key, service)
        until(lambda: found.states("d0") == found.states("d1") == ["in_service"] * WORKERS)
        yield found


def test_a_drained_device_is_left_alone_by_every_worker_until_it_is_resumed(site: Site) -> None:
    ran = site.installation.run("hsm", "drain", "d0", "--json")
    assert ran.status == 0, ran.stderr
    assert ran.json["complete"] is True
    assert [one["state"] for one in ran.json["workers"]] == ["drained"] * WORKERS
    assert (site.devices[0]["sessions_open"], site.devices[0]["devices_open"]) == (0, 0)
    made = site.devices[0]["signatures"]
    site.sign()
    assert site.devices[0]["signatures"] == made

    lonely = site.installation.run("hsm", "drain", "d1")
    assert lonely.status == 1
    assert "no device is left" in lonely.stderr
    assert site.states("d1") == ["in_service"] * WORKERS

    _lose_a_worker(site)
    assert site.devices[0]["sessions_open"] == 0, "a new worker obeys from its start"
    site.sign()

    ran = site.installation.run("hsm", "resume", "d0")
    assert ran.status == 0, ran.stderr
    assert site.devices[0]["sessions_open"] == WORKERS * SESSIONS
    until(lambda: (site.sign(5), site.devices[0]["signatures"] > made + 2 * WORKERS)[1])


def _lose_a_worker(site: Site) -> None:
    """Kills a worker and returns when its place is taken by one that reports."""
    before = {one["worker"] for one in site.status()["d0"]["workers"]}
    victim = sorted(before)[0]
    os.kill(int(victim.split(":")[1]), signal.SIGKILL)
    until(lambda: {one["worker"] for one in site.status()["d0"]["workers"]} - before)


def test_over_http_with_a_token_of_scope_operate_and_audited(site: Site) -> None:
    service = site.service
    token = site.installation.run("token", "create", "op", "--scope", "operate").stdout.strip()
    other = site.installation.run("token", "create", "app", "--scope", "metrics").stdout.strip()

    def call(method: str, path: str, body: Any = None, value: str = token) -> Any:
        return service.call(method, path, body, token=value)

    assert call("POST", "/v1/hsm/d0/drain", value=other).status == 403
    assert call("GET", "/v1/hsm", value=other).status == 403
    answer = call("POST", "/v1/hsm/d0/drain", {"wait_s": 60})
    assert answer.status == 200, answer.body
    assert answer.json["wanted"] == "drained"
    assert answer.json["ordered_by"] == "token:op"
    assert site.devices[0]["sessions_open"] == 0
    refused = call("POST", "/v1/hsm/d1/drain")
    assert (refused.status, refused.json["code"]) == (422, "hsm_last")
    assert call("POST", "/v1/hsm/d7/drain").json["code"] == "hsm_device"
    assert call("POST", "/v1/hsm/d0/drain", {"forced": True}).status == 400
    site.sign()

    (site.devices[0].directory / "sign-1.key").unlink()
    answer = call("POST", "/v1/hsm/d0/resume", {"wait_s": 60})
    assert answer.status == 202, answer.body
    assert [one["refused_keys"] for one in answer.json["workers"]] == [[INDEX]] * WORKERS
    assert all("index 1" in one["trouble"] for one in answer.json["workers"])
    site.devices[0].put_key(INDEX, site.key)
    assert call("POST", "/v1/hsm/d0/resume", {"wait_s": 60}).status == 200
    listed = call("GET", "/v1/hsm").json["devices"]
    assert [(one["device"], one["wanted"], one["complete"]) for one in listed] == [
        ("d0", "in_service", True),
        ("d1", "in_service", True),
    ]
    assert site.installation.run("audit", "verify").status == 0


def test_without_a_service_the_order_waits_for_the_next_one(site: Site) -> None:
    assert site.service.stop() == 0
    ran = site.installation.run("hsm", "status", "--json")
    assert ran.status == 0, ran.stderr
    assert [(one["device"], one["workers"]) for one in ran.json] == [("d0", []), ("d1", [])]
    ran = site.installation.run("hsm", "drain", "d0")
    assert ran.status == 0, ran.stderr
    assert "no service is running" in ran.stdout
    missing = site.installation.run("hsm", "drain", "d9")
    assert missing.status == 1
    assert "d0, d1" in missing.stderr
    site.service.start()
    until(lambda: site.states("d0") == ["drained"] * WORKERS)
    assert site.devices[0]["devices_open"] == 0
    until(lambda: site.status()["d1"]["complete"])
