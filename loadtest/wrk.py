"""wrk as the generator: a closed loop over prepared requests, for the most that a fast path gives.

Owns the script and the files that wrk reads. What wrk cannot tell (whether an answer is true, how long those waited who
were not asked) the compiled engine tells, which asks beside it.
"""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from loadtest.histogram import Histogram
from loadtest.native import prepare
from loadtest.plan import Plan
from loadtest.target import Target, TargetError

#: A request: its length, where its random octets are and how many, then the request.
_HEAD: Final = struct.Struct("<III")
#: How long wrk may take beyond its duration and its timeout.
_PATIENCE_S: Final = 30.0

_SCRIPT: Final = """
local threads, requests, n, at, mark, count = 0, {}, 0, 0, "", 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
local function word(text, place)
  local a, b, c, d = text:byte(place, place + 3)
  return a + 256 * b + 65536 * c + 16777216 * d
end
function init(args)
  local file = io.open("%(requests)s", "rb")
  local text, place = file:read("*a"), 1
  file:close()
  while place <= #text do
    local length, patch, octets = word(text, place), word(text, place + 4), word(text, place + 8)
    local one = text:sub(place + 12, place + 11 + length)
    n = n + 1
    if octets == 0 then requests[n] = one else
      requests[n] = {one:sub(1, patch), one:sub(patch + octets + 1), octets}
    end
    place = place + 12 + length
  end
  math.randomseed(os.time() + 7919 * number)
  at = math.random(0, n - 1)
  for _ = 1, 64 do mark = mark .. string.char(math.random(0, 255)) end
end
-- The random octets are new in every request: a thread's own mark, and a count.
local function fresh(octets)
  count = count + 1
  local a = math.floor(count / 16777216) %% 256
  local b, c, d = math.floor(count / 65536) %% 256, math.floor(count / 256) %% 256, count %% 256
  return (string.char(d, c, b, a) .. mark):sub(1, octets)
end
function request()
  at = at %% n + 1
  local one = requests[at]
  if type(one) == "string" then return one end
  return one[1] .. fresh(one[3]) .. one[2]
end
function done(summary, latency, rates)
  local file, e, cells = io.open("%(out)s", "w"), summary.errors, {}
  for i = 1, #latency do
    local value, times = latency(i)
    cells[i] = string.format("[%%d,%%d]", value, times)
  end
  file:write(string.format('{"duration_us":%%d,"requests":%%d,"octets":%%d,"status":%%d,"connect":%%d,"read":%%d,' ..
    '"write":%%d,"timeout":%%d,"latency_us":[', summary.duration, summary.requests, summary.bytes, e.status, e.connect,
    e.read, e.write, e.timeout))
  file:write(table.concat(cells, ","), "]}")
  file:close()
end
"""

#: What wrk would say that was ended before it began.
_NOTHING: Final[dict[str, Any]] = {
    **dict.fromkeys(("duration_us", "requests", "octets", "status", "connect", "read", "write", "timeout"), 0),
    "latency_us": [],
}


def packed(plan: Plan, target: Target) -> bytes:
    """The prepared requests in the form that the script reads. Raises TargetError."""
    found = []
    for call in prepare(plan, target):
        host, port = target.address(call.listener)
        octets, body_at = call.encode(f"{host}:{port}", f"Bearer {target.token}")
        offset, length = call.patch
        found.append(_HEAD.pack(len(octets), body_at + offset if length else 0, length) + octets)
    return b"".join(found)


def figures(said: dict[str, Any], threads: int, connections: int) -> dict[str, Any]:
    """What wrk counted, in the report's terms. faults: answers that were not 2xx, and requests without an answer."""
    latency = Histogram()
    for value_us, times in said["latency_us"]:
        latency.add(value_us * 1000, times)
    broken = {name: said[name] for name in ("status", "connect", "read", "write", "timeout")}
    seconds = said["duration_us"] / 1e6
    return {
        "requests": said["requests"],
        "rate": (said["requests"] - said["status"]) / seconds if seconds else 0.0,
        "octets": said["octets"],
        "errors": broken,
        "faults": sum(broken.values()),
        "latency_ms": latency.summary_ms(),
        "seconds": seconds,
        "threads": threads,
        "connections": connections,
    }


class WrkEngine:
    """One run. `stop` may be called from a signal handler."""

    def __init__(self, plan: Plan, target: Target, threads: int) -> None:
        if shutil.which("wrk") is None:
            raise TargetError("wrk is not installed: apt-get install wrk, or leave --generator wrk out")
        (self._scenario,) = plan.rates
        self._plan, self._threads = plan, threads
        self._requests = packed(plan, target)
        listener = prepare(plan, target)[0].listener
        url = target.url(listener)
        if url.startswith("https"):
            raise TargetError("wrk is given plain HTTP only: name the listener behind the TLS terminator")
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._said: dict[str, Any] = {}

    def stop(self) -> None:
        """wrk reports what it counted so far."""
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def run(self) -> None:
        """Blocks to the end. Raises TargetError where wrk fails."""
        with tempfile.TemporaryDirectory(prefix="qianyan-wrk-") as name:
            directory = Path(name)
            out, script = directory / "out.json", directory / "load.lua"
            (directory / "requests").write_bytes(self._requests)
            script.write_text(_SCRIPT % {"requests": directory / "requests", "out": out})
            plan = self._plan
            connections = max(self._threads, plan.connections)
            command = ["wrk", f"-t{self._threads}", f"-c{connections}", f"-d{max(1, round(plan.duration_s))}s",
                       f"--timeout={max(1, round(plan.timeout_s))}s", "-s", str(script), self._url]  # fmt: skip
            if self._stopped:
                return
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
            try:
                told, _ = self._process.communicate(timeout=plan.duration_s + plan.timeout_s + _PATIENCE_S)
            except subprocess.TimeoutExpired as error:
                self._process.kill()
                raise TargetError("wrk did not end when its time was over") from error
            if self._process.returncode or not out.exists():
                raise TargetError(f"wrk failed: {told.decode(errors='replace').strip()[-500:]}")
            self._said = figures(json.loads(out.read_text()), self._threads, connections)

    @property
    def progress(self) -> tuple[int, int]:
        """Nothing until the end: wrk does not say."""
        return 0, 0

    def document(self) -> dict[str, Any]:
        """See loadtest.result; what wrk counted is apart from it, since it has no intervals."""
        said = self._said or figures(_NOTHING, self._threads, 0)
        return {
            "kinds": {}, "lag": [], "lag_max_ns": 0, "checked": 0, "check_cpu_s": 0.0, "wrong": [], "left_out": 0,
            "connect_failures": 0, "odd_status": 0, "wrk": {"scenario": self._scenario, **said},
        }  # fmt: skip
