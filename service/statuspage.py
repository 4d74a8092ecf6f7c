"""`/status` on the public listener: how fresh everything is, as one page for people.

Owns the page's shape; its numbers are a `service.watch.Watch`'s. Says only what relying parties may know anyway (CRLs
name their numbers and times themselves): no errors' details, no settings, no serials, no callers. Everything is in the
page, nothing runs in it, and every plot says its numbers in words, too. Made at most once a second for each language.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from aiohttp import web

from core.clock import rfc3339
from crl.service import ScopeStatus
from service.statuspage_text import POLICY, STYLE, TEXTS, Language
from service.watch import Look, Sample, Watch

_SCOPES_SHOWN: Final = 48
_KEPT_S: Final = 1.0
_DAY_S: Final = 86_400
#: Below this share of a day a CRL's time left is drawn as a warning.
_LOW_SHARE: Final = 0.25
_WIDTH: Final = 300
_HEIGHT: Final = 72
_REFRESH_S: Final = 30
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='7' fill='%231f5fbf'/%3E%3C/svg%3E"
)


class _Writer:
    """One page in one language."""

    def __init__(self, language: Language) -> None:
        self.texts = TEXTS[language]

    def word(self, name: str) -> str:
        """A text, escaped; an unknown name (a check that is new) stands for itself."""
        return html.escape(self.texts.get(name, name))

    def duration(self, seconds: float) -> str:
        """The two largest units of it."""
        if seconds < 1:
            return f"{seconds * 1000:.3g}{self.texts['ms']}"
        rest = round(seconds)
        parts: list[str] = []
        for unit, size in (("day", _DAY_S), ("hour", 3600), ("minute", 60), ("second", 1)):
            count, rest = divmod(rest, size)
            if count:
                parts.append(f"{count}{self.texts[unit]}")
        return " ".join(parts[:2])

    # ---- what the page is made of

    def checks(self, look: Look) -> str:
        """The list of checks, OCSP's own answer last."""
        rows = [(self.word(check.name), check.ok, "") for check in look.checks]
        took = "" if look.ocsp_s is None else f" · {self.duration(look.ocsp_s)}"
        rows.append((self.word("ocsp"), look.ocsp_s is not None, took))
        items = "".join(
            f'<li class="card{"" if ok else " bad"}"><span>{name}</span>{self.verdict(ok, note)}</li>'
            for name, ok, note in rows
        )
        return f'<ul class="grid checks">{items}</ul>'

    def verdict(self, ok: bool, note: str) -> str:
        """A mark and a word, so that colour is never the only sign."""
        sign, name = ("✓", "good") if ok else ("✗", "bad")
        said = self.word("ok" if ok else "not_ok") + note
        return f'<span class="verdict {name}"><span aria-hidden="true">{sign}</span> {said}</span>'

    def scope(self, scope: ScopeStatus, now_ms: int) -> str:
        """One CRL's card."""
        name = html.escape(f"{scope.authority_id} / {scope.partition}")
        if scope.number is None or scope.this_update_ms is None or scope.next_update_ms is None:
            return f'<li class="card bad"><h3>{name}</h3>{self.note("missing", bad=True)}</li>'
        left_s = (scope.next_update_ms - now_ms) / 1000
        until_s = (scope.next_build_ms - now_ms) / 1000
        rows = {
            "number": str(scope.number),
            "age": self.duration(max(1, (now_ms - scope.this_update_ms) / 1000)),
            "left": self.duration(left_s) if left_s >= 1 else "–",
            "next_build": self.texts["in"].format(self.duration(until_s)) if until_s >= 1 else self.texts["due"],
            "entries": f"{scope.entries:,}",
        }
        notes = [self.note("expired", bad=True)] if left_s < 0 else []
        notes += [self.note("failing", bad=True)] if scope.failures else []
        notes += [self.note("waiting")] if scope.waiting else []
        bad = " bad" if (left_s < 0 and not scope.ended) or scope.failures else ""
        return f'<li class="card{bad}"><h3>{name}</h3>{self.rows(rows)}{_bar(left_s)}{"".join(notes)}</li>'

    def sets(self, look: Look) -> str:
        """The status sets, where any are made here."""
        cards = []
        for one in look.sets:
            name = html.escape(one.authority_id)
            if one.number is None or one.this_update_ms is None or one.next_update_ms is None:
                cards.append(f'<li class="card bad"><h3>{name}</h3>{self.note("missing", bad=True)}</li>')
                continue
            left_s = (one.next_update_ms - look.at_ms) / 1000
            rows = {
                "number": str(one.number),
                "age": self.duration(max(1, (look.at_ms - one.this_update_ms) / 1000)),
                "left": self.duration(left_s) if left_s >= 1 else "–",
            }
            kind, bad = ("card bad", self.note("expired", bad=True)) if left_s < 0 else ("card", "")
            cards.append(f'<li class="{kind}"><h3>{name}</h3>{self.rows(rows)}{bad}</li>')
        return f'<section><h2>{self.word("sets")}</h2><ul class="grid">{"".join(cards)}</ul></section>' if cards else ""

    def feed(self, look: Look) -> str:
        """Where the change feed stands."""
        rows = {"feed_position": f"{look.feed_position:,}"}
        if look.feed_age_ms:
            rows["feed_age"] = self.duration(look.feed_age_ms / 1000)
        return f'<section><h2>{self.word("feed")}</h2><div class="card">{self.rows(rows)}</div></section>'

    def rows(self, rows: dict[str, str]) -> str:
        """Names and values."""
        return (
            "<dl>"
            + "".join(f"<dt>{self.word(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items())
            + "</dl>"
        )

    def note(self, name: str, *, bad: bool = False) -> str:
        """A sentence under a card."""
        return f'<p class="note{" bad" if bad else ""}">{self.word(name)}</p>'

    # ---- plots

    def plots(self, samples: Sequence[Sample]) -> str:
        """The last hours."""
        drawn = [
            self.plot("plot_age", [(s.at_ms, s.crl_age_s) for s in samples], self.duration),
            self.plot("plot_left", [(s.at_ms, s.crl_left_s) for s in samples], self.duration),
            self.plot("plot_feed", _a_minute(samples), "{:.1f}".format),
            self.plot("plot_ocsp", [(s.at_ms, s.ocsp_s) for s in samples], self.duration),
        ]
        span = ""
        if len(samples) > 1:
            hours = self.duration((samples[-1].at_ms - samples[0].at_ms) / 1000)
            span = f'<p class="note">{html.escape(self.texts["span"].format(hours))}</p>'
        return f'<div class="grid plots">{"".join(drawn)}</div>{span}'

    def plot(self, name: str, points: list[tuple[int, float | None]], said: Callable[[float], str]) -> str:
        """One curve over time, with a gap where there was no value, and its numbers in words."""
        title = self.word(name)
        values = [value for _, value in points if value is not None]
        if not values or len(points) < 2:
            body = f'<p class="note">{self.word("plot_empty")}</p>'
            return f'<figure class="card"><figcaption>{title}</figcaption>{body}</figure>'
        least, most = said(min(values)), said(max(values))
        now = "–" if points[-1][1] is None else said(points[-1][1])
        label = html.escape(self.texts["plot_says"].format(self.texts[name], least, most, now), quote=True)
        told = "".join(
            f"<span>{self.word(word)} {html.escape(value)}</span>"
            for word, value in (("least", least), ("most", most), ("now", now))
        )
        drawing = (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
            f'<line class="base" x1="0" x2="{_WIDTH}" y1="{_HEIGHT - 1}" y2="{_HEIGHT - 1}"/>{_curves(points)}</svg>'
        )
        return (
            f'<figure class="card"><figcaption>{title}</figcaption>{drawing}'
            f'<p class="range" aria-hidden="true">{told}</p></figure>'
        )

    # ---- the page

    def page(self, look: Look, samples: Sequence[Sample], *, refresh: bool, other: Language) -> str:
        """The whole of it."""
        worst = sorted(look.scopes, key=lambda scope: (scope.next_update_ms or 0, -scope.failures))
        shown = sorted(worst[:_SCOPES_SHOWN], key=lambda scope: (scope.authority_id, scope.partition))
        cards = "".join(self.scope(scope, look.at_ms) for scope in shown)
        rest = len(worst) - len(shown)
        more = f'<p class="note">{html.escape(self.texts["more"].format(rest))}</p>' if rest else ""
        state, sign, said = ("good", "✓", "all_well") if look.ok else ("bad", "✗", "trouble")
        own: Language = "en" if other == "zh" else "zh"
        toggle = f"?lang={own}" + ("" if refresh else "&amp;refresh=on")
        again = f'<meta http-equiv="refresh" content="{_REFRESH_S}">' if refresh else ""
        at = rfc3339(look.at_ms // 1000 * 1000)
        return (
            f'<!doctype html><html lang="{self.texts["lang"]}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta name="robots" content="noindex">{again}<title>{self.word(said)} · {self.word("title")}</title>'
            f'<link rel="icon" href="{_ICON}"><style>{STYLE}</style></head><body>'
            f'<header><h1>{self.word("title")}</h1><p class="banner {state}"><strong>'
            f'<span aria-hidden="true">{sign}</span> {self.word(said)}</strong>'
            f'<time datetime="{at}">{self.word("as_of")} {at[:10]} {at[11:19]} UTC</time></p>'
            f'<nav aria-label="{self.word("title")}"><a href="?lang={other}" lang="{TEXTS[other]["lang"]}">'
            f"{self.word('other')}</a>"
            f'<a href="{toggle}">{self.word("no_refresh" if refresh else "refresh")}</a></nav></header><main>'
            f"<section><h2>{self.word('checks')}</h2>{self.checks(look)}</section>"
            f'<section><h2>{self.word("crls")}</h2><ul class="grid">{cards}</ul>{more}</section>'
            f"{self.sets(look)}<section><h2>{self.word('history')}</h2>{self.plots(samples)}</section>"
            f"{self.feed(look)}</main><footer><p>{self.word('local')}</p></footer></body></html>"
        )


def _bar(left_s: float) -> str:
    """Time left as a share of a day; the number stands beside it."""
    share = min(1.0, max(0.0, left_s / _DAY_S))
    kind = "low" if share < _LOW_SHARE else "left"
    return (
        '<svg viewBox="0 0 100 6" preserveAspectRatio="none" class="gauge" aria-hidden="true">'
        '<rect class="bar" width="100" height="3" y="3"/>'
        f'<rect class="{kind}" width="{100 * share:.1f}" height="3" y="3"/></svg>'
    )


def _a_minute(samples: Sequence[Sample]) -> list[tuple[int, float | None]]:
    """Feed entries a minute between one sample and the next."""
    return [
        (after.at_ms, max(0, after.feed_position - before.feed_position) * 60_000 / max(1, after.at_ms - before.at_ms))
        for before, after in pairwise(samples)
    ]


def _curves(points: list[tuple[int, float | None]]) -> str:
    """The polylines, at most one point to each step of the width: the highest of those that fall there."""
    first, last = points[0][0], points[-1][0]
    most = max(value for _, value in points if value is not None) or 1.0
    steps: dict[int, float | None] = {}
    for at_ms, value in points:
        x = round((at_ms - first) / max(1, last - first) * (_WIDTH - 4)) + 2
        before = steps.get(x)
        steps[x] = value if before is None or (value is not None and value > before) else before
    drawn = []
    for run in _runs(steps.items()):
        line = " ".join(f"{x},{_HEIGHT - 2 - value / most * (_HEIGHT - 8):.1f}" for x, value in run)
        start, end = run[0][0], run[-1][0]
        drawn.append(f'<polygon class="area" points="{start},{_HEIGHT - 1} {line} {end},{_HEIGHT - 1}"/>')
        drawn.append(f'<polyline class="curve" points="{line}"/>')
    return "".join(drawn)


def _runs(steps: Iterable[tuple[int, float | None]]) -> list[list[tuple[int, float]]]:
    """The stretches without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for x, value in steps:
        if value is not None:
            runs[-1].append((x, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _language(request: web.Request) -> Language:
    """?lang, else the first of the browser's languages that we have, else Chinese."""
    asked = request.query.get("lang")
    if asked in ("zh", "en"):
        return "zh" if asked == "zh" else "en"
    for wanted in request.headers.get("Accept-Language", "")[:200].lower().split(","):
        if wanted.strip().startswith("zh"):
            return "zh"
        if wanted.strip().startswith("en"):
            return "en"
    return "zh"


class StatusPage:
    """The route. Keeps the four pages there are (two languages, refreshing or not) for a second each."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._kept: dict[tuple[Language, bool], tuple[float, bytes]] = {}

    def public(self) -> list[web.RouteDef]:
        """The routes of the public listener."""
        return [web.get("/status", self._page)]

    async def _page(self, request: web.Request) -> web.Response:
        kind = (_language(request), request.query.get("refresh") == "on")
        kept = self._kept.get(kind)
        if kept is None or time.monotonic() - kept[0] >= _KEPT_S:
            look = await self._watch.look()
            other: Language = "en" if kind[0] == "zh" else "zh"
            samples = [*self._watch.samples, look.sample()]
            text = _Writer(kind[0]).page(look, samples, refresh=kind[1], other=other)
            kept = self._kept[kind] = (time.monotonic(), text.encode())
        return web.Response(body=kept[1], headers=_HEADERS)


_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "public, max-age=2",
    "Vary": "Accept-Language",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
