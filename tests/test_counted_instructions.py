"""A small set of operations never takes more instructions than the limits in the tree: exact where times are not."""

from __future__ import annotations

import pytest

from tests.bench.counted import __main__ as counted


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    return counted.count()


NAMES = [*counted.OPERATIONS, *(counted.KERNELS if counted.accelerated() else ())]


def test_every_operation_has_a_limit(counts: dict[str, int]) -> None:
    assert set(counted.read_limits()) == set(counts) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_operation_takes_more_instructions(counts: dict[str, int], name: str) -> None:
    limit = counted.read_limits()[name]
    assert counts[name] <= limit, "where that is meant: python -m tests.bench.counted --write"


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_what_is_counted(counts: dict[str, int], name: str) -> None:
    """What has become faster gets a limit that keeps it so; and none can be written so high that it never holds."""
    # Compared with the limit: another compiler's room is in it.
    assert counts[name] >= counted.read_limits()[name] * 0.6, "lower it: python -m tests.bench.counted --write"
