"""docs/capacity.md's tables, written from the model and its coefficients: the parts of the page between marks.

Knows the page's marks and Markdown; measures nothing. `python -m tests.bench.capacity_bench --page` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

from service.capacity import coefficients, text
from service.capacity.coefficients import Coefficient
from service.capacity.model import Demand, Plant
from service.commands.plan_command import _HELP

PAGE: Final = Path(__file__).parents[2] / "docs" / "capacity.md"
_HOLDERS: Final = 1_000_000


def options() -> str:
    """Every option that people decide, with its default and its words."""
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for kind in (Demand, Plant):
        for field in fields(kind):
            default = _HOLDERS if field.default is MISSING else field.default
            number = f"{default:,.0f}" if default >= 10_000 else f"{default:g}"
            lines.append(f"| `--{field.name.replace('_', '-')}` | {number} | {_HELP[field.name]} |")
    return "\n".join(lines)


def commits(points: Sequence[Mapping[str, Any]]) -> str:
    """How many holders share a commit at the rates that tests.bench.commit_bench asked for."""
    names = ("requests/s asked", "holders/s", "requests in a group", "holders a commit", "service, µs a holder",
             "PostgreSQL, µs a holder")  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for one in points:
        asked = f"{one['asked']:,.0f}" if one["asked"] else "64 connections, no pause"
        cells = [asked, f"{one['holders_per_s']:,.0f}", f"{one['group']:.1f}", f"{one['holders_per_commit']:.1f}"]
        cells += [f"{one[name] * 1e6:,.0f}" for name in ("service_core_s", "store_core_s")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def blocks(known: Mapping[str, Coefficient]) -> dict[str, str]:
    """What follows from the coefficients, by mark."""
    table = text.table(Demand(_HOLDERS), Plant(), coefficients.values(known))
    return {"tables": table, "options": options(), "coefficients": text.sources(known)}


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with these parts between their marks. Raises ValueError where a mark is not there."""
    for name, part in parts.items():
        mark = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- /{name} -->)", re.DOTALL)
        if not mark.search(page):
            raise ValueError(f"{PAGE} has no <!-- {name} --> … <!-- /{name} -->")
        page = mark.sub(lambda found, part=part: found[1] + part + found[2], page)  # type: ignore[misc]
    return page
