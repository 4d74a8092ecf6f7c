"""The load generator's figures: histograms, schedules, shapes, comparisons, verdicts, and what a report refuses."""

from __future__ import annotations

import copy
import math
import random
import statistics
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp
from hypothesis import example, given
from hypothesis import strategies as st

from core.asn1.names import build_name
from loadtest import compare, plots, result, shapes, verdict, wrk
from loadtest._engine import PART_BITS, WHOLE_BITS, Record, Schedule, bucket, bucket_top
from loadtest.histogram import ERRORS, Histogram, merged, unpacked
from loadtest.plan import Plan
from loadtest.report import render, write_report
from loadtest.scenarios.catalogue import SCENARIOS, read_mix
from loadtest.scenarios.ocsp import NONCE_OCTETS, request
from loadtest.target import Changes, TargetError
from loadtest.x509 import Issuer
from loadtest.zipf import Zipf
from tests.status_world import KeySigner, certify

TOP = (1 << 42) - 1
DRAW = random.Random(20261120)
DISTRIBUTIONS = {
    "uniform": [DRAW.uniform(1e3, 1e9) for _ in range(20_000)],
    "exponential": [DRAW.expovariate(1 / 2e6) for _ in range(20_000)],
    "lognormal": [DRAW.lognormvariate(13, 1.5) for _ in range(20_000)],
    "two peaks": [DRAW.gauss(1e6, 1e4) if n % 50 else DRAW.gauss(2e9, 1e7) for n in range(20_000)],
}

# ---- histograms


@given(st.integers(0, TOP), st.sampled_from([WHOLE_BITS, PART_BITS]))
@example(0, WHOLE_BITS)
@example(TOP, WHOLE_BITS)
@example((1 << 20) - 1, PART_BITS)
def test_a_bucket_holds_its_value_and_no_more_than_its_precision(value: int, bits: int) -> None:
    number = bucket(value, bits)
    top = bucket_top(number, bits)
    assert value <= top
    assert top - value <= value >> bits
    assert bucket(top, bits) == number
    if value < TOP:
        assert bucket(value + 1, bits) - number in (0, 1)
        assert (bucket(value + 1, bits) == number) == (value < top)


def test_what_lasts_too_long_is_counted_as_the_longest() -> None:
    assert bucket(TOP * 1000, WHOLE_BITS) == bucket(TOP, WHOLE_BITS)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentiles_of_known_distributions(name: str) -> None:
    values = sorted(round(value) for value in DISTRIBUTIONS[name])
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (1, 10, 50, 90, 99, 99.9, 99.99, 100):
        true = values[math.ceil(len(values) * share / 100) - 1]
        told = histogram.percentile_ns(share)
        assert true <= told <= true * (1 + 2**-WHOLE_BITS) + 1, share
    assert histogram.max_ns == values[-1]
    over = values[len(values) // 2]
    share = sum(value > over for value in values) / len(values)
    assert abs(histogram.share_over(over) - share) < 0.01


def test_the_compiled_record_counts_as_python_does() -> None:
    values = [round(value) for value in DISTRIBUTIONS["lognormal"]]
    record, expected = Record(1, 4, 10**9), Histogram()
    for place, value in enumerate(values):
        at_ns = (place % 3) * 10**9
        record.offer(0, at_ns, at_ns + 1_000)
        record.finish(0, at_ns, value, 0, 10)
        expected.add(value)
    errors, max_ns, sum_ns, octets, counts = record.kind(0)
    assert counts == dict(expected.counts)
    assert (max_ns, sum_ns, octets) == (max(values), sum(values), 10 * len(values))
    assert dict(zip(ERRORS, errors, strict=True)) == {**dict.fromkeys(ERRORS, 0), "ok": len(values)}
    parts = [record.part(0, place) for place in range(4)]
    assert sum(part[0] for part in parts) == sum(part[1] for part in parts) == len(values)
    together = merged(Histogram.of(part[3], bits=PART_BITS) for part in parts)
    assert together.count == len(values)
    assert together.percentile_ns(99) >= expected.percentile_ns(99) * (1 - 2**-9)
    assert record.lag() == ({bucket(1_000, WHOLE_BITS): len(values)}, 1_000)


def test_a_wrong_answer_is_no_longer_a_good_one() -> None:
    record = Record(2, 1, 10**9)
    record.finish(1, 0, 5, 0, 0)
    record.finish(1, 0, 5, 0, 0)
    record.wrong(1)
    assert record.kind(1)[0] == [1, 0, 0, 0, 0, 0, 0, 1]
    for bad in (lambda: record.finish(2, 0, 0, 0, 0), lambda: record.part(0, 1), lambda: record.finish(0, 0, 0, 7, 0)):
        with pytest.raises((IndexError, ValueError)):
            bad()


def test_packing_keeps_everything() -> None:
    histogram = Histogram()
    for value in DISTRIBUTIONS["uniform"][:500]:
        histogram.add(round(value))
    again = unpacked([(a, b) for a, b in histogram.packed()], max_ns=histogram.max_ns)
    assert again == histogram
    with pytest.raises(ValueError, match="precision"):
        merged([histogram, Histogram(PART_BITS)])


# ---- schedules


def test_even_arrivals() -> None:
    moments = list(Schedule([(0, 250.0)], 4.0, poisson=False))
    assert abs(len(moments) - 1000) <= 1
    assert {round((b - a) / 1e3) for a, b in pairwise(moments)} == {4000}


def test_a_ramp_has_as_many_arrivals_as_the_area_under_it() -> None:
    moments = list(Schedule([(0, 0.0), (10, 1000.0)], 10.0, poisson=False))
    assert abs(len(moments) - 5000) <= 2
    for part in (0.25, 0.5, 0.75):  # the area up to x is x² of the whole
        before = sum(moment < part * 10e9 for moment in moments)
        assert abs(before - part**2 * 5000) <= 2


def test_poisson_arrivals() -> None:
    rate = 1000.0
    moments = list(Schedule([(0, rate)], 60.0, seed=7))
    gaps = sorted((b - a) / 1e9 for a, b in pairwise([0, *moments]))
    assert abs(len(moments) - 60 * rate) < 5 * math.sqrt(60 * rate)
    assert abs(statistics.pstdev(gaps) * rate - 1) < 0.03  # of an exponential: its mean
    n = len(gaps)  # Kolmogorov and Smirnov, at one in a hundred thousand
    distance = max(abs(1 - math.exp(-rate * gap) - (place + 0.5) / n) for place, gap in enumerate(gaps))
    assert distance < 2.5 / math.sqrt(n)
    counts = [0] * 600
    for moment in moments:
        counts[min(599, moment // 100_000_000)] += 1
    assert 0.8 < statistics.pvariance(counts) / statistics.mean(counts) < 1.25  # a count's variance is its mean


def test_a_seed_gives_the_same_arrivals_again() -> None:
    def first(seed: int) -> list[int]:
        return list(takewhile(lambda at: at < 10**8, Schedule([(0, 5000.0)], 1.0, seed=seed)))

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize("points", [[], [(1, 5.0)], [(0, 1.0), (0, 2.0)], [(0, -1.0)]])
def test_a_schedule_that_makes_no_sense(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule(points, 1.0)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_shapes(shape: str) -> None:
    curve = shapes.points(shape, "ocsp-post", 120.0)
    assert sum(1 for _ in Schedule([(at, 10 * times) for at, times in curve], 120.0)) > 0
    highest = max(times for _, times in curve)
    assert highest == {"spike": 10, "mass-revocation": 3, "renewal-day": 1.6}.get(shape, 1)
    assert shapes.at(curve, 60.0) == pytest.approx(
        {"spike": 10, "mass-revocation": 3, "ramp": 0.525, "renewal-day": 0.6}.get(shape, 1)
    )
    assert max(times for _, times in shapes.points("mass-revocation", "revoke", 9.0)) == 20


def test_a_shape_changes_what_a_mix_is_made_of() -> None:
    rates = {"ocsp-nonce": 50.0, "revoke": 1.0}
    assert shapes.rates_at("mass-revocation", rates, 90.0, 1.0) == rates
    assert shapes.rates_at("mass-revocation", rates, 90.0, 45.0) == {"ocsp-nonce": 150.0, "revoke": 20.0}
    assert shapes.rates_at("spike", rates, 90.0, 1000.0) == rates


def test_serials_are_asked_about_as_zipf_has_it() -> None:
    zipf, rng = Zipf(range(1000)), random.Random(1)
    counts: dict[int, int] = {}
    for _ in range(50_000):
        picked = zipf.pick(rng)
        counts[picked] = counts.get(picked, 0) + 1
    ranked = sorted(counts.values(), reverse=True)
    harmonic = sum(1 / rank for rank in range(1, 1001))
    assert ranked[0] / 50_000 == pytest.approx(1 / harmonic, rel=0.1)
    assert ranked[0] / ranked[9] == pytest.approx(10, rel=0.3)
    assert len(counts) > 900


# ---- what is true


def test_what_may_be_told_while_a_status_changes() -> None:
    changes = Changes()
    changes.issued(7, 100.0)
    changes.changing([7], "revoked", 110.0)
    assert changes.possible(7, 105.0, 109.0) == {"good"}
    assert changes.possible(7, 105.0, 110.5) == {"good", "revoked"}
    changes.changed([7], 111.0)
    assert changes.possible(7, 111.5, 111.6) == {"good", "revoked"}  # within the second that a change may take
    assert changes.possible(7, 112.1, 112.2) == {"revoked"}


def test_ocsp_requests_as_others_read_them() -> None:
    signer = KeySigner("ca")
    name = build_name({"C": "CN", "CN": "x"})
    issuer = Issuer(certify(name, signer.public_key, name, signer, 3, kind="ca", ends_ms=2_000_000_000_000))
    assert issuer.public_key == signer.public_key
    for serial in (1, 0x80, 0x7F << 120, (1 << 159) - 1):
        body, at = request(issuer, [serial], nonce=True)
        read = ocsp.load_der_ocsp_request(body)
        assert read.serial_number == serial
        patched = body[:at] + b"n" * NONCE_OCTETS
        extension = ocsp.load_der_ocsp_request(patched).extensions[0].value
        assert extension.nonce == b"n" * NONCE_OCTETS  # type: ignore[attr-defined]
        assert request(issuer, [serial])[1] == 0


def test_mixes() -> None:
    assert sum(read_mix((), "standard", 100.0).values()) == pytest.approx(100)
    assert read_mix(("sign=0", "crl=7"), "renewal", None) == {"ocsp-post": 20, "issue": 1, "crl": 7}
    for texts, mix, said in (
        (("nonsense=1",), None, "ocsp-post"),
        (("sign=fast",), None, "NAME="),
        ((), None, "name at"),
    ):
        with pytest.raises(TargetError, match=said):
            read_mix(texts, mix, None)
    assert {"ocsp-post", "sign", "verify-bulk", "crl", "status-set", "ldap", "issue", "life-cycle"} <= SCENARIOS.keys()


# ---- verdicts


def test_the_knee_of_a_ramp() -> None:
    offered = [100.0 * n for n in range(1, 31)]
    done = [min(rate, 2000.0) for rate in offered]
    p99 = [2.0 if rate <= 1900 else 400.0 for rate in offered]
    calm = [0.0] * 30
    assert verdict.knee(offered, done, p99, calm) == 2000.0
    assert verdict.knee(offered, offered, [2.0] * 30, calm) is None
    assert verdict.knee(offered, offered, [2.0] * 30, [0.0] * 20 + [0.5] * 10) == 2100.0
    once = [2.0] * 15 + [50.0] + [2.0] * 14
    assert verdict.knee(offered, offered, once, calm) is None  # a hiccup is not a knee


def test_when_the_generator_was_the_limit() -> None:
    limits = verdict.generator_limits
    assert limits({"driver": 0.5}, 0.1, 2.0, 0.6, shared=True) == []
    assert "97 % of a core".replace(" ", "") in limits({"driver": 0.97}, 0.1, 2.0, 0.6, shared=True)[0].replace(" ", "")
    assert "late" in limits({"driver": 0.5}, 8.0, 20.0, 0.6, shared=True)[0]
    assert limits({"driver": 0.5}, 8.0, 2_000.0, 0.6, shared=True) == []
    assert "busy" in limits({"driver": 0.5}, 0.1, 2.0, 0.99, shared=True)[0]
    assert limits({"driver": 0.5}, 0.1, 2.0, 0.99, shared=False) == []


def test_goals() -> None:
    total = {"count": 1000, "faults": 5, "rate": 99.5, "errors": {"wrong": 0}, "latency_ms": {"p99": 12.0}}
    met = {row["goal"]: row["met"] for row in verdict.judge(verdict.Goals(10.0, 0.01, 50.0), total)}
    assert met == {"wrong answers": True, "requests": True, "p99, ms": False, "error rate": True,
                   "good answers a second": True}  # fmt: skip
    wrong = {**total, "errors": {"wrong": 1}}
    assert not all(row["met"] for row in verdict.judge(verdict.Goals(), wrong))
    nothing = {**total, "count": 0}
    assert not all(row["met"] for row in verdict.judge(verdict.Goals(), nothing))


def test_drift() -> None:
    assert verdict.drift([(n, 100 + n) for n in range(100)]) == pytest.approx(50 / 137, rel=0.05)
    assert verdict.drift([(n, 100.0) for n in range(100)]) == 0


# ---- documents, comparisons, reports


ROUTES = [{"listener": "public", "route": "/ocsp", "count": 6000, "mean_ms": 0.25, "p50_ms": 0.2, "p99_ms": None}]


WRK = {
    "duration_us": 2_000_000, "requests": 1000, "octets": 9, "status": 3, "connect": 0, "read": 1, "write": 0,
    "timeout": 2, "latency_us": [[500, 900], [2_000, 100]],
}  # fmt: skip


def document(*, p99_ms: float = 5.0, seconds: int = 60, seed: int = 1) -> dict[str, Any]:
    """A result as a run gives it, with latencies drawn around 1 ms and `p99_ms`."""
    rng = random.Random(seed)
    plan = Plan("t", {"ocsp-nonce": 100.0}, "steady", seconds, 1, True, 8, 5.0, 0.01)
    record = Record(1, plan.parts, 10**9)
    for second in range(seconds):
        for n in range(100):
            mean = p99_ms * 1e6 if n % 20 == 0 else 1e6
            record.offer(0, second * 10**9, second * 10**9)
            record.finish(0, second * 10**9, round(rng.gauss(mean, mean / 10)), 0, 1000)
    errors, max_ns, sum_ns, octets, counts = record.kind(0)
    parts = [record.part(0, place) for place in range(plan.parts)]
    one = {
        "errors": dict(zip(ERRORS, errors, strict=True)), "max_ns": max_ns, "sum_ns": sum_ns, "octets": octets,
        "counts": Histogram.of(counts).packed(),
        "parts": [[*part[:3], Histogram.of(part[3], bits=PART_BITS).packed()] for part in parts],
    }  # fmt: skip
    figures = result.combine([{"kinds": {"ocsp-nonce": one}}], plan, float(seconds))
    machine = {"processor": "a processor", "cores": 2}
    generator = {
        "lag_ms": {"p50": 0.01, "p99": 0.1, "max": 1.0}, "core_share": {"driver": 0.2}, "machine_busy": 0.4,
        "checked": 10, "check_us": 100.0, "check_cpu_s": 0.001, "samples_left_out": 0, "connect_failures": 0,
        "wrong": [], "limits": [], "cautions": [],
    }  # fmt: skip
    series = [(2.0 * n, dict.fromkeys((*_GROWN, *_GAUGES), 10.0 * n)) for n in range(5)]
    return {
        "format": result.FORMAT, "name": "drawn", "started_at": "2026-01-01T00:00:00Z", "seconds": float(seconds),
        "warm_up_s": 0, "interrupted": False, "interval_s": 1,
        "plan": {"shape": "steady", "rates": plan.rates, "poisson": True, "connections": 8, "closed": False,
                 "sample": 0.01, "timeout_s": 5.0, "seed": 1},
        "environment": {"machine": machine, "generator_machine": machine, "versions": {"qianyan": "1", "python": "3"},
                        "settings": {"workers": 2}, "signing": "software", "nonce_share": 1.0, "cache_share": 0.0,
                        "population": {"good": 5}},
        **figures,
        "goals": [{"goal": "p99, ms", "limit": 10, "reached": 5.0, "met": True}],
        "generator": generator,
        "processes": [
            {"name": "worker-0", "role": "service", "series": [(1.0, 0.5, 100.0, 0.0), (2.0, 0.6, 110.0, 0.2)]}
        ],
        "metrics": {"series": series, "failure": "", "routes": ROUTES},
    }  # fmt: skip


_GROWN = ("batches", "signatures", "cache_hits", "cache_misses", "cache_joined", "redis_hits", "redis_lookups")
_GAUGES = ("crl_age_s", "set_age_s", "feed_age_s", "directory_lag_s")


def test_figures_are_put_together() -> None:
    drawn = document()
    total = drawn["total"]
    assert total["count"] == 6000
    assert total["rate"] == 100.0
    assert total["faults"] == 0
    assert 0.9 < total["latency_ms"]["p50"] < 1.1
    assert 4.0 < total["latency_ms"]["p99"] < 7.0
    assert len(total["intervals"]) == 60
    assert all(row[0] == row[1] == 100 for row in total["intervals"][:-1])


def test_mann_whitney_against_known_values() -> None:
    assert compare.mann_whitney(range(1, 11), range(11, 21)) == pytest.approx(1.827e-4, rel=0.01)
    # U = 4.5 of 12.5, three pairs of ties: z = 7.5 / sqrt(25 / 12 * 10.8)
    assert compare.mann_whitney([1, 2, 3, 4, 5], [3, 4, 5, 6, 7]) == pytest.approx(0.11385, rel=0.001)
    assert compare.mann_whitney([1.0] * 9, [1.0] * 9) == 1.0


def test_a_comparison_tells_a_change_from_noise() -> None:
    before, same, slower = document(seed=1), document(seed=2), document(p99_ms=6.5, seed=3)
    assert {row.verdict for row in compare.compare(before, same)} == {"same"}
    found = {(row.kind, row.measure): row.verdict for row in compare.compare(before, slower)}
    assert found["ocsp-nonce", "p99"] == found["all", "p99"] == "worse"
    assert found["all", "p50"] == found["all", "done"] == "same"
    assert {row.verdict for row in compare.compare(slower, before)} == {"same", "better"}
    assert "worse" in compare.table(compare.compare(before, slower))


def test_comparisons_seldom_raise_a_false_alarm() -> None:
    alarms = 0
    for seed in range(15):
        rows = compare.compare(document(seed=1000 + seed, seconds=20), document(seed=2000 + seed, seconds=20))
        alarms += any(row.verdict != "same" for row in rows)
    assert alarms <= 1


def test_what_is_not_compared() -> None:
    before, other = document(), copy.deepcopy(document())
    other["plan"]["connections"] = 9
    with pytest.raises(ValueError, match="connections"):
        compare.compare(before, other)
    with pytest.raises(ValueError, match="longer"):
        compare.compare(document(seconds=5), document(seconds=5))


@pytest.mark.parametrize(
    "path", ["machine.processor", "versions.qianyan", "settings", "signing", "nonce_share", "cache_share"]
)
def test_figures_without_their_context_are_refused(path: str, tmp_path: Path) -> None:
    drawn = document()
    *over, name = path.split(".")
    place = drawn["environment"]
    for step in over:
        place = place[step]
    del place[name]
    for write in (write_report, result.save):
        with pytest.raises(result.IncompleteResult, match=name):
            write(drawn, tmp_path / "out")  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def test_a_report_says_what_it_must(tmp_path: Path) -> None:
    drawn = document()
    drawn["generator"]["limits"] = ["it was <full>"]
    drawn["generator"]["cautions"] = ["something else on this machine used 1.3 of its 2 cores"]
    drawn["wrk"] = {"scenario": "ocsp-nonce", **wrk.figures(WRK, 2, 64)}
    drawn["generator"]["wrong"] = ["ocsp-nonce: told good & it is revoked"]
    drawn["drift"] = {"memory": {"worker-0": 0.123}, "p99": -0.05}
    drawn["knee"] = {"rate": 4321.0, "highest": 5000.0}
    page = render(drawn)
    for text in ("+12.3%", "-5.0%", "4,321", "a processor", "software", "OCSP with nonce", "OCSP from the cache",
                 "it was &lt;full&gt;", "told good &amp; it is revoked", "The generator was a limit",
                 "Something else on this machine", "answers a second to wrk", "3 status, 1 read, 2 timeout",
                 "public /ocsp", "longer than told",
                 "qianyan 1 · a processor, 2 cores · keys in software"):  # fmt: skip
        assert text in page
    assert page.count("<svg") == 11
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page


def test_axes_have_round_numbers() -> None:
    assert plots.ticks(0, 97) == [0, 25, 50, 75, 100]
    assert plots.ticks(0, 0.031) == [0, 0.01, 0.02, 0.03, 0.04]
    assert plots.log_ticks(0.3, 200) == [0.1, 1, 10, 100, 1000]
    assert plots.log_ticks(1700, 10_700) == [1000, 2000, 5000, 10_000, 20_000]
    assert plots.log_ticks(5, 5) == [5, 10]
    assert [plots.short(value) for value in (0.25, 1000, 2500, 12_000_000)] == ["0.25", "1k", "2.5k", "12M"]
