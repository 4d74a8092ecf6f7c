"""One generator process: reads its plan, says that it is ready, starts when told, writes what it counted.

Run as `python -m loadtest.worker ENGINE PLAN OUT`; ENGINE: native, python, or wrk-THREADS. Lines of JSON go to standard
output: {"ready": true}, then progress. A line on standard input starts it; SIGINT or SIGTERM ends the arrivals, not the
counting.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvloop

from loadtest.journeys import PythonEngine
from loadtest.native import NativeEngine
from loadtest.plan import Plan, load_plan
from loadtest.target import Target, TargetError, load_target
from loadtest.wrk import WrkEngine


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _report(engine: NativeEngine | PythonEngine | WrkEngine, over: threading.Event) -> None:
    while not over.wait(1.0):
        ended, faults = engine.progress
        _say(ended=ended, faults=faults)


def _compiled(kind: str, plan: Plan, target: Target) -> NativeEngine | WrkEngine:
    name, _, threads = kind.partition("-")
    engine = WrkEngine(plan, target, int(threads)) if name == "wrk" else NativeEngine(plan, target)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: engine.stop())
    return engine


async def _python(plan: Plan, target: Target, over: threading.Event) -> PythonEngine:
    engine = PythonEngine(plan, target)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, engine.stop)
    _say(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    threading.Thread(target=_report, args=(engine, over), daemon=True).start()
    await engine.run()
    return engine


def main(arguments: list[str]) -> int:
    """Runs; the exit status."""
    kind, plan_file, out = arguments
    over = threading.Event()
    try:
        plan = load_plan(Path(plan_file))
        target = load_target(Path(plan.target))
        engine: NativeEngine | PythonEngine | WrkEngine
        cpu_before = 0.0
        if kind == "python":
            engine = uvloop.run(_python(plan, target, over))
        else:
            engine = compiled = _compiled(kind, plan, target)
            _say(ready=True)
            sys.stdin.readline()
            threading.Thread(target=_report, args=(compiled, over), daemon=True).start()
            cpu_before = time.process_time()
            compiled.run()
    except (TargetError, OSError) as error:
        _say(error=str(error))
        return 1
    finally:
        over.set()
    Path(out).write_text(json.dumps({"engine": kind, "cpu_s": time.process_time() - cpu_before, **engine.document()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
