"""Slows whoever guesses: credentials that were not good, by source address.

Owns a bounded table of addresses (an IPv6 caller is its /64). Past the burst, an address is told to come back later,
and what it sends is not answered as a guess any more. A credential that is good is admitted all the same: many callers
may stand behind one address, and a guess at 256 random bits that is right by luck does not happen. Failures are summed
up for the audit record, so that a flood of them fills neither memory nor the store.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from typing import Final

from core.errors import Busy, Denied

#: Addresses that are kept; past it the one that failed longest ago is forgotten.
_ADDRESSES_MAX: Final = 10_000
#: Rows of the audit record an interval; the rest are one row.
_ROWS_MAX: Final = 100
#: What the sum of the rest is called.
OTHERS: Final = "others"


class Guesses:
    """See the module. `per_minute` failures are answered as such, `burst` of them at once."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._interval_s = 60.0 / per_minute
        self._burst_s = burst * self._interval_s
        self._until_s: OrderedDict[str, float] = OrderedDict()
        self._failed: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[str] = Counter()
        self.throttled = 0

    def failed(self, address: str | None, error: Denied) -> Denied | Busy:
        """Notes a credential that was not good and returns what to raise: the error, or Busy (code "guessing")."""
        source = _source(address)
        self.failures[error.code] += 1
        key = (source, error.code)
        if key in self._failed or len(self._failed) < _ADDRESSES_MAX:
            self._failed[key] += 1
        else:
            self._failed[OTHERS, error.code] += 1
        now = time.monotonic()
        until = max(self._until_s.pop(source, 0.0), now)
        over_s = until + self._interval_s - now - self._burst_s
        self._until_s[source] = until if over_s > 0 else until + self._interval_s
        if len(self._until_s) > _ADDRESSES_MAX:
            self._until_s.popitem(last=False)
        if over_s <= 0:
            return error
        self.throttled += 1
        return Busy(
            "too many credentials from this address were not good", code="guessing", retry_after_s=int(over_s) + 1
        )

    def take_failures(self) -> list[tuple[str, str, int]]:
        """(address, code, count) since the last time, the most frequent first, bounded; for the audit record."""
        failed, self._failed = self._failed, Counter()
        rows = [(source, code, count) for (source, code), count in failed.most_common()]
        rest: Counter[str] = Counter()
        for _, code, count in rows[_ROWS_MAX:]:
            rest[code] += count
        return rows[:_ROWS_MAX] + [(OTHERS, code, count) for code, count in rest.items()]

    def put_back(self, rows: list[tuple[str, str, int]]) -> None:
        """What could not be recorded is there for the next time."""
        for source, code, count in rows:
            self._failed[source, code] += count


def _source(address: str | None) -> str:
    """The address, an IPv6 one by its /64: whoever has one has them all."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "local"  # a Unix socket
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
