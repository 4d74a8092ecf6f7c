"""Fixtures that several parts of the tests share."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

import pytest
import structlog

from tests import warm
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service

warm.enabled = True

#: Files that take long, the longest first (seconds on two processors of their own, roughly): they are given out before
#: all others, so that at the end no process waits for another that has just begun one of them.
LONG: Final[Mapping[str, int]] = {
    "native/test_ctime.py": 100,
    "native/test_c_core.py": 80,
    "test_status_faults.py": 50,
    "native/test_sanitizers.py": 45,
    "test_wheel.py": 40,
    "test_hsm_maintenance.py": 40,
    "test_service_workers.py": 40,
    "test_load_running.py": 40,
    "fuzz/test_fuzz.py": 35,
    "test_core_store_postgres_service.py": 35,
    "test_native_backends.py": 30,
    "native/test_dudect.py": 30,
    "test_service_durability.py": 30,
    "native/test_aarch64.py": 25,
    "test_sources.py": 25,
    "test_service_slow_clients.py": 25,
    "test_load_driver.py": 23,
    "test_deploy_restore.py": 20,
    "test_wire_same.py": 20,
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first; otherwise the order is as it was. xdist gives files out in this order."""
    here = os.path.dirname(__file__)
    items.sort(key=lambda item: -LONG.get(os.path.relpath(item.path, here), 0))


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that is run in this process sets logging up for it: the next test finds it as it was."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def bouncycastle() -> Iterator[BouncyCastle]:
    """The Java judge, started once; an error naming the Debian package where Java or a jar is missing."""
    with BouncyCastle() as judge:
        yield judge


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service that tests may use together: each issues certificates of its own and leaves the rest alone."""
    with Service(Installation(tmp_path_factory.mktemp("service") / "var").init()) as running:
        yield running
