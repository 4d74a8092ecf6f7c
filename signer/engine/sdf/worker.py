"""A session's thread: takes jobs from its inbox and does them, one call at a time.

Owns its session for life, so no session is ever used by two threads. Knows jobs and its session; what a failure means
for the device it tells the pool (`Overseer`). The call that is out is a flight: either the worker lands it, or the
overseer claims it when it has waited long enough; whoever was first has it, and the other leaves it alone.
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Any, Protocol

import structlog

from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.jobs import Errand, Run
from signer.engine.sdf.session import Connection, Session

_log = structlog.get_logger()

Flight = tuple[Run | Errand[Any], int]


class Overseer(Protocol):
    """What a worker tells. All may be called from any thread."""

    def failed(self, worker: Worker, fault: DeviceFault, job: Run | Errand[Any]) -> None:
        """The device failed; `job` may have work left."""
        ...

    def mistaken(self, worker: Worker, mistake: DeviceMistake, run: Run) -> None:
        """The device refuses the run's key; the run has work left."""
        ...

    def let_go(self, worker: Worker, run: Run) -> None:
        """The worker is to stop; the run may have work left."""
        ...

    def gone(self, worker: Worker) -> None:
        """The worker has closed its session and ends."""
        ...


class Worker(threading.Thread):
    """See the module. `inbox` takes jobs; None wakes a worker that was retired."""

    def __init__(
        self, session: Session, connection: Connection, overseer: Overseer, device: str, verify_one_in: int
    ) -> None:
        super().__init__(name=f"qianyan-hsm-{device}", daemon=True)  # a call that never returns must not hold an exit
        self.session = session
        self.connection = connection
        self.device = device
        self.inbox: SimpleQueue[Run | Errand[Any] | None] = SimpleQueue()
        self.retired = False
        self.abandoned = False
        self.signatures = 0
        self.call_seconds = 0.0
        self.busy = 0
        self._overseer = overseer
        self._verify_one_in = verify_one_in
        self._lock = threading.Lock()
        self._flight: Flight | None = None

    @property
    def load(self) -> int:
        """Jobs waiting and under way."""
        return self.inbox.qsize() + self.busy

    def retire(self) -> list[Run | Errand[Any]]:
        """No job is begun from now on; returns those that were waiting. A call that is out may still land."""
        with self._lock:
            self.retired = True
        waiting = []
        while not self.inbox.empty():
            job = self.inbox.get()
            if job is not None:
                waiting.append(job)
        self.inbox.put(None)
        return waiting

    def claim(self) -> Flight | None:
        """Takes the flight from a worker whose call is out; the worker ends when the call returns."""
        with self._lock:
            flight, self._flight = self._flight, None
            if flight is not None:
                self.abandoned = True
            return flight

    def run(self) -> None:
        """The thread."""
        while (job := self.inbox.get()) is not None:
            self.busy = 1
            goes_on = self._perform(job) if isinstance(job, Errand) else self._work(job)
            self.busy = 0
            del job  # it holds a key: one that is let go elsewhere must not live on here
            if not goes_on:
                break
        self._leave_jobs()
        self.session.close()
        self._overseer.gone(self)

    def _leave_jobs(self) -> None:
        """Hands on what came in while the worker was being retired."""
        while not self.inbox.empty():
            job = self.inbox.get()
            if isinstance(job, Run):
                self._overseer.let_go(self, job)
            elif job is not None:
                job.give_back(0, DeviceFault("retired", "the device was taken out"))

    def _take_off(self, flight: Flight) -> bool:
        """False where the worker was retired meanwhile."""
        with self._lock:
            if self.retired:
                return False
            self._flight = flight
            return True

    def _land(self) -> bool:
        """False where the flight was claimed: then its job is somebody else's."""
        with self._lock:
            landed, self._flight = self._flight is not None, None
            return landed

    def _work(self, run: Run) -> bool:
        """Signs what is left of a run, by turns with other jobs. Returns whether the worker goes on."""
        while (position := run.take()) is not None:
            if not self._take_off((run, position)):
                run.give_back(position, DeviceFault("retired", "the device was taken out"))
                self._overseer.let_go(self, run)
                return False
            outcome = self._sign(run, position)
            if not self._land():
                return False
            if isinstance(outcome, bytes):
                run.put(position, outcome)
                self.signatures += 1
            elif isinstance(outcome, DeviceMistake):
                run.todo.appendleft(position)
                self._overseer.mistaken(self, outcome, run)
                return True
            else:
                run.give_back(position, outcome)
                self._overseer.failed(self, outcome, run)
                return False
            if not self.inbox.empty():
                self.inbox.put(run)
                return True
        return True

    def _sign(self, run: Run, position: int) -> bytes | DeviceFault | DeviceMistake:
        digest = run.digests[32 * position : 32 * position + 32]
        began = time.perf_counter()
        try:
            signature = self.session.sign(run.key.index, digest)
            self.call_seconds += time.perf_counter() - began
            if (self.signatures + 1) % self._verify_one_in == 0:
                self.session.verify(run.key, digest, signature)
            return signature
        except (DeviceFault, DeviceMistake) as error:
            return error
        except Exception as error:
            _log.error("hsm_internal", device=self.device, exc_info=error)
            return DeviceFault("internal", "the call could not be made")

    def _perform(self, errand: Errand[Any]) -> bool:
        """Does an errand. Returns whether the worker goes on."""
        if not self._take_off((errand, 0)):
            errand.give_back(0, DeviceFault("retired", "the device was taken out"))
            return False
        result: object = None
        failure: Exception | None = None
        try:
            result = errand.perform(self.session)
        except Exception as error:
            failure = error
        if not self._land():
            return False
        if failure is None:
            errand.future.set_result(result)
            return True
        fault = failure if isinstance(failure, (DeviceFault, DeviceMistake)) else DeviceFault("internal", repr(failure))
        errand.future.set_exception(fault)
        if isinstance(fault, DeviceFault):
            self._overseer.failed(self, fault, errand)
            return False
        return True
