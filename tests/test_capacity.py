"""The capacity model: hand calculations, dimensions, limits, monotony; and that the page says what the command says."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import math
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import QianyanError
from service.capacity import coefficients
from service.capacity.coefficients import Coefficients
from service.capacity.limits import limits
from service.capacity.model import Demand, Plan, Plant, entropy_bits, make_plan
from service.cli import cli
from service.commands.plan_command import _HELP
from service.commands.plan_command import plan as plan_command
from tests.bench import capacity_bench, capacity_page, commit_bench, crl_bench
from tests.postgres import shared

ROOT = Path(__file__).parents[1]
MEASURED = coefficients.values(coefficients.read())
PROVINCE = Demand(1_000_000)
SHIPPED = ROOT / "service" / "capacity" / "coefficients.json"


def planned(demand: Demand = PROVINCE, plant: Plant | None = None, known: Coefficients = MEASURED) -> Plan:
    return make_plan(demand, plant or Plant(), known)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plan_command, list(arguments))


# ---- by hand


def test_a_province_by_hand() -> None:
    """7,200,000 s of working time in a year, twenty times the mean; 28,800 s in a working day, five times."""
    plan = planned()
    assert plan.pairs_per_s == pytest.approx(1_000_000 / 7_200_000 * 20) == pytest.approx(2.7778, abs=1e-4)
    assert plan.certificates_per_s == pytest.approx(5.5556, abs=1e-4)
    assert plan.ocsp_per_s == pytest.approx(1_000_000 * 4 * 0.5 * 5 / 28_800) == pytest.approx(347.22, abs=0.01)
    assert plan.ocsp_signed_per_s == pytest.approx(347.22 * (0.2 + 0.8 * 0.1), abs=0.01)
    assert plan.app_signs_per_s == pytest.approx(173.61, abs=0.01)
    assert (plan.live_certificates, plan.listed) == (2_000_000, 100_000)
    assert (plan.partitions, plan.crl_entries_each, plan.crl_bytes_each) == (1, 100_000, 4_900_000)


def test_a_set_is_as_large_as_was_measured() -> None:
    """tests/bench/set_bench.py: 72,463 octets of payload for 100,000 of 2,000,000, whose bound is 71,598."""
    assert entropy_bits(2_000_000, 100_000) / 8 == pytest.approx(71_598, rel=2e-4)
    assert planned().set_bytes == pytest.approx(72_463, rel=1e-3)


@pytest.mark.parametrize(("total", "chosen"), [(10, 3), (52, 5), (1000, 1), (7, 0), (7, 7)])
def test_entropy_is_that_of_the_binomial(total: int, chosen: int) -> None:
    assert entropy_bits(total, chosen) == pytest.approx(math.log2(math.comb(total, chosen)), abs=1e-6)


def test_more_chosen_than_there_are() -> None:
    with pytest.raises(ValueError, match="more are chosen"):
        entropy_bits(3, 4)


def test_the_store_grows_by_a_year_each_until_as_much_is_retired() -> None:
    demand = replace(PROVINCE, retention_years=5)
    years = planned(demand).store_by_year
    each = MEASURED.store_bytes_per_certificate + 0.05 * MEASURED.store_bytes_per_revocation
    assert len(years) == 6
    assert years[0] == pytest.approx(2_000_000 * each)
    assert years[-1] == pytest.approx(6 * years[0])


def test_nodes_carry_the_load_with_one_lost() -> None:
    demand = Demand(100_000_000)
    plan = planned(demand)
    usable = Plant().cores * (1 - Plant().headroom)
    assert (plan.nodes - 1) * usable >= plan.cores > (plan.nodes - 2) * usable
    assert plan.utilisation == pytest.approx(plan.cores / (plan.nodes * 8))


def test_partitions_keep_a_crl_within_what_was_asked() -> None:
    plan = planned(replace(PROVINCE, holders=7_654_321), Plant(crl_bytes=1e6))
    assert plan.crl_bytes_each <= 1e6 + MEASURED.crl_entry_bytes
    assert plan.partitions * plan.crl_entries_each >= plan.listed


# ---- dimensions, bounds, monotony


@settings(max_examples=60)
@given(
    holders=st.integers(1, 10**9),
    revoked=st.floats(0, 1),
    nonce=st.floats(0, 1),
    hits=st.floats(0, 1),
    cores=st.integers(1, 512),
)
def test_every_plan_is_finite_and_more_holders_never_need_less(
    holders: int, revoked: float, nonce: float, hits: float, cores: int
) -> None:
    demand = Demand(holders, revoked=revoked, nonce=nonce, hits=hits)
    one, more = planned(demand, Plant(cores=cores)), planned(replace(demand, holders=2 * holders), Plant(cores=cores))
    for field in fields(Plan):
        a, b = getattr(one, field.name), getattr(more, field.name)
        if field.name == "store_by_year":
            assert list(a) == sorted(a)
            assert all(x <= y for x, y in zip(a, b, strict=True))
        else:
            assert math.isfinite(a)
            assert a >= 0
            if field.name not in ("crl_entries_each", "crl_bytes_each", "utilisation"):
                assert b >= a, field.name
    assert one.ocsp_signed_per_s <= one.ocsp_per_s * (1 + 1e-9)
    assert 0 <= one.utilisation <= 1


@pytest.mark.parametrize("name", ["sign_per_core_s", "ocsp_cached_per_core_s", "ocsp_signed_per_core_s"])
def test_a_faster_machine_needs_fewer_cores(name: str) -> None:
    assert planned(known=replace(MEASURED, **{name: getattr(MEASURED, name) * 2})).cores < planned().cores


def test_twice_the_octets_are_twice_the_size() -> None:
    """Each size is linear in its coefficient: whoever mixes up two of them, or a unit, is found here."""
    for name, size in (
        ("store_bytes_per_certificate", "store_by_year"),
        ("redis_bytes_per_answer", "redis_bytes"),
        ("crl_entry_bytes", "crl_memory_bytes"),
        ("set_overhead", "set_bytes"),
    ):
        known = replace(MEASURED, store_bytes_per_revocation=1e-9)
        twice = planned(known=replace(known, **{name: getattr(known, name) * 2}))
        before = planned(known=known)
        a, b = getattr(before, size), getattr(twice, size)
        assert (b[0] / a[0] if isinstance(a, tuple) else b / a) == pytest.approx(2, rel=1e-6), name


@pytest.mark.parametrize(
    ("demand", "plant", "word"),
    [
        ({"holders": 0}, {}, "holders"),
        ({"holders": 10**11}, {}, "holders"),
        ({"revoked": 1.5}, {}, "revoked"),
        ({"nonce": float("nan")}, {}, "nonce"),
        ({"issue_peak": 0.5}, {}, "issue_peak"),
        ({"relying": -1}, {}, "relying"),
        ({}, {"headroom": 1.0}, "headroom"),
        ({}, {"cores": 0}, "core"),
        ({}, {"redis_bytes": 0.0}, "redis_bytes"),
        ({}, {"crl_period_s": 0.0}, "crl_period_s"),
    ],
)
def test_numbers_that_make_no_sense(demand: dict[str, float], plant: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make_plan(replace(PROVINCE, **demand), replace(Plant(), **plant), MEASURED)


# ---- what breaks first


def first(demand: Demand, plant: Plant) -> str:
    return limits(demand, plant, make_plan(demand, plant, MEASURED), MEASURED)[0].name


def test_what_breaks_first_is_what_was_made_small() -> None:
    assert first(PROVINCE, Plant(hsm_per_s=100)) == "hardware modules"
    assert first(PROVINCE, Plant(store_bytes=1e9)) == "disk of one store"
    assert first(PROVINCE, Plant(redis_bytes=1e6)) == "memory of one Redis"
    assert first(PROVINCE, Plant(commits_per_s=0.01)) == "commits of one primary store"
    assert first(PROVINCE, Plant(network_bytes_s=1e4)) == "network of one node for answers"
    assert first(PROVINCE, Plant(crl_period_s=0.01)) == "builder's time between CRLs"
    assert first(replace(PROVINCE, relying=1_000_000), Plant()) == "network of one node for CRLs and status sets"


def test_hardware_modules_are_asked_about_only_where_there_are_any() -> None:
    plan = planned()
    assert "hardware modules" not in {limit.name for limit in limits(PROVINCE, Plant(), plan, MEASURED)}
    (found,) = [
        limit for limit in limits(PROVINCE, Plant(hsm_per_s=1000), plan, MEASURED) if limit.name == "hardware modules"
    ]
    assert found.use == pytest.approx(plan.signatures_per_s / (1000 * MEASURED.hsm_share))


# ---- the command, its coefficients, the page


def test_the_command_says_its_coefficients_with_their_sources() -> None:
    ran = run("--holders", "3000000", "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.output)
    assert said["demand"]["holders"] == 3_000_000
    assert said["plan"]["live_certificates"] == 6_000_000
    assert [limit["use"] for limit in said["limits"]] == sorted((x["use"] for x in said["limits"]), reverse=True)
    assert set(said["coefficients"]) == {field.name for field in fields(Coefficients)}
    assert all(set(c["source"]) == {"command", "machine", "date"} for c in said["coefficients"].values())


def test_every_benchmark_that_is_cited_is_there() -> None:
    for name, coefficient in coefficients.read().items():
        python, *words = coefficient.source.command.split()
        path = words[0] if words[0] != "-m" else words[1].replace(".", "/") + ".py"
        assert python == "python"
        assert (ROOT / path).is_file(), name


def test_other_coefficients_take_the_place_of_ours(tmp_path: Path) -> None:
    document = json.loads(SHIPPED.read_text())
    document["redis_bytes_per_answer"]["value"] *= 10
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document))
    said = json.loads(run("--coefficients", str(path), "--json").output)
    assert said["plan"]["redis_bytes"] == pytest.approx(10 * planned().redis_bytes)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("crl_entry_bytes"),
        lambda d: d.update(more=d["crl_entry_bytes"]),
        lambda d: d["crl_entry_bytes"].update(value=0),
        lambda d: d["crl_entry_bytes"].update(value="49"),
        lambda d: d["crl_entry_bytes"].update(unit="furlong"),
        lambda d: d["crl_entry_bytes"].pop("source"),
        lambda d: d["crl_entry_bytes"]["source"].update(date=""),
    ],
)
def test_coefficients_that_are_not_whole_are_refused(tmp_path: Path, change: object) -> None:
    document = json.loads(SHIPPED.read_text())
    assert callable(change)
    change(document)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(QianyanError) as caught:
        coefficients.read(path)
    assert caught.value.code == "coefficients"


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(QianyanError, match=r"bad\.json"):
        coefficients.read(tmp_path / "bad.json")


def test_every_number_is_an_option_with_words() -> None:
    options = {option.name: option for option in plan_command.params}
    for kind in (Demand, Plant):
        for field in fields(kind):
            assert getattr(options[field.name], "help", None) == _HELP[field.name]


def test_a_number_that_makes_no_sense_is_one_line() -> None:
    ran = CliRunner().invoke(cli, ["plan", "--revoked", "2"])
    assert ran.exit_code != 0
    assert isinstance(ran.exception, QianyanError | SystemExit)


def test_the_page_has_the_commands_own_tables_and_every_coefficient() -> None:
    page = capacity_page.PAGE.read_text()
    assert run("--table").output.strip() in page
    written = capacity_page.filled(page, capacity_page.blocks(coefficients.read()))
    assert written == page, "python -m tests.bench.capacity_bench --page"
    for name in coefficients.read():
        assert f"| `{name}` |" in page, name
    for kind in (Demand, Plant):
        for field in fields(kind):
            assert f"| `--{field.name.replace('_', '-')}` |" in page, field.name
    with pytest.raises(ValueError, match="nowhere"):
        capacity_page.filled(page, {"nowhere": ""})


# ---- where coefficients come from


def test_commits_are_measured() -> None:
    """The benchmark itself, on a PostgreSQL and a service of its own: that it counts, not how fast this machine is."""
    options = argparse.Namespace(url=None, writers=2, workers=1, rates=[20.0], seconds=0.5, connections=8)
    server = shared()

    async def measured() -> dict[str, Any]:
        return await commit_bench.measure(options, (await server.new_database(empty=True), server))

    found = asyncio.run(measured())
    even, full = found["points"]
    assert even["asked"] == 20
    assert 1 <= even["group"] <= full["group"] <= 8
    assert full["holders_per_commit"] > 0
    assert full["service_core_s"] > 0
    assert full["store_core_s"] > 0
    assert found["coefficients"]["commits_per_s"] > 1
    assert "in a group" in commit_bench.table(found)
    assert "| 20 | " in capacity_page.commits(found["points"])


@pytest.fixture(scope="module")
def crl_output() -> str:
    """What the CRL benchmark prints, of few entries."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(out):
        asyncio.run(crl_bench.run(Path(directory), 2_000, 10))
    return out.getvalue()


def outputs(crl_output: str) -> dict[str, str]:
    """By step: the documents' form with round numbers."""
    return {
        "commits": json.dumps(
            {
                "coefficients": {
                    "commits_per_s": 500.0, "pairs_per_commit": 8.0, "issue_core_s": 0.001, "issue_store_s": 0.0005
                },
                "points": [],
            }
        ),
        "http": json.dumps({"runs": {"sign": {"rate": 1e5}, "verify-bulk": {"rate": 200.0, "signatures": 2e5}}}),
        "ocsp": json.dumps({"runs": {"post": {"rate": 1.5e5}, "nonce": {"rate": 1e5}}}),
        "hsm": json.dumps({"share": 0.95}),
        "crl": crl_output,
        "status": json.dumps([{}, {"lookup_median_us": 1500, "worker_rss_mb": 100}]),
        "sizes": json.dumps(
            {
                "store_bytes_per_certificate": 2000, "store_bytes_per_revocation": 100, "ocsp_request_bytes": 200,
                "ocsp_answer_bytes": 1200, "redis_bytes_per_answer": 1200, "certificate_bytes": 800,
            }
        ),
    }  # fmt: skip


def test_one_command_measures_every_coefficient(
    crl_output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is taken from one benchmark, written with its run, and the page follows."""
    said = outputs(crl_output)
    names = [name for step, out in said.items() for name in capacity_bench.STEPS[step].read(out)]
    names += list(capacity_bench.own_sizes())
    assert sorted(names) == sorted(field.name for field in fields(Coefficients)), "each once"
    file, page = tmp_path / "coefficients.json", tmp_path / "capacity.md"
    file.write_text(SHIPPED.read_text())
    page.write_text(capacity_page.PAGE.read_text())
    monkeypatch.setattr(capacity_bench, "FILE", file)
    monkeypatch.setattr(capacity_bench, "ROOT", tmp_path)
    monkeypatch.setattr(capacity_page, "PAGE", page)
    monkeypatch.setattr(capacity_bench, "run", lambda name, _: said[name])
    monkeypatch.setattr(sys, "argv", ["capacity_bench", "--machine", "a machine"])
    capacity_bench.main()
    found = coefficients.read(file)
    assert found["worker_memory_bytes"].value == 104_857_600
    assert found["ocsp_store_s"].value == 0.0015
    assert found["crl_entry_build_s"].value > 0
    assert found["hsm_share"].source.machine == "a machine"
    assert "commit_bench" in found["pairs_per_commit"].source.command
    assert "| `hsm_share` | 0.95 |" in page.read_text()


def test_a_benchmark_that_fails_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capacity_bench, "FILE", tmp_path / "coefficients.json")
    (tmp_path / "coefficients.json").write_text(SHIPPED.read_text())
    broken = capacity_bench.Step("python -c raise(SystemExit('no'))", json.loads)
    monkeypatch.setattr(capacity_bench, "STEPS", {"hsm": broken})
    monkeypatch.setattr(sys, "argv", ["capacity_bench", "--only", "hsm"])
    with pytest.raises(SystemExit, match="nothing was written"):
        capacity_bench.main()
    assert (tmp_path / "coefficients.json").read_text() == SHIPPED.read_text()


def test_figures_are_kept_with_the_digits_that_mean_something() -> None:
    assert [capacity_bench.digits(value) for value in (123_456.7, 1234.567, 0.00123456789)] == [
        123_457, 1234.6, 0.0012346
    ]  # fmt: skip


def test_issuing_takes_cores_of_nodes_and_of_the_store() -> None:
    faster = replace(MEASURED, issue_core_s=MEASURED.issue_core_s / 2)
    assert planned(known=faster).cores < planned().cores
    plan = planned()
    named = {limit.name: limit.use for limit in limits(PROVINCE, Plant(), plan, MEASURED)}
    assert named["commits of one primary store"] == pytest.approx(
        plan.pairs_per_s / (MEASURED.pairs_per_commit * MEASURED.commits_per_s)
    )
    assert named["cores of one primary store, for issuing"] == pytest.approx(
        plan.pairs_per_s * MEASURED.issue_store_s / (8 * 0.6)
    )
