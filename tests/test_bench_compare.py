"""`make bench-compare`: what is slower by more than a fifth is shown, and a slow minute of the machine is not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.bench import compare

SUITE = Path(compare.__file__).parent / "suite"


def entry(name: str, best_s: float, ratio: float | None = None) -> dict[str, Any]:
    """A benchmark as pytest-benchmark writes it."""
    peer = {} if ratio is None else {"ratio_to_peer": ratio}
    return {"group": "native", "name": name, "stats": {"min": best_s, "median": best_s * 1.1},
            "extra_info": {"per_call": 10, "backend": "portable", **peer}}  # fmt: skip


def document(*entries: dict[str, Any], processor: str = "one") -> dict[str, Any]:
    return {"benchmarks": list(entries), "machine_info": {"cpu": {"brand_raw": processor}},
            "datetime": "2026-01-02T03:04:05"}  # fmt: skip


def marked(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The names that are shown as slower."""
    rows = compare.lines(compare.condensed(now), compare.condensed(before))
    return [row[:44].strip() for row in rows if row.endswith("SLOWER")]


@pytest.mark.parametrize(("best_s", "slower"), [(1.0, False), (1.19, False), (1.21, True), (3.0, True), (0.5, False)])
def test_what_is_slower_by_a_fifth_is_shown(best_s: float, slower: bool) -> None:
    found = marked(document(entry("test_sign", best_s)), document(entry("test_sign", 1.0)))
    assert found == (["native: sign"] if slower else [])


def test_where_the_peer_is_slower_as_well_the_machine_is() -> None:
    before = document(entry("test_sign", 1.0, ratio=4.0))
    assert marked(document(entry("test_sign", 1.5, ratio=3.9)), before) == []
    assert marked(document(entry("test_sign", 1.5, ratio=2.7)), before) == ["native: sign"]


def test_what_is_new_what_is_gone_and_another_processor() -> None:
    now, before = document(entry("test_new", 1e-5), processor="two"), document(entry("test_old", 1e-5))
    text = "\n".join(compare.lines(compare.condensed(now), compare.condensed(before)))
    assert "another processor" in text
    assert "native: old" in text
    assert "gone" in text
    assert "      1.000 us         new" in text  # ten a call


def test_a_result_becomes_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, baseline = tmp_path / "result.json", tmp_path / "suite.json"
    result.write_bytes(orjson.dumps(document(entry("test_sign", 2e-5, ratio=2.0))))
    monkeypatch.setattr(sys, "argv", ["compare", str(result), "--baseline", str(baseline), "--write"])
    compare.main()
    assert orjson.loads(baseline.read_bytes())["figures"]["native: sign"]["ratio_to_peer"] == 2.0
    assert "+0%" in capsys.readouterr().out


def test_every_benchmark_of_the_suites_has_a_baseline() -> None:
    """Suites for the native core, codecs, store, caches and CRLs; peers in the same run where there are any."""
    names = set()
    for file in SUITE.glob("bench_*.py"):
        tree = ast.parse(file.read_text())
        (group,) = [
            keyword.value.value  # type: ignore[attr-defined]
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "group"
        ]
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        names |= {f"{group}: {name.removeprefix('test_').replace('_', ' ')}" for name in tests}
    kept = orjson.loads(compare.BASELINE.read_bytes())["figures"]
    assert names == set(kept), "make bench-save"
    assert {name.partition(":")[0] for name in names} == {"native", "codecs", "store", "caches", "crl"}
    assert sum(one["ratio_to_peer"] is not None for one in kept.values()) >= 8
