"""Line plots as SVG with labels in HTML, so that letters keep their size on a phone. Knows numbers and colours only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

#: Classes s0 … s7 have their colours in the report's style sheet.
COLOURS: Final = 8
_POINTS: Final = 400


@dataclass(frozen=True)
class Line:
    """One line: (x, y) ascending in x."""

    name: str
    points: Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span at least from `low` to `high`."""
    if high <= low:
        high = low + 1
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that span from `low` to `high`; 2 and 5 times them as well, and no more than is needed, where there
    are few."""
    low, high = max(low, 1e-6), max(high, 1e-6)
    first, last = floor(log10(low)), ceil(log10(high))
    last = max(last, first + 1)
    if last - first > 2:
        return [10.0**n for n in range(first, last + 1)]
    steps = [times * 10.0**n for n in range(first, last + 1) for times in (1, 2, 5)]
    under = max(step for step in steps if step <= low * 1.0001)
    roof = min(step for step in steps if step >= high * 0.9999 and step > under)
    return [step for step in steps if under <= step <= roof]


def short(value: float) -> str:
    """A number as an axis tells it."""
    for divisor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _POINTS of them: of each group its highest, so that no peak is lost."""
    group = ceil(len(points) / _POINTS) or 1
    return [max(points[at : at + group], key=lambda one: one[1]) for at in range(0, len(points), group)]


def plot(
    title: str, unit: str, lines: Sequence[Line], *, logarithmic: bool = False, top: float | None = None,
    x_unit: str = "s", note: str = "",
) -> str:  # fmt: skip
    """A figure of lines over x; nothing where there is nothing to show. top: the y axis reaches at least so far."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    values = [y for line in lines for _, y in line.points]
    if logarithmic:
        positive = [value for value in values if value > 0]
        marks = log_ticks(min(positive, default=0.1), max(positive, default=1.0))
    else:
        marks = ticks(0.0, max(max(values), top or 0.0))
    end = max(line.points[-1][0] for line in lines) or 1.0
    floor_y, roof = marks[0], marks[-1]

    def height(y: float) -> float:
        if logarithmic:
            return 100 * (log10(max(y, floor_y)) - log10(floor_y)) / (log10(roof) - log10(floor_y))
        return 100 * (y - floor_y) / (roof - floor_y)

    def path(line: Line) -> str:
        return " ".join(f"{100 * x / end:.2f},{100 - height(y):.2f}" for x, y in _thinned(line.points))

    drawn = "".join(
        f'<polyline class="s{n % COLOURS}" points="{path(line)}"><title>{escape(line.name)}</title></polyline>'
        for n, line in enumerate(lines)
    )
    grid = "".join(f'<line x1="0" x2="100" y1="{100 - height(y):.2f}" y2="{100 - height(y):.2f}"/>' for y in marks)
    ys = "".join(f'<span style="bottom:{height(y):.2f}%">{short(y)}</span>' for y in marks)
    across = [x for x in ticks(0.0, end) if x <= end * 1.0001]
    xs = "".join(f'<span style="left:{100 * x / end:.2f}%">{short(x)}</span>' for x in across)
    keys = "".join(f'<li class="k{n % COLOURS}">{escape(line.name)}</li>' for n, line in enumerate(lines))
    told = f"<p>{escape(note)}</p>" if note else ""
    label = escape(f"{title}, {unit}")
    return (
        f'<figure><figcaption>{escape(title)} <small>{escape(unit)}</small></figcaption><div class="plot">'
        f'<div class="ys" aria-hidden="true">{ys}</div><svg viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'role="img" aria-label="{label}"><g class="grid">{grid}</g>{drawn}</svg>'
        f'<div class="xs" aria-hidden="true">{xs}<b>{escape(x_unit)}</b></div></div>'
        f'<ul class="keys">{keys}</ul>{told}</figure>'
    )
