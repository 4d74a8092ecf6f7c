"""A session's thread: takes jobs from its inbox and does them, one call at a time.

Owns its session for life, so no session is ever used by two threads. Knows jobs and its session; what a failure means
for the device it tells the pool (`Overseer`). Signatures are made in C, by turns for all the runs in hand, and the
thread comes back to Python where something is to be decided: another job came, a right is missing, a call failed, a
signature is to be verified. The call that is out is a flight: either the worker lands it, or the overseer claims it
when it has waited long enough; whoever was first has it, and the other leaves it alone.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any, Protocol

import structlog

from signer.engine.sdf import _lane, abi
from signer.engine.sdf._lane import Run
from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.jobs import Errand
from signer.engine.sdf.session import Session

_log = structlog.get_logger()

Flight = tuple[Run | Errand[Any], int]


class Overseer(Protocol):
    """What a worker tells. All may be called from any thread."""

    def failed(self, worker: Worker, fault: DeviceFault, job: Run | Errand[Any] | None) -> None:
        """The device failed; `job`, where there was one, may have work left."""
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
    """See the module. `hand` it jobs; `retire` it to end it. `abandoned`: its call was given up and is still out."""

    def __init__(self, session: Session, overseer: Overseer, device: str, verify_one_in: int) -> None:
        super().__init__(name=f"qianyan-hsm-{device}", daemon=True)  # a call that never returns must not hold an exit
        self.session = session
        self.device = device
        self.abandoned = False
        self._lane = session.lane
        self._inbox: SimpleQueue[Run | Errand[Any] | None] = SimpleQueue()
        self._runs: list[Run] = []  # in hand; appended to and emptied by the thread alone, read by others
        self._on_errand = False
        self._overseer = overseer
        self._verify_one_in = verify_one_in

    @property
    def load(self) -> int:
        """Jobs waiting and under way."""
        return self._inbox.qsize() + len(self._runs) + self._on_errand

    @property
    def waiting(self) -> int:
        """Jobs that it has not looked at."""
        return self._inbox.qsize()

    @property
    def signatures(self) -> int:
        """Signatures made for runs."""
        return self._lane.signatures

    @property
    def call_seconds(self) -> float:
        """Time in calls that signed."""
        return self._lane.call_seconds

    def hand(self, job: Run | Errand[Any]) -> None:
        """Gives it something to do, beside what it does."""
        self._inbox.put(job)
        self._lane.call()

    def retire(self) -> list[Run | Errand[Any]]:
        """No call is begun from now on; returns what it had to do. A call that is out may still land."""
        self._lane.retire()
        left: list[Run | Errand[Any]] = []
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                left.append(job)
        left += self._runs  # after the inbox: what the thread takes from there meanwhile is here
        self._inbox.put(None)
        return left

    def claim(self) -> Flight | None:
        """Takes the flight from a worker whose call is out; the worker ends when the call returns."""
        flight = self._lane.claim()
        if flight is not None:
            self.abandoned = True
        return flight

    def run(self) -> None:
        """The thread."""
        try:
            while self._do(self._inbox.get()) and self._work():
                pass
        except Exception as error:
            _log.error("hsm_internal", device=self.device, exc_info=error)
            self._fail_internally()
        self._leave_jobs()
        self.session.close()
        self._overseer.gone(self)

    def _do(self, job: Run | Errand[Any] | None) -> bool:
        """Takes a run in hand, or does an errand. Returns whether the worker goes on."""
        if job is None:
            return False
        if isinstance(job, Errand):
            return self._perform(job)
        if job not in self._runs:
            self._runs.append(job)
        return True

    def _work(self) -> bool:
        """Signs what the runs in hand have left, doing what else comes between. Returns whether the worker goes on."""
        while self._runs:
            self._lane.heard()
            while not self._inbox.empty():
                if not self._do(self._inbox.get()):
                    return False
            if not self._gain_rights():
                return False
            if not self._runs:
                continue
            outcome = self._lane.work(self._runs, self._verify_one_in)
            if outcome == _lane.IDLE:
                self._runs.clear()  # what is given back later is handed out anew
            elif outcome == _lane.CALLED:
                self._drop_finished()
            elif outcome in (_lane.RETIRED, _lane.CLAIMED) or not self._settle(outcome):
                return False
        self._lane.forget()  # a run holds a key: one that is let go elsewhere must not live on here
        return True

    def _drop_finished(self) -> None:
        for run in [run for run in self._runs if not run.waiting]:
            self._runs.remove(run)

    def _gain_rights(self) -> bool:
        """Asks for the rights that the runs need. False where the worker ends."""
        self._drop_finished()
        for run in list(self._runs):
            if self._lane.retired:
                return False
            try:
                self.session.ready(run.key.index)
            except DeviceMistake as mistake:
                self._runs.remove(run)
                self._overseer.mistaken(self, mistake, run)
            except DeviceFault as fault:
                self._overseer.failed(self, fault, run)
                return False
        return True

    def _settle(self, outcome: int) -> bool:
        """Decides about the call that is back, and lands it. Returns whether the worker goes on."""
        run, position = self._lane.flight
        signature: bytes = b""
        failure: DeviceFault | DeviceMistake | None = None
        try:
            signature = self._signature(outcome, run, position)
        except (DeviceFault, DeviceMistake) as error:
            failure = error
        except Exception as error:
            _log.error("hsm_internal", device=self.device, exc_info=error)
            failure = DeviceFault("internal", "the call could not be made")
        if not self._lane.land():
            return False
        if failure is None:
            self._lane.count()  # first: who has the run's last signature may count them
            run.put(position, signature)
            return True
        run.give_back(position)
        if isinstance(failure, DeviceMistake):
            self._runs.remove(run)
            self._overseer.mistaken(self, failure, run)
            return True
        self._overseer.failed(self, failure, run)
        return False

    def _signature(self, outcome: int, run: Run, position: int) -> bytes:
        """Raises DeviceFault, DeviceMistake."""
        digest = run.digest(position)
        if outcome == _lane.FAILED and self._lane.code in abi.RIGHT_CODES:
            signature = self.session.sign_anew(run.key.index, digest)
        elif outcome == _lane.VERIFY:
            signature = self._lane.raw
        else:
            signature = self.session.result(outcome, run.key.index)
        if (self._lane.signatures + 1) % self._verify_one_in == 0:
            self.session.verify(run.key, digest, signature)
        return signature

    def _perform(self, errand: Errand[Any]) -> bool:
        """Does an errand. Returns whether the worker goes on."""
        if not self._lane.take_off(errand, 0):
            errand.give_back(0)
            return False
        self._on_errand = True
        result: object = None
        failure: Exception | None = None
        try:
            result = errand.perform(self.session)
        except Exception as error:
            failure = error
        self._on_errand = False
        own = self._lane.land()
        self._lane.forget()
        if not own:
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

    def _fail_internally(self) -> None:
        """A fault of ours takes the device out: nothing may wait for a thread that has ended."""
        flight = self.claim()
        self.abandoned = False
        if flight is not None:
            flight[0].give_back(flight[1])
        fault = DeviceFault("internal", "the session's thread failed; see the log")
        self._overseer.failed(self, fault, None)

    def _leave_jobs(self) -> None:
        """Hands on what is still here: in hand, or come in while the worker was being retired."""
        while not self._inbox.empty():
            job = self._inbox.get()
            if isinstance(job, Errand):
                job.give_back(0)
            elif job is not None:
                self._runs.append(job)
        for run in self._runs:
            self._overseer.let_go(self, run)
        self._runs.clear()
        self._lane.forget()
