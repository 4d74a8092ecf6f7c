"""Fixtures that several parts of the tests share."""

from collections.abc import Iterator

import pytest

from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service


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
