"""Measures every coefficient of the capacity model, writes service/capacity/coefficients.json and docs/capacity.md.

    python -m tests.bench.capacity_bench [--only STEP ...] [--machine TEXT]   # `make capacity-measure`, about 9 minutes
    python -m tests.bench.capacity_bench --page                               # the page alone, from what is there

Runs the benchmarks one after another, each as its own command, and takes from each what it is cited for. Run it alone
on the machine. A step
that fails leaves the files as they were.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from core.model import RevocationReason
from crl.estimate import entry_size
from loadtest.measure import machine
from service.capacity import coefficients
from status.set.codec import encode
from tests.bench import capacity_page, set_bench

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "service" / "capacity" / "coefficients.json"
_SIZES: Final = "any (a size)"
Values = dict[str, float]
#: Of a status set: certificates, revoked ones, and how many months they end in.
_SET: Final = (2_000_000, 100_000)
_MONTHS: Final = 24


@dataclass(frozen=True)
class Step:
    """A benchmark. read: from what it prints to values by name; sizes: whether they are the same on every machine."""

    command: str
    read: Callable[[str], Values]
    sizes: bool = False


def _http(out: str) -> Values:
    runs = json.loads(out)["runs"]
    return {"sign_per_core_s": runs["sign"]["rate"], "verify_per_core_s": runs["verify-bulk"]["signatures"]}


def _ocsp(out: str) -> Values:
    runs = json.loads(out)["runs"]
    return {"ocsp_cached_per_core_s": runs["post"]["rate"], "ocsp_signed_per_core_s": runs["nonce"]["rate"]}


def _status(out: str) -> Values:
    full = json.loads(out)[-1]
    return {"ocsp_store_s": full["lookup_median_us"] / 1e6, "worker_memory_bytes": full["worker_rss_mb"] * 2**20}


def _crl(out: str) -> Values:
    """The whole path while it is kept up, for each entry; memory is the most that the process had beyond what it had
    before its first build."""
    entries, megabytes = re.search(r"^cold .* ms +([\d,]+) entries, ([\d.]+) MB", out, re.MULTILINE).groups()  # type: ignore[union-attr]
    before = int(re.search(r"resident (\d+) MiB", out)[1])  # type: ignore[index]
    steady = re.search(r"^path, steady +([\d.]+) ms +MiB \(\d+, (\d+)\)", out, re.MULTILINE)
    assert steady is not None, out
    grown = (int(steady[2]) - before) * 2**20 / (float(megabytes) * 1e6)
    return {
        "crl_entry_build_s": float(steady[1]) / 1000 / int(entries.replace(",", "")),
        "crl_memory_factor": max(1.0, grown),
    }


def _sizes(out: str) -> Values:
    found: Values = json.loads(out)
    return {name: value for name, value in found.items() if name != "certificate_bytes"}


def own_sizes() -> Values:
    """What needs no benchmark: an entry as the encoder writes it, and a status set's payload over its entropy."""
    total, revoked = _SET
    keys = sorted(random.Random(1).sample(range(total), revoked))
    state = set_bench.state_of(keys, total, _MONTHS)
    payload = len(encode(state.revoked, state.size))
    return {
        "crl_entry_bytes": entry_size(RevocationReason.SUPERSEDED),
        "set_overhead": payload / set_bench.entropy_bytes(total, revoked),
    }


STEPS: Final = {
    "commits": Step("python -m tests.bench.commit_bench --json", lambda out: json.loads(out)["coefficients"]),
    "http": Step("python tests/bench/http_bench.py --only sign verify-bulk --rounds 3 --json", _http),
    "ocsp": Step("python tests/bench/ocsp_bench.py --only post nonce --rounds 3 --json", _ocsp),
    "hsm": Step("python tests/bench/hsm_bench.py --json", lambda out: {"hsm_share": json.loads(out)["share"]}),
    "crl": Step("python tests/bench/crl_bench.py --entries 1000000", _crl),
    "status": Step("python -m tests.bench.status_bench --certificates 2000000 --json", _status),
    "sizes": Step("python -m tests.bench.size_bench --pairs 300 --json", _sizes, sizes=True),
}
OWN: Final = "python -m tests.bench.capacity_bench"


def run(name: str, step: Step) -> str:
    """What the benchmark prints. Exits where it fails."""
    began = time.monotonic()
    print(f"{name}: {step.command} ...", file=sys.stderr, flush=True)
    command = [sys.executable, *step.command.split()[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    # crl_bench exits 1 where a goal was missed; its figures count all the same.
    if done.returncode and not (name == "crl" and "path, steady" in done.stdout):
        sys.exit(f"{step.command} failed; nothing was written:\n{done.stderr[-3000:]}")
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return done.stdout


def digits(value: float) -> float:
    """Four that mean something; whole where it is large."""
    return round(value) if value >= 10_000 else float(f"{value:.5g}")


def written(document: dict[str, Any]) -> str:
    """The file: a coefficient a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(one, ensure_ascii=False)}" for name, one in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def taken(document: dict[str, Any], values: Values, command: str, where: str) -> None:
    """Puts values and their run into the document. Raises KeyError where one is not known."""
    source = {"command": command, "machine": where, "date": datetime.now(UTC).date().isoformat()}
    for name, value in values.items():
        document[name] |= {"value": digits(value), "source": source}


def write_page(points: list[dict[str, Any]] | None) -> None:
    """docs/capacity.md, from the coefficients as they are now; `points`: of the commits' benchmark, where it ran."""
    parts = capacity_page.blocks(coefficients.read(FILE))
    if points is not None:
        parts["commits"] = capacity_page.commits(points)
    capacity_page.PAGE.write_text(capacity_page.filled(capacity_page.PAGE.read_text(), parts))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="these benchmarks alone")
    parser.add_argument("--machine", default="", help="what the machine is called where its own name says too little")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args()
    points = None
    if not options.page:
        document = json.loads(FILE.read_text())
        here = machine()
        where = options.machine or f"{here['processor']}, {here['cores']} cores"
        for name in options.only:
            step = STEPS[name]
            out = run(name, step)
            taken(document, step.read(out), step.command, _SIZES if step.sizes else where)
            if name == "commits":
                points = json.loads(out)["points"]
        taken(document, own_sizes(), OWN, _SIZES)
        FILE.write_text(written(document))
    write_page(points)
    print("docs/capacity.md is written" + ("" if options.page else ", and what was measured"), file=sys.stderr)


if __name__ == "__main__":
    main()
