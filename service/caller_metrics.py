"""Metrics by caller. Labels are the ids of registered callers, never what a client sends, and bounded in number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, Metric

from service.guesses import Guesses

if TYPE_CHECKING:
    from service.callers import Account

#: Callers past this number are summed up as one.
_CALLERS_MAX: Final = 1_000
_REST: Final = "others"


class CallerMetrics:
    """A collector over the accounts as they are when scraped."""

    def __init__(self, accounts: Mapping[str, Account], guesses: Guesses) -> None:
        self._accounts = accounts
        self._guesses = guesses

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        requests: Counter[str] = Counter()
        signatures: Counter[str] = Counter()
        refused: Counter[tuple[str, str]] = Counter()
        for index, (caller_id, account) in enumerate(self._accounts.items()):
            label = caller_id if index < _CALLERS_MAX else _REST
            requests[label] += account.requests
            signatures[label] += account.signatures
            for code, count in account.refused.items():
                refused[label, code] += count
        family = CounterMetricFamily("qianyan_caller_requests", "Requests admitted, by caller", labels=["caller"])
        for label, count in requests.items():
            family.add_metric([label], count)
        yield family
        family = CounterMetricFamily(
            "qianyan_caller_signatures", "Signatures asked for within the limits, by caller", labels=["caller"]
        )
        for label, count in signatures.items():
            family.add_metric([label], count)
        yield family
        family = CounterMetricFamily(
            "qianyan_caller_refused", "Requests refused for a caller's limits", labels=["caller", "code"]
        )
        for (label, code), count in refused.items():
            family.add_metric([label, code], count)
        yield family
        family = CounterMetricFamily(
            "qianyan_credentials_refused", "Tokens and certificates that were not good", labels=["code"]
        )
        for code, count in self._guesses.failures.items():
            family.add_metric([code], count)
        yield family
        yield CounterMetricFamily(
            "qianyan_credentials_throttled",
            "Of these, answered 429 because the address had sent too many",
            value=self._guesses.throttled,
        )
