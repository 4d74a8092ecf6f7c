"""The report: one HTML file that stands alone, without scripts.

Owns words and tables. Figures that do not say on what they were measured are refused.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import Any

from loadtest.histogram import unpacked
from loadtest.plots import Line, plot
from loadtest.result import refuse_incomplete
from loadtest.style import CSS

#: How a latency distribution is drawn: shares, in per cent, from the median outwards.
_TAIL = (50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)


def write_report(document: dict[str, Any], file: Path) -> None:
    """Writes report.html. Raises IncompleteResult (a ValueError) where the document does not say what was measured."""
    refuse_incomplete(document)
    file.write_text(render(document), encoding="utf-8")


def render(document: dict[str, Any]) -> str:
    """The page."""
    title = escape(f"{document['name']} · {document['plan']['shape']}")
    body = "".join(
        [_head(document, title), _cards(document), _cautions(document), _goals(document), _kinds(document),
         _wrk(document.get("wrk")), _inside(document["metrics"]["routes"]),
         f'<h2>Over time</h2><div class="plots">{_plots(document)}</div>', _generator(document), _context(document)]
    )  # fmt: skip
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{CSS}</style></head><body>{body}</body></html>\n"
    )


def _head(document: dict[str, Any], title: str) -> str:
    met = all(row["met"] for row in document["goals"])
    verdict = "goals met" if met else "goals missed"
    early = " · ended early" if document["interrupted"] else ""
    loop = "closed loop" if document["plan"]["closed"] else "open loop"
    arrivals = "Poisson" if document["plan"]["poisson"] else "evenly spaced"
    wrong = document["total"]["errors"]["wrong"]
    verdict = f"{wrong:,} wrong answers" if wrong else verdict
    return (
        f'<h1>{title}</h1><p class="sub">{escape(document["started_at"])} · {document["seconds"]:.0f} s{early} · '
        f"{loop}, {arrivals} arrivals<br>{_where(document['environment'])}</p>"
        f'<span class="verdict{"" if met else " bad"}">{verdict}</span>'
    )


def _where(environment: dict[str, Any]) -> str:
    """What figures are nothing without, in a line."""
    machine, apart = environment["machine"], environment["machine"] != environment["generator_machine"]
    words = [f"qianyan {environment['versions']['qianyan']}", f"{machine['processor']}, {machine['cores']} cores",
             "keys in software" if environment["signing"] == "software" else "keys in hardware modules",
             "generator elsewhere" if apart else "generator on the same machine"]  # fmt: skip
    return escape(" · ".join(words))


def _cards(document: dict[str, Any]) -> str:
    total, environment = document["total"], document["environment"]
    ms = total["latency_ms"]
    faults = total["faults"] / total["count"] if total["count"] else 0.0
    cards = [
        (f"{total['rate']:,.0f}", "good answers a second"),
        (_time(ms["p50"]), "half of them within"),
        (_time(ms["p99"]), "99 % within"),
        (_time(ms["p99.9"]), "99.9 % within"),
        (_time(ms["max"]), "the slowest"),
        (f"{faults:.3%}", "faults"),
        (f"{total['errors']['wrong']:,}", "wrong answers"),
        (_share(environment["nonce_share"]), "OCSP with nonce"),
        (_share(environment["cache_share"]), "OCSP from the cache"),
    ]
    knee = document.get("knee")
    if knee:
        cards.insert(1, (f"{knee['rate']:,.0f}" if knee["rate"] else "none", "requests a second: the knee"))
    if "wrk" in document:
        cards.insert(0, (f"{document['wrk']['rate']:,.0f}", "answers a second to wrk"))
    return '<div class="cards">' + "".join(f"<div><b>{a}</b><span>{b}</span></div>" for a, b in cards) + "</div>"


def _number(value: float) -> str:
    """Three or four digits that mean something, whole numbers whole."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(ms: float) -> str:
    """As short as it can be told."""
    return f"{_number(ms)} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def _share(value: float | None) -> str:
    return "no OCSP" if value is None else f"{value:.0%}"


def _cautions(document: dict[str, Any]) -> str:
    generator = document["generator"]
    limits = [f"The generator was a limit, not the service alone: {text}" for text in generator["limits"]]
    limits += [text[0].upper() + text[1:] for text in generator["cautions"]]
    if document["metrics"]["failure"]:
        limits.append(f"The service's own metrics are missing or incomplete. {document['metrics']['failure']}")
    if document["plan"]["closed"]:
        limits.append(
            "Closed loop: a slow answer delays the next question, so that waiting is left out of the latencies."
        )
    wrong = "".join(f'<p class="wrong"><b>Wrong answer</b> {escape(text)}</p>' for text in generator["wrong"])
    return wrong + "".join(f'<p class="warn">{escape(text)}</p>' for text in limits)


def _goals(document: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['goal'])}</td><td>{_number(row['limit'])}</td><td>{_number(row['reached'])}</td>"
        f'<td class="{"met" if row["met"] else "missed"}">{"met" if row["met"] else "missed"}</td></tr>'
        for row in document["goals"]
    )
    head = "<thead><tr><th>goal</th><th>limit</th><th>reached</th><th></th></tr></thead>"
    return f'<h2>Goals</h2><div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _kinds(document: dict[str, Any]) -> str:
    names = ("requests", "good/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "faults", "of what kind")
    head = "".join(f"<th>{name}</th>" for name in ("", *names))
    rows = "".join(_kind_row(name, one) for name, one in [*document["kinds"].items(), ("all", document["total"])])
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    note = (
        "<p>From the scheduled moment of each request to its answer. Requests that were given up count with the time "
        "they had waited.</p>"
    )
    return f"<h2>Latency</h2>{table}{note}"


def _kind_row(name: str, one: dict[str, Any]) -> str:
    ms = one["latency_ms"]
    cells = [f"{one['count']:,}", f"{one['rate']:,.1f}"]
    cells += [f"{ms[share]:,.2f}" for share in ("p50", "p90", "p99", "p99.9")]
    cells += [f"{ms['max']:,.1f}", f"{one['faults']:,}"]
    cells.append(", ".join(f"{count:,} {error}" for error, count in one["errors"].items() if error != "ok" and count))
    whole = ' class="whole"' if name == "all" else ""
    bad = ' class="missed"' if one["faults"] else ""
    marked = [f"<td{bad if place == 7 else ''}>{cell}</td>" for place, cell in enumerate(cells)]
    return f"<tr{whole}><td>{escape(name)}</td>{''.join(marked)}</tr>"


def _wrk(one: dict[str, Any] | None) -> str:
    """What wrk counted, where it was the load."""
    if one is None:
        return ""
    ms = one["latency_ms"]
    broken = ", ".join(f"{count:,} {name}" for name, count in one["errors"].items() if count)
    rows = [
        ("answers a second", f"{one['rate']:,.0f}, of {one['requests']:,} in {one['seconds']:.1f} s"),
        ("latency", f"p50 {_time(ms['p50'])}, p99 {_time(ms['p99'])}, p99.9 {_time(ms['p99.9'])}, "
         f"at most {_time(ms['max'])}; a closed loop: who was not asked did not wait"),
        ("faults", broken or "none"),
        ("as", f"{one['threads']} threads, {one['connections']} connections, {one['scenario']}"),
    ]  # fmt: skip
    return _facts("wrk, beside which the figures above were taken", rows)


def _inside(routes: list[dict[str, Any]]) -> str:
    """The service's own view of the same time."""
    if not routes:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("", "answers", "mean ms", "half within", "99 % within"))

    def bound(value: float | None) -> str:
        return "longer than told" if value is None else _time(value)

    rows = "".join(
        f"<tr><td>{escape(one['listener'])} {escape(one['route'])}</td><td>{one['count']:,}</td>"
        f"<td>{one['mean_ms']:,.3f}</td><td>{bound(one['p50_ms'])}</td><td>{bound(one['p99_ms'])}</td></tr>"
        for one in routes
    )
    return (
        f'<h2>Inside the service</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div><p>As the service tells it, from a request's headers to its answer. What the latencies above "
        "have beyond that is waiting: for a free connection, for a core (below), for the network.</p>"
    )


# ---- plots


def _plots(document: dict[str, Any]) -> str:
    rows, wide = document["total"]["intervals"], document["interval_s"]

    def column(place: int) -> list[tuple[float, float]]:
        return [((n + 0.5) * wide, row[place]) for n, row in enumerate(rows)]

    figures = [
        plot("Rate", "requests/s", [Line("asked for", column(0)), Line("answered", column(1))]),
        plot("Latency", "ms, logarithmic", [Line(name, column(3 + n)) for n, name in
             enumerate(("p50", "p90", "p99", "p99.9"))], logarithmic=True, note="By the moment a request was due."),
        plot("Faults", "a second", [Line("faults", column(2))], top=1),
        plot("Latency distribution", "ms, logarithmic", _distributions(document), logarithmic=True,
             x_unit="nines", note="Shares past the median: 1 is 90 %, 2 is 99 %, 3 is 99.9 % of requests."),
        *_process_plots(document),
        *_metric_plots(document),
    ]  # fmt: skip
    return "".join(figures)


def _distributions(document: dict[str, Any]) -> list[Line]:
    """The busiest kinds' latency by share of requests."""
    busiest = sorted(document["kinds"].items(), key=lambda one: -one[1]["count"])[:7]
    lines = []
    for name, one in busiest:
        whole = unpacked(one["histogram"])
        shares = [share for share in _TAIL if one["count"] * (100 - share) / 100 >= 1]
        points = [(-log10(1 - share / 100), whole.percentile_ns(share) / 1e6) for share in shares]
        if len(points) > 1:
            lines.append(Line(name, points))
    return lines


def _process_plots(document: dict[str, Any]) -> list[str]:
    processes = document["processes"]
    cpu = [Line(one["name"], [(row[0], row[1] * 100) for row in one["series"]]) for one in processes]
    memory = [Line(one["name"], [(row[0], row[2]) for row in one["series"]]) for one in processes]
    waits = [Line(one["name"], [(row[0], row[3] * 100) for row in one["series"]]) for one in processes]
    return [
        plot("Processor", "% of a core", cpu, top=100, note="PostgreSQL with all of its processes."),
        plot(
            "Waiting for a core",
            "% of the time",
            waits,
            top=20,
            note="Ready to go on, and no core was free: what that is in the service is in the latencies.",
        ),
        plot("Memory", "MB resident", memory),
    ]


def _metric_plots(document: dict[str, Any]) -> list[str]:
    series = [(at, figures) for at, figures in document["metrics"]["series"]]

    def ratio(over: str, under: tuple[str, ...], times: float = 1.0) -> list[tuple[float, float]]:
        found = []
        for (_, before), (at, after) in pairwise(series):
            whole = sum(after[name] - before[name] for name in under)
            if whole > 0:
                found.append((at, times * (after[over] - before[over]) / whole))
        return found

    def gauge(name: str) -> list[tuple[float, float]]:
        return [(at, figures[name]) for at, figures in series]

    looked = ("cache_hits", "cache_misses", "cache_joined")
    caches = [
        Line("memory", ratio("cache_hits", looked, 100)),
        Line("Redis", ratio("redis_hits", ("redis_lookups",), 100)),
    ]
    fresh = [Line("CRL", gauge("crl_age_s")), Line("status set", gauge("set_age_s"))]
    lags = [Line("change feed", gauge("feed_age_s")), Line("directory", gauge("directory_lag_s"))]
    return [
        plot("Batch size", "signatures a native call", [Line("mean", ratio("signatures", ("batches",)))]),
        plot("Cache hits", "% of look-ups", caches, top=100),
        plot("Freshness", "s, age of the newest", fresh),
        plot("Lag", "s", lags, top=1),
    ]


# ---- what it was measured with, and on


def _facts(title: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<h2>{title}</h2><div class="wide"><table class="facts"><tbody>{cells}</tbody></table></div>'


def _generator(document: dict[str, Any]) -> str:
    one, plan = document["generator"], document["plan"]
    lag = one["lag_ms"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in one["core_share"].items())
    rows = [
        ("rates", ", ".join(f"{name} {rate:.4g}/s" for name, rate in plan["rates"].items())),
        ("how late it was itself", f"p50 {lag['p50']:.3f} ms, p99 {lag['p99']:.3f} ms, at most {lag['max']:.1f} ms"),
        ("busiest moment, of a core", shares or "too short to tell"),
        ("the machine's cores", f"{one['machine_busy']:.0%} busy"),
        ("answers judged whole", f"{one['checked']:,} ({plan['sample']:.2%}; life cycles always), "
         f"{one['check_us']:.0f} µs each, {one['check_cpu_s']:.2f} s of processor time in all, "
         f"{one['check_cpu_s'] / max(document['seconds'], 1e-9):.1%} of a core"),
        ("left out of judging", f"{one['samples_left_out']:,}"),
        ("connections", f"at most {plan['connections']} to each listener; {one['connect_failures']} could not be made"),
        ("given up after", f"{plan['timeout_s']:g} s"),
        ("warm-up before, not counted", f"{document['warm_up_s']:g} s"),
        ("seed", str(plan["seed"])),
    ]  # fmt: skip
    return _facts("Generator", rows) + _drift(document.get("drift"))


def _drift(drift: dict[str, Any] | None) -> str:
    """What a soak is for."""
    if drift is None:
        return ""
    rows = [(f"memory of {name}", f"{share:+.1%}") for name, share in drift["memory"].items()]
    return _facts("Drift: the last quarter against the second", [*rows, ("p99", f"{drift['p99']:+.1%}")])


def _context(document: dict[str, Any]) -> str:
    environment = document["environment"]
    machine = environment["machine"]
    rows = [
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine.get('memory_mb', 0):,} MB"),
        ("kernel", f"{machine.get('kernel', 'not told')} ({machine.get('architecture', '')})"),
        ("signing keys in", "software" if environment["signing"] == "software" else "hardware modules (HSM)"),
        ("OCSP with nonce", _share(environment["nonce_share"])),
        ("OCSP from the cache", _share(environment["cache_share"])),
        ("certificates of known status", ", ".join(f"{n:,} {state}" for state, n in environment["population"].items())),
        *((f"version of {name}", str(text)) for name, text in environment["versions"].items()),
        *((name, str(text)) for name, text in environment["settings"].items()),
    ]
    if machine != environment["generator_machine"]:
        other = environment["generator_machine"]
        rows.insert(1, ("generator's machine", f"{other['processor']}, {other['cores']} cores"))
    return _facts("Measured on", rows)
