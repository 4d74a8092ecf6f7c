"""`/status`: what it says, that it cannot do harm, and that it is read well in a browser, on a phone, too."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from crl.service import ScopeStatus
from service import statuspage
from service.cli import cli
from service.health import Check, Report
from service.statuspage import _HEADERS, _SCOPES_SHOWN, _Writer
from service.statuspage_text import TEXTS, Language
from service.watch import SAMPLES, Look, Sample
from status.set.service import SetStanding
from tests.browser import Browser
from tests.running import Service

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


@pytest.fixture
def running(service: Service) -> Service:
    """The one that others use, too: what a test here takes away it gives back."""
    return service


def metric(service: Service, name: str) -> float:
    text = service.call("GET", "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def scope(
    partition: int, left_ms: int | None = 20 * HOUR_MS, *, failures: int = 0, waiting: bool = False
) -> ScopeStatus:
    known = left_ms is not None
    return ScopeStatus(
        authority_id="an-authority-with-the-longest-name",
        partition=partition,
        number=123_456_789 if known else None,
        this_update_ms=NOW_MS - 4 * HOUR_MS if known else None,
        next_update_ms=NOW_MS + left_ms if left_ms is not None else None,
        age_s=4 * 3600.0 if known else None,
        seconds_left=left_ms / 1000 if left_ms is not None else None,
        entries=1_234_567 if known else None,
        size=40_000_000 if known else None,
        next_build_ms=NOW_MS + 1_000,
        waiting=waiting,
        failures=failures,
        last_error="<script>alert(1)</script> /srv/secret" if failures else None,
    )


def bad_look() -> Look:
    """Many partitions, of which some are in every kind of trouble."""
    scopes = [scope(0, None), scope(1, -HOUR_MS, failures=3), scope(2, 2 * HOUR_MS, waiting=True)]
    scopes += [scope(number) for number in range(3, 300)]
    standing = SetStanding("issuing", 7, 6, NOW_MS - HOUR_MS, NOW_MS - 1, 10, 1, 0, 100, 50, False, 0, None)
    missing = SetStanding("second", None, None, None, None, None, None, None, None, None, False, 0, None)
    checks = (Check("store", True, "feed at 9"), Check("crl", False, "<b>none</b>"), Check("<new>", True, ""))
    return Look(NOW_MS, checks, tuple(scopes), (standing, missing), 12_345_678_901, 900, None)


def samples(count: int = SAMPLES) -> list[Sample]:
    """A sawtooth with a gap."""
    made = []
    for index in range(count):
        gap = count // 3 < index < count // 2
        age = None if gap else float(index % 240) * 15
        left = None if age is None else 86_400 - age
        at_ms = NOW_MS - (count - index) * 15_000
        made.append(Sample(at_ms, age, left, index * index, None if gap else 0.001, True))
    return made


def page(language: Language, look: Look, past: list[Sample], *, refresh: bool = False) -> str:
    return _Writer(language).page(look, past, refresh=refresh, other="en" if language == "zh" else "zh")


class Outline(HTMLParser):
    """Tags, attributes and text; fails on what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def test_both_languages_say_everything() -> None:
    assert TEXTS["zh"].keys() == TEXTS["en"].keys()
    for name, text in TEXTS["zh"].items():
        assert text.count("{}") == TEXTS["en"][name].count("{}"), name


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_page_full_of_trouble_says_so_and_stays_small(language: Language) -> None:
    text = page(language, bad_look(), samples())
    outline = Outline(text)
    said = " ".join(outline.text)
    words = TEXTS[language]
    for name in ("trouble", "missing", "expired", "failing", "waiting"):
        assert words[name] in said, name
    assert words["all_well"] not in said
    shown = [part for part in outline.text if part.startswith("an-authority-")]
    assert len(shown) == _SCOPES_SHOWN
    assert {"an-authority-with-the-longest-name / 0", "an-authority-with-the-longest-name / 1"} <= set(shown)
    assert words["more"].format(300 - _SCOPES_SHOWN) in said
    assert len(text) < 120_000
    for detail in ("script", "secret", "<b>none", "<new>"):
        assert detail not in text, "errors' details are not for the public, and names are escaped"


def test_readiness_without_what_all_nodes_share(running: Service) -> None:
    """A CRL that is late must not take OCSP away from everybody: a balancer may leave it out of what it asks."""
    report = Report((Check("store", True, ""), Check("crl", False, "late")))
    assert not report.ready
    assert report.ready_but_for(["crl", "another"])
    assert not report.ready_but_for([])
    assert not report.ready_but_for(["store"])
    for path in ("/readyz", "/readyz?ignore=crl", "/readyz?ignore=crl&ignore=tls"):
        answer = running.get(path)
        assert answer.status == 200
        assert answer.json["ready"] is True
        assert answer.json["checks"]["crl"]["ok"] is True


def test_it_can_be_read_without_seeing_it() -> None:
    outline = Outline(page("en", bad_look(), samples()))
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("h1") == tags.count("main") == 1
    assert outline.tags[0] == ("html", {"lang": "en"})
    for tag, attributes in outline.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label"), attributes
    labels = [
        attributes["aria-label"] or "" for tag, attributes in outline.tags if tag == "svg" and "role" in attributes
    ]
    assert labels[0].startswith("Age of the oldest CRL: least 1 s") or "least 0" in labels[0], labels
    assert len(labels) == 4


def test_a_plot_has_a_gap_where_nothing_was_measured() -> None:
    outline = Outline(page("en", bad_look(), samples()))
    curves = [attributes["points"] or "" for tag, attributes in outline.tags if tag == "polyline"]
    assert len(curves) == 2 + 2 + 1 + 2
    for curve in curves:
        for point in curve.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 300
            assert 0 <= y <= 72
        assert len(curve.split()) <= 300


def test_it_is_served_on_the_public_listener_and_may_do_nothing(running: Service) -> None:
    answer = running.get("/status", Accept_Language="en-GB,zh;q=0.5")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert int(re.search(r"max-age=(\d+)", answer.headers["Cache-Control"])[1]) <= 5  # type: ignore[index]
    outline = Outline(answer.body.decode())
    assert "script" not in [tag for tag, _ in outline.tags]
    for _, attributes in outline.tags:
        assert not {"style", "onload", "onclick"} & attributes.keys()
        for name in ("src", "href"):
            assert (attributes.get(name) or "?").startswith(("?", "data:")), attributes


def test_languages(running: Service) -> None:
    def title(path: str = "/status", **headers: str) -> str:
        return re.search(r"<title>(.*)</title>", running.get(path, **headers).body.decode())[1]  # type: ignore[index]

    assert "服务状态" in title()
    assert "服务状态" in title(**{"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert "service status" in title(**{"Accept-Language": "en-GB,zh;q=0.5"})
    assert "service status" in title("/status?lang=en", **{"Accept-Language": "zh"})
    assert "http-equiv" not in running.get("/status").body.decode()
    assert 'http-equiv="refresh"' in running.get("/status?refresh=on").body.decode()


def test_it_says_how_things_stand_and_nothing_private(running: Service) -> None:
    said = " ".join(Outline(running.get("/status?lang=en").body.decode()).text)
    for words in ("All is well", "issuing / 0", "root / 0", "Next build", "OCSP answers"):
        assert words in said
    for secret in (
        "demo",
        str(running.installation.directory),
        "qianyan.toml",
        "passphrase",
        running.installation.token,
    ):
        assert secret not in said


def test_however_many_ask_the_store_is_asked_once_a_second(running: Service) -> None:
    before = metric(running, 'qianyan_ocsp_cache_total{outcome="hit"}')
    began = time.monotonic()
    for number in range(200):
        assert running.get(f"/status?lang={('zh', 'en')[number % 2]}&number={number}").status == 200
    passed_s = time.monotonic() - began
    looks = metric(running, 'qianyan_ocsp_cache_total{outcome="hit"}') - before
    assert looks <= 2 * passed_s + 4, "each look asks the responder once for each authority that answers"


def test_an_ocsp_signer_that_may_not_sign_shows(running: Service) -> None:
    config = str(running.installation.config)
    listing = CliRunner().invoke(cli, ["key", "list", "--json", "--config", config])
    (signer,) = [key["id"] for key in json.loads(listing.stdout) if key["purpose"] == "ocsp"]

    def wait_for(words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in running.get("/status?lang=en").body.decode():
            assert time.monotonic() < deadline, words
            threading.Event().wait(0.2)

    assert metric(running, "qianyan_ocsp_probe_ok") == 1
    assert CliRunner().invoke(cli, ["key", "freeze", signer, "--config", config]).exit_code == 0
    try:
        wait_for("Something is wrong")
        assert metric(running, "qianyan_ocsp_probe_ok") == 0
    finally:
        assert CliRunner().invoke(cli, ["key", "resume", signer, "--config", config]).exit_code == 0
    wait_for("All is well")
    assert metric(running, "qianyan_ocsp_probe_ok") == 1


def test_what_alerts_ask_about_is_measured(running: Service) -> None:
    text = running.call("GET", "/metrics").body.decode()
    for check in ("store", "clock", "authorities", "ocsp_signer", "crl"):
        assert f'qianyan_check_ok{{check="{check}"}} 1.0' in text
    assert 0 < metric(running, "qianyan_disk_free_bytes") < metric(running, "qianyan_disk_size_bytes")
    assert metric(running, "qianyan_ocsp_signer_seconds_left") > 86_400
    assert 'qianyan_authority_seconds_left{authority="root"}' in text
    assert metric(running, "qianyan_clock_behind_seconds") == 0
    assert abs(metric(running, "qianyan_watch_timestamp_seconds") - time.time()) < 300


@asynccontextmanager
async def served(text: str) -> AsyncIterator[str]:
    """A page with the headers that it has in the service."""

    async def give(_request: web.Request) -> web.Response:
        return web.Response(body=text.encode(), headers=_HEADERS)

    application = web.Application()
    application.add_routes([web.get("/status", give)])
    async with TestServer(application) as server:
        yield str(server.make_url("/status"))


#: Elements that stick out of the window to the right.
STICKS_OUT = (
    "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).length"
)
#: WCAG 2.2, 1.4.3: text against what is behind it.
CONTRAST = """(() => {
  const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(part);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)')) return c; } return 'rgb(255,255,255)'; };
  const says = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  const contrast = e => { const both = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (both[0] + .05) / (both[1] + .05); };
  return Math.min(...[...document.querySelectorAll('body *')].filter(says).map(contrast));
})()"""


async def test_a_browser_shows_it_well(running: Service, tmp_path: Path) -> None:
    """On a phone of 360 px, on a desk, light and dark, in both languages, in good times and bad."""
    async with Browser() as browser, served(page("en", bad_look(), samples())) as trouble:
        tab = await browser.page()
        for url in (f"{running.public}/status?lang=zh", f"{running.public}/status?lang=en", trouble):
            for width, phone, dark in ((360, True, False), (360, True, True), (1280, False, False)):
                await tab.resize(width, 740, phone=phone, dark=dark)
                await tab.open(url)
                assert await tab.evaluate("document.documentElement.scrollWidth") <= width, url
                assert await tab.evaluate(STICKS_OUT) == 0, url
                assert await tab.evaluate(CONTRAST) >= 4.5, (url, dark)
                assert await tab.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius") != "0px", (
                    "the style was refused"
                )
        await tab.screenshot(tmp_path / "status.png")
        assert (tmp_path / "status.png").stat().st_size > 10_000
        assert tab.complaints == []
        # Other pages cannot frame it, and it can load nothing: the policy is the browser's, too.
        refused = await tab.evaluate(f"fetch('{running.public}/healthz').then(() => 'fetched', () => 'refused')")
        assert refused == "refused"


def test_the_shape_of_the_history_is_bounded() -> None:
    assert SAMPLES * 15 <= 6 * 3600
    assert statuspage._KEPT_S <= 1
