"""How many requests of one address that fail to authenticate are put on record, so that nobody fills that by guessing.

Those that do authenticate are never held up by others that come from their address: a proxy's, for example.

A bucket an address (of IPv6 a /64: whoever has one address has them all), filled at a steady rate. Owns the counts of
this process; knows no requests.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

from core.clock import Clock
from core.errors import Busy

_SOURCES_MAX: Final = 10_000
_MINUTE_MS: Final = 60_000


class Attempts:
    """See the module. `per_minute`: the rate, and how many at once."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, source: str) -> None:
        """Counts one that did not authenticate. Raises Busy (code "refused_too_often") past the rate."""
        source = _bucket(source)
        if self._level(source) + 1 > self._per_minute:
            raise Busy(
                "too many requests from this address did not authenticate; try again later",
                code="refused_too_often",
                retry_after_s=max(1, 60 // self._per_minute),
            )
        self._spent[source] = (self._level(source) + 1, self._clock())
        self._spent.move_to_end(source)
        while len(self._spent) > _SOURCES_MAX:
            self._spent.popitem(last=False)

    def _level(self, source: str) -> float:
        level, at_ms = self._spent.get(source, (0.0, 0))
        drained = max(0, self._clock() - at_ms) * self._per_minute / _MINUTE_MS
        return max(0.0, level - drained)


def _bucket(source: str) -> str:
    try:
        parsed = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source  # a Unix socket
    if not isinstance(parsed, ipaddress.IPv6Address):
        return source
    mapped = parsed.ipv4_mapped
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if mapped is None else str(mapped)
