"""A run's document: put together from what the generators counted, checked for completeness, written and read.

Owns the form of the JSON. Figures that do not say on what they were measured are refused here.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.histogram import ERRORS, PART_BITS, Histogram, merged, unpacked
from loadtest.plan import Plan
from loadtest.scenarios.catalogue import NONCE_KINDS, OCSP_KINDS

FORMAT: Final = 2
#: Of an interval's row.
COLUMNS: Final = ("offered", "done", "errors", "p50", "p90", "p99", "p99.9")
#: What must be told before figures may be: path in the document → how to tell it.
REQUIRED: Final = {
    "environment.machine.processor": "the machine that was measured",
    "environment.machine.cores": "the machine that was measured",
    "environment.versions.qianyan": "the service's version (target file, facts.versions)",
    "environment.versions.python": "the version of Python",
    "environment.settings": "the service's settings (target file, facts.settings)",
    "environment.signing": "software or hsm (target file, facts.signing, or --signing)",
    "environment.nonce_share": "the share of OCSP questions with a nonce",
    "environment.cache_share": "the share of OCSP answers from the cache (a token with the scope `metrics`, "
    "or --cache-share)",
}


class IncompleteResult(ValueError):
    """Figures without what they were measured on; the text says what is missing and how to tell it."""


def lookup(document: dict[str, Any], path: str) -> Any:
    """A value by its dotted path, None where it is not there."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def refuse_incomplete(document: dict[str, Any]) -> None:
    """Raises IncompleteResult unless everything of REQUIRED is told. Without OCSP no share of it has to be."""
    asked = any(document.get("kinds", {}).get(kind, {}).get("count") for kind in OCSP_KINDS)
    missing = [
        f"{path}: {how}"
        for path, how in REQUIRED.items()
        if lookup(document, path) in (None, "", {}) and (asked or not path.endswith("_share"))
    ]
    if lookup(document, "environment.signing") not in ("software", "hsm"):
        missing.append("environment.signing is neither `software` nor `hsm`")
    if missing:
        raise IncompleteResult("no report without what the figures were measured on; missing: " + "; ".join(missing))


def _kind(parts: Sequence[dict[str, Any]], plan: Plan, seconds: float) -> dict[str, Any]:
    """One kind's (or the total's) figures from what each generator counted of it.

    count: requests that ended, in whatever way; rate: good answers a second while the run lasted, not those after it.
    """
    errors = Counter[str]()
    for one in parts:
        errors.update(one["errors"])
    whole = merged(unpacked(one["counts"], max_ns=one["max_ns"]) for one in parts)
    rows = _intervals(parts, plan, seconds)
    count = whole.count
    return {
        "count": count,
        "rate": sum(row[1] for row in rows) / len(rows),
        "faults": count - errors["ok"],
        "errors": {name: errors[name] for name in ERRORS},
        "octets": sum(one["octets"] for one in parts),
        "latency_ms": {**whole.summary_ms(), "mean": sum(one["sum_ns"] for one in parts) / 1e6 / max(1, count)},
        "histogram": whole.packed(),
        "intervals": rows,
    }


def _intervals(parts: Sequence[dict[str, Any]], plan: Plan, seconds: float) -> list[list[float]]:
    """COLUMNS for each interval: rates a second, errors a second, milliseconds."""
    rows = []
    last = max(1, min(plan.parts - 1, int(seconds // plan.part_s)))
    for place in range(last):
        cells = [one["parts"][place] for one in parts]
        some = merged(unpacked(cell[3], bits=PART_BITS) for cell in cells)
        rates = [sum(cell[n] for cell in cells) / plan.part_s for n in range(3)]
        rows.append([*rates, *(some.percentile_ns(share) / 1e6 for share in (50, 90, 99, 99.9))])
    return rows


def combine(documents: Sequence[dict[str, Any]], plan: Plan, seconds: float) -> dict[str, Any]:
    """{"total", "kinds"} from the generators' documents."""
    by_kind: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for document in documents:
        for name, one in document["kinds"].items():
            if any(one["errors"].values()):
                by_kind[name].append(one)
    every = [one for some in by_kind.values() for one in some]
    return {
        "total": _kind(every, plan, seconds),
        "kinds": {name: _kind(some, plan, seconds) for name, some in sorted(by_kind.items())},
    }


def nonce_share(kinds: dict[str, Any]) -> float | None:
    """Of OCSP questions; None where none was asked."""
    asked = sum(kinds[kind]["count"] for kind in OCSP_KINDS if kind in kinds)
    return sum(kinds[kind]["count"] for kind in NONCE_KINDS if kind in kinds) / asked if asked else None


def whole_lag(documents: Iterable[dict[str, Any]]) -> Histogram:
    """How late the generators were, all together."""
    return merged(unpacked(one["lag"], max_ns=one["lag_max_ns"]) for one in documents)


def save(document: dict[str, Any], file: Path) -> None:
    """Writes it. Raises IncompleteResult."""
    refuse_incomplete(document)
    file.write_text(json.dumps(document))


def load(file: Path) -> dict[str, Any]:
    """Reads one. Raises ValueError with what to do."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; `qianyan-load run` writes result.json") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON; give the result.json that `qianyan-load run` wrote") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{file} is not a result of this version (format {FORMAT})")
    return document
