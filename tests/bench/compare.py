"""Benchmarks of tests/bench/suite against the saved baseline: what has become slower by more than a fifth is shown.

    python -m tests.bench.compare RESULT.json [--write] [--baseline FILE]

RESULT.json is what pytest writes with --benchmark-json. Two figures are compared: the best time of a call, and, where
a peer was measured in the same run, the ratio to it, which a slow minute of the machine does not change. What is slower
by both is marked; nothing fails, since times of a shared machine prove little (counted instructions, which are exact,
are in tests.bench.counted). --write makes the result the baseline: names, figures and the kind of processor.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import orjson

BASELINE: Final = Path(__file__).parent / "baselines" / "suite.json"
#: From which share of the time before on a benchmark is shown as slower.
SLOWER: Final = 1.20


def condensed(document: dict[str, Any]) -> dict[str, Any]:
    """What is kept of pytest-benchmark's document."""
    figures = {}
    for entry in document["benchmarks"]:
        info = entry["extra_info"]
        name = f"{entry['group']}: {entry['name'].removeprefix('test_').replace('_', ' ')}"
        figures[name] = {
            "min_s": entry["stats"]["min"],
            "median_s": entry["stats"]["median"],
            "per_call": info.get("per_call", 1),
            "ratio_to_peer": info.get("ratio_to_peer"),
            "backend": info.get("backend"),
        }
    cpu = document["machine_info"].get("cpu", {}).get("brand_raw", "unknown")
    return {"processor": cpu, "date": document["datetime"][:10], "figures": figures}


def slower(now: dict[str, Any], before: dict[str, Any]) -> tuple[float, bool]:
    """(time now over time before, whether that counts as slower)."""
    change = now["min_s"] / before["min_s"]
    against_peer = None
    if now["ratio_to_peer"] and before["ratio_to_peer"]:
        against_peer = before["ratio_to_peer"] / now["ratio_to_peer"]
    return change, change > SLOWER and (against_peer is None or against_peer > SLOWER)


def lines(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A row for each benchmark, and what is new or gone."""
    found = [f"{'':44}{'each':>12}{'before':>12}{'change':>9}{'x peer':>9}"]
    if now["processor"] != before["processor"]:
        found.append(f"another processor than the baseline's ({before['processor']}): compare the last column only")
    for name, figure in now["figures"].items():
        each = figure["min_s"] / figure["per_call"] * 1e6
        row = f"{name:44}{each:9.3f} us"
        old = before["figures"].get(name)
        if old is None:
            row += f"{'new':>12}{'':9}"
        else:
            change, is_slower = slower(figure, old)
            row += f"{old['min_s'] / old['per_call'] * 1e6:9.3f} us{change - 1:+9.0%}"
        row += "" if figure["ratio_to_peer"] is None else f"{figure['ratio_to_peer']:9.1f}"
        found.append(row + ("   SLOWER" if old is not None and is_slower else ""))
    found += [f"{name:44}{'gone':>12}" for name in before["figures"] if name not in now["figures"]]
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    now = condensed(orjson.loads(options.result.read_bytes()))
    if options.write:
        options.baseline.write_bytes(orjson.dumps(now, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    print("\n".join(lines(now, orjson.loads(options.baseline.read_bytes()))))


if __name__ == "__main__":
    main()
