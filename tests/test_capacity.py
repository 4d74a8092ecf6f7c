"""The capacity model: hand calculations, dimensions, limits, monotony; and that the page says what the command says."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

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
        command = coefficient.source.command.removeprefix("python -m ").split()[0]
        path = command if command.endswith(".py") else command.replace(".", "/") + ".py"
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
    page = (ROOT / "docs" / "capacity.md").read_text()
    for part in run("--table").output.strip().split("\n\n"):
        assert part in page, "copy `qianyan plan --table` into docs/capacity.md"
    for name in coefficients.read():
        assert f"`{name}`" in page, name
    for kind in (Demand, Plant):
        for field in fields(kind):
            assert f"--{field.name.replace('_', '-')}" in page, field.name
