"""What every locust process runs: users that take scenarios by weight, and the shape of the run.

The same scenarios and judgements as the open-loop engines; figures go into the same record, and into locust's own.
Runs in processes of its own (`qianyan-load locust`, or `locust -f` with --plan): gevent changes the standard library.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import gevent
from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import shapes
from loadtest.call import Answer, Call, Journey, Wrong
from loadtest.plan import Plan, load_plan
from loadtest.scenarios import directory
from loadtest.scenarios.base import Scenario, World
from loadtest.scenarios.catalogue import SCENARIOS
from loadtest.tally import NS, Tally
from loadtest.target import Target, load_target

#: Users a second; a warning of locust's is past 100.
_SPAWNED_AT_ONCE: Final = 100.0


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


class Worker:
    """What the users of this process share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.target: Target = load_target(Path(plan.target))
        self.tally = Tally(plan)
        self.rng = random.Random()  # noqa: S311 - a load, not a secret; another one in each process
        world = World(self.target, self.rng)
        self.scenarios = {name: SCENARIOS[name](world) for name in plan.rates}
        self.start_ns = time.monotonic_ns()

    def choose(self) -> Scenario:
        """One of them, by what the shape makes of its weight now."""
        second = (time.monotonic_ns() - self.start_ns) / NS
        rates = shapes.rates_at(self.plan.shape, self.plan.rates, self.plan.duration_s, second)
        (name,) = self.rng.choices(list(rates), list(rates.values()))
        return self.scenarios[name]

    def report(self) -> None:
        """Says how far it is, every second."""
        while True:
            gevent.sleep(1)
            _say(ended=self.tally.ended, faults=self.tally.faults)

    def document(self, name: str) -> dict[str, Any]:
        """What was counted."""
        rest = {"left_out": 0, "connect_failures": 0, "odd_status": 0}
        return {"name": name, "engine": "locust", "cpu_s": time.process_time(), **self.tally.document(), **rest}


#: One in a process that has users; the master has none.
WORKERS: list[Worker] = []
#: What the master was handed over.
PARTS: list[dict[str, Any]] = []
_PART: Final = "qianyan-part"
#: When it asked for it.
ASKED: list[float] = []
_END: Final = "qianyan-end"
_PATIENCE_S: Final = 20.0


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", default="", help="the run's plan, written by `qianyan-load locust`")
    parser.add_argument("--part", default="", help="where the master writes what the workers counted")
    parser.add_argument("--most-users", type=int, default=64, help="users at a multiple of 1")


@events.init.add_listener
def _began(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(_PART, lambda msg, **_: PARTS.append(msg.data))
        return
    assert isinstance(environment.runner, WorkerRunner), "run it by `qianyan-load locust`"
    environment.runner.register_message(_END, lambda environment, **_: gevent.spawn(environment.runner.stop))
    worker = Worker(load_plan(Path(options.plan)))
    WORKERS.append(worker)
    # What one user does a second, so that all together, while they are answered, keep the plan's rates.
    Client.wait_time = constant_throughput(sum(worker.plan.rates.values()) / options.most_users)
    gevent.spawn(worker.report)


@events.test_start.add_listener
def _started(environment: Environment, **_: Any) -> None:
    for worker in WORKERS:
        worker.start_ns = time.monotonic_ns()
    _say(ready=True)


@events.test_stop.add_listener
def _ended(environment: Environment, **_: Any) -> None:
    """Before the worker says that it has stopped, so that the master has it when it goes on."""
    runner = environment.runner
    if not isinstance(runner, WorkerRunner):
        return
    for worker in WORKERS:
        runner.send_message(_PART, worker.document(runner.client_id))


def _gathered(runner: MasterRunner) -> bool:
    """Asks the workers to stop, once, and says whether all have handed over what they counted.

    Locust's own way to quit waits half a second for workers that may have answers to wait for.
    """
    if not ASKED:
        ASKED.append(time.monotonic())
        runner.send_message(_END)
    options = runner.environment.parsed_options
    assert options is not None
    late = time.monotonic() - ASKED[0] > options.stop_timeout + _PATIENCE_S
    return late or len(PARTS) >= int(options.expect_workers)


@events.quitting.add_listener
def _over(environment: Environment, **_: Any) -> None:
    environment.process_exit_code = 0  # the run judges; locust's own opinion of failures does not count
    if isinstance(environment.runner, MasterRunner) and environment.parsed_options is not None:
        while not _gathered(environment.runner):
            gevent.sleep(0.1)
        Path(environment.parsed_options.part).write_text(json.dumps(PARTS))


class Shape(LoadTestShape):
    """As many users as the plan's shape asks for at the moment."""

    def tick(self) -> tuple[int, float] | None:
        assert isinstance(self.runner, MasterRunner)
        options = self.runner.environment.parsed_options
        assert options is not None
        plan, now = load_plan(Path(options.plan)), self.get_run_time()
        if now >= plan.duration_s and _gathered(self.runner):
            return None
        times = sum(shapes.rates_at(plan.shape, plan.rates, plan.duration_s, now).values()) / sum(plan.rates.values())
        return max(1, round(options.most_users * times)), _SPAWNED_AT_ONCE


class Client(FastHttpUser):
    """A user: takes a scenario, waits for each answer."""

    host = "http://unused"
    connection_timeout = network_timeout = 10.0

    def on_start(self) -> None:
        """A user has connections of its own."""
        self._worker = WORKERS[0]
        self._directory: socket.socket | None = None

    def on_stop(self) -> None:
        """Closes the one that locust does not know."""
        if self._directory is not None:
            self._directory.close()

    @task
    def use(self) -> None:
        """One journey."""
        worker = self._worker
        scenario = worker.choose()
        steps: Journey = scenario.journey()
        call = next(steps)
        try:
            while (answer := self._sent(call)) is not None:
                call = steps.send(answer)
            steps.close()
        except StopIteration:
            return
        except Wrong as error:
            worker.tally.mark_wrong(call.kind, str(error))

    def _sent(self, call: Call) -> Answer | None:
        """The answer where it is as expected; counted in any case."""
        worker = self._worker
        at_ns, sent_at = time.monotonic_ns() - worker.start_ns, time.time()
        worker.tally.record.follow(worker.tally.number(call.kind), max(0, at_ns))
        send = self._search if call.listener == "directory" else self._request
        error, status, body, sent, headers = send(call)
        latency_ns = time.monotonic_ns() - worker.start_ns - at_ns
        worker.tally.finish(call.kind, max(0, at_ns), latency_ns, error, len(body))
        if error != "ok":
            return None
        answer = Answer(status, body, sent_at, time.time(), sent, headers)
        if worker.rng.random() < worker.plan.sample:
            worker.tally.judge(call, answer)
        return answer

    def _request(self, call: Call) -> tuple[str, int, bytes, bytes, dict[str, str]]:
        target = self._worker.target
        body, sent = call.patched()
        headers = {**call.headers, "Accept-Encoding": "identity"}  # locust's client fails at a 304 that is marked gzip
        if call.listener == "private":
            headers["Authorization"] = f"Bearer {target.token}"
        url = target.url(call.listener) + call.path
        data: Any = body or None  # locust sends octets as they are, and does not say so in its types
        with self.client.request(
            call.method, url, name=call.kind, data=data, headers=headers, catch_response=True
        ) as response:
            octets = response.content or b""
            error = call.fault(response.status_code, len(octets))
            if error == "ok":
                response.success()
            else:
                response.failure(error)
            names = {name.lower(): value for name, value in (response.headers or {}).items()}
        return ("closed" if response.status_code == 0 else error), response.status_code, octets, sent, names

    def _search(self, call: Call) -> tuple[str, int, bytes, bytes, dict[str, str]]:
        began, failure, status, whole = time.perf_counter(), None, -1, b""
        try:
            if self._directory is None:
                address = self._worker.target.address("directory")
                self._directory = socket.create_connection(address, self._worker.plan.timeout_s)
            status, whole = directory.converse(self._directory, call.body)
        except OSError as error:
            failure, self._directory = error, None
        self.environment.events.request.fire(
            request_type="LDAP", name=call.kind, response_time=(time.perf_counter() - began) * 1000,
            response_length=len(whole), exception=failure, context={},
        )  # fmt: skip
        return ("closed" if failure else call.fault(status, len(whole))), status, whole, b"", {}
