"""The compiled engine: scenarios of independent calls, prepared beforehand and sent by `_engine.Driver`."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Final

from loadtest._engine import Driver
from loadtest.call import Answer, Call, Listener
from loadtest.plan import Plan
from loadtest.scenarios.base import Single, World
from loadtest.scenarios.catalogue import SCENARIOS
from loadtest.tally import NS, Tally
from loadtest.target import Target, TargetError

#: Requests that are prepared: sent in their order, over and over.
_FEWEST: Final = 1_000
_MOST: Final = 20_000
_LOOK_S: Final = 0.02
_LISTENERS: Final[tuple[Listener, ...]] = ("public", "private")


def prepare(plan: Plan, target: Target) -> list[Call]:
    """Calls as the mix has them, in random order."""
    rng = random.Random(plan.seed)  # noqa: S311 - a load, not a secret
    world = World(target, rng)
    names = list(plan.rates)
    sources = {name: SCENARIOS[name](world) for name in names}
    count = min(_MOST, max(_FEWEST, round(sum(plan.rates.values()) * plan.duration_s)))
    whole = sum(plan.rates.values())
    chosen = [name for name in names for _ in range(max(1, round(count * plan.rates[name] / whole)))]
    rng.shuffle(chosen)
    calls = []
    for name in chosen:
        source = sources[name]
        if not isinstance(source, Single):
            raise TargetError(f"the compiled driver cannot send {name}: its calls depend on one another")
        calls.append(source.call())
    return calls


class NativeEngine:
    """One run. `stop` may be called from a signal handler."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.tally = Tally(plan)
        self._calls = prepare(plan, target)
        listeners = [one for one in _LISTENERS if any(call.listener == one for call in self._calls)]
        for one in listeners:
            if target.url(one).startswith("https"):
                raise TargetError(
                    "the compiled driver speaks plain HTTP: give it the listener behind the TLS terminator, "
                    "or use --engine python"
                )
        requests = [self._encoded(call, target, listeners) for call in self._calls]
        self._driver = Driver(
            self.tally.record,
            plan.schedule(list(plan.rates), seed=plan.seed),
            requests,
            [target.address(one) for one in listeners],
            connections=plan.connections,
            timeout_s=plan.timeout_s,
            sample_every=0 if plan.sample <= 0 else max(1, round(1 / plan.sample)),
            closed=plan.closed,
        )
        self._error: OSError | None = None

    def _encoded(
        self, call: Call, target: Target, listeners: list[Listener]
    ) -> tuple[bytes, int, int, int, int, int, int, int]:
        host, port = target.address(call.listener)
        octets, body_at = call.encode(f"{host}:{port}", f"Bearer {target.token}")
        offset, length = call.patch
        kind, listener = self.tally.number(call.kind), listeners.index(call.listener)
        return octets, body_at + offset if length else 0, length, *call.size, kind, listener, call.status

    def _drive(self) -> None:
        try:
            self._driver.run()
        except OSError as error:
            self._error = error

    def run(self) -> None:
        """Blocks to the end; judges the sampled answers meanwhile. Raises OSError."""
        thread = threading.Thread(target=self._drive, name="driver")
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_S)
            self._judge()
        self._judge()
        if self._error is not None:
            raise self._error

    def _judge(self) -> None:
        base = time.time() - (time.monotonic_ns() - self._driver.start_ns) / NS
        for request, status, sent_ns, done_ns, patch, body in self._driver.samples():
            answer = Answer(status, body, base + sent_ns / NS, base + done_ns / NS, patch)
            self.tally.judge(self._calls[request], answer)

    def stop(self) -> None:
        """No more arrivals."""
        self._driver.stop()

    @property
    def progress(self) -> tuple[int, int]:
        """(ended, faulty)."""
        done, faults, _ = self._driver.progress
        return done, faults + self.tally.faults

    def document(self) -> dict[str, Any]:
        """What was counted."""
        failures, status = self._driver.troubles
        return {
            **self.tally.document(),
            "left_out": self._driver.progress[2],
            "connect_failures": failures,
            "odd_status": status,
        }
