"""The clock, as a value that is handed in.

Owns the one reading of the system's time. Everything else takes a `Clock`, so that tests and simulations set it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

#: Milliseconds since 1970-01-01T00:00:00Z.
Clock = Callable[[], int]


def system_clock() -> int:
    """Milliseconds since the epoch, by the operating system."""
    return time.time_ns() // 1_000_000


def to_datetime(at_ms: int) -> datetime:
    """The aware UTC time of `at_ms`, cut to whole seconds (X.509 knows no fractions, RFC 5280 §4.1.2.5)."""
    return datetime.fromtimestamp(at_ms // 1000, UTC)


def from_datetime(at: datetime) -> int:
    """Milliseconds since the epoch of an aware time."""
    return round(at.timestamp() * 1000)


def rfc3339(at_ms: int) -> str:
    """`2026-11-20T06:37:47Z`, or with milliseconds where there are any."""
    text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")
