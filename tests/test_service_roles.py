"""Workers with a listener each (server.private_workers): who answers what, and settings that leave one unserved."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.caller_world import SIGN, command, make_token
from tests.running import Installation, Service


class TwoWorkers(Service):
    """`qianyan serve --workers 2`."""

    arguments = ("--workers", "2")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker for each listener."""
    installation = Installation(tmp_path_factory.mktemp("roles") / "var").made()
    installation.set("server", "private_workers = 1")
    with TwoWorkers(installation) as running:
        yield running


def test_each_worker_serves_its_listener_alone(service: Service) -> None:
    for _ in range(30):
        assert service.call("POST", "/v1/sign", SIGN).status == 200
        assert service.get("/healthz").status == 200
    token = make_token(service.installation, "scraper", "--scope", "metrics")
    text = service.call("GET", "/metrics", token=token).body.decode()
    found = re.findall(r"^qianyan_http_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE)
    served: dict[str, set[str]] = {"public": set(), "private": set()}
    for labels, value in found:
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if float(value):
            served[named["listener"]].add(named["worker"])
    assert served == {"private": {"0"}, "public": {"1"}}


def test_one_worker_must_be_left_for_the_public(service: Service) -> None:
    assert service.stop() == 0
    ran = command(service.installation, "serve")
    assert ran.status != 0
    assert "serve --workers 2" in ran.stderr
