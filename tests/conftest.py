"""Fixtures that several parts of the tests share."""

from collections.abc import Iterator

import pytest
import structlog

from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service


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
