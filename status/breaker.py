"""A circuit breaker: stops asking what does not answer, and finds out now and then whether it does again.

closed: asked. open: not asked until a time that grows with each failed trial. half-open: one trial is under way, all
others are not asked. Owns its state; knows no network. Only the event-loop thread touches it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Literal

State = Literal["closed", "half_open", "open"]

_MAX_WAIT_S: Final = 30.0


class Breaker:
    """See the module. `monotonic`: seconds on a clock that never goes back; `changed(state)` is told of each change."""

    def __init__(
        self, *, failures: int, retry_s: float, monotonic: Callable[[], float], changed: Callable[[State], None]
    ) -> None:
        self._failures_to_open = failures
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._changed = changed
        self._failures = 0
        self._wait_s = retry_s
        self._until = 0.0
        self.state: State = "closed"

    @property
    def closed(self) -> bool:
        """Whether everything may be asked."""
        return self.state == "closed"

    @property
    def wait_s(self) -> float:
        """How long until it may be tried again."""
        return max(0.0, self._until - self._monotonic())

    def open_now(self) -> None:
        """Not asked until a trial, which may come at once."""
        self._set("open")

    def allows(self) -> bool:
        """Whether to ask now; where the answer is yes, `succeeded` or `failed` must follow."""
        if self.state == "closed":
            return True
        if self.state == "open" and self._monotonic() >= self._until:
            self._set("half_open")
            return True
        return False

    def succeeded(self) -> None:
        """What was asked answered. What was asked before it opened proves nothing any more."""
        if self.state == "open":
            return
        self._failures = 0
        self._wait_s = self._retry_s
        if self.state != "closed":
            self._set("closed")

    def failed(self) -> None:
        """What was asked did not answer, or not in time."""
        self._failures += 1
        if self.state == "closed" and self._failures < self._failures_to_open:
            return
        if self.state == "half_open":
            self._wait_s = min(2 * self._wait_s, _MAX_WAIT_S)
        # Up to a fifth more, so that the workers of a node do not all try at once.
        self._until = self._monotonic() + self._wait_s * (1 + secrets.randbelow(200) / 1000)
        if self.state != "open":
            self._set("open")

    def _set(self, state: State) -> None:
        self.state = state
        self._changed(state)
