"""The plan in words: for a person at a terminal, and as the table of docs/capacity.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from service.capacity.coefficients import Coefficient, Coefficients
from service.capacity.limits import Limit, limits
from service.capacity.model import Demand, Plan, Plant, make_plan

#: The holders a year that `--table` compares.
TABLE_HOLDERS: Final = (1_000_000, 10_000_000, 100_000_000)


def size(octets: float) -> str:
    """As "4.9 MB": decimal units."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= factor:
            return f"{octets / factor:,.1f} {unit}"
    return f"{octets:,.0f} B"


def rate(per_s: float) -> str:
    """As "1,234/s"; two digits where it is little."""
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.2f}/s"


def rows(plan: Plan) -> list[tuple[str, str]]:
    """What the plan says, one thing a row."""
    years = len(plan.store_by_year)
    return [
        ("certificate pairs, at the peak", rate(plan.pairs_per_s)),
        ("OCSP answers, at the peak", rate(plan.ocsp_per_s)),
        ("of these signed for the request", rate(plan.ocsp_signed_per_s)),
        ("application signatures, at the peak", rate(plan.app_signs_per_s)),
        ("verified for applications, at the peak", rate(plan.app_verifies_per_s)),
        ("signatures in all, at the peak", rate(plan.signatures_per_s)),
        ("certificates in force", f"{plan.live_certificates:,}"),
        ("revoked among them", f"{plan.listed:,}"),
        ("store after year 1", size(plan.store_by_year[0])),
        (f"store after year {years}, from when on it stays", size(plan.store_by_year[-1])),
        ("CRL partitions", f"{plan.partitions:,}"),
        ("entries and size of each", f"{plan.crl_entries_each:,}, {size(plan.crl_bytes_each)}"),
        ("building all CRLs once", f"{plan.crl_build_s:,.2f} s of a core, {size(plan.crl_memory_bytes)} of memory"),
        ("status set", size(plan.set_bytes)),
        ("answers in Redis", size(plan.redis_bytes)),
        ("network, OCSP", f"{size(plan.answers_bytes_s)}/s"),
        ("network, CRLs and status sets", f"{size(plan.lists_bytes_s)}/s"),
        ("cores that are busy at the peak", f"{plan.cores:,.2f}"),
        ("nodes, spare ones among them", f"{plan.nodes:,}"),
        ("of their cores in use at the peak", f"{plan.utilisation:.1%}"),
        ("memory of the workers of a node", size(plan.node_memory_bytes)),
    ]


def report(plan: Plan, found: Sequence[Limit]) -> str:
    """The plan, the store by year, and what breaks first."""
    lines = [f"{name:46} {value}" for name, value in rows(plan)]
    lines += ["", "store at the end of each year"]
    lines += [f"  year {year:3}  {size(octets)}" for year, octets in enumerate(plan.store_by_year, 1)]
    lines += ["", "what breaks first (use of one, at the peak), and what takes over"]
    lines += [f"  {limit.use:9.1%}  {limit.name}: {limit.then}" for limit in found]
    return "\n".join(lines)


def table(demand: Demand, plant: Plant, known: Coefficients) -> str:
    """1, 10 and 100 million holders side by side, in Markdown; what one of does not carry is in bold."""
    demands = [replace(demand, holders=holders) for holders in TABLE_HOLDERS]
    plans = [make_plan(one, plant, known) for one in demands]
    lines = ["| holders a year | " + " | ".join(f"{one.holders:,}" for one in demands) + " |"]
    lines.append("| --- |" + " --- |" * len(plans))
    for cells in zip(*(rows(plan) for plan in plans), strict=True):
        lines.append(f"| {cells[0][0]} | " + " | ".join(value for _, value in cells) + " |")
    found = [
        {limit.name: limit for limit in limits(one, plant, plan, known)}
        for one, plan in zip(demands, plans, strict=True)
    ]
    lines += ["", "| use of one | " + " | ".join(f"{one.holders:,}" for one in demands) + " | what takes over |"]
    lines.append("| --- |" + " --- |" * (len(plans) + 1))
    for name in sorted(found[-1], key=lambda name: -found[-1][name].use):
        uses = [limits_of[name].use for limits_of in found]
        cells_of = [f"**{use:,.0%}**" if use > 1 else f"{use:.0%}" for use in uses]
        lines.append(f"| {name} | " + " | ".join(cells_of) + f" | {found[-1][name].then} |")
    first = [max(limits_of.values(), key=lambda limit: limit.use).name for limits_of in found]
    lines.append("| breaks first | " + " | ".join(first) + " | |")
    return "\n".join(lines)


def value(coefficient: Coefficient) -> str:
    """With its unit, as "124,700 /s"."""
    digits = f"{coefficient.value:,.0f}" if coefficient.value >= 100_000 else f"{coefficient.value:,.6g}"
    if coefficient.value < 1:
        digits = f"{coefficient.value:.4g}"
    return f"{digits} {'/s' if coefficient.unit == '1/s' else coefficient.unit}".removesuffix(" 1")


def sources(known: Mapping[str, Coefficient]) -> str:
    """The coefficients with the runs that they come from, in Markdown."""
    lines = ["| coefficient | value | what it is | run |", "| --- | --- | --- | --- |"]
    for name, one in known.items():
        run = f"`{one.source.command}`; {one.source.machine}; {one.source.date}"
        lines.append(f"| `{name}` | {value(one)} | {one.meaning} | {run} |")
    return "\n".join(lines)
