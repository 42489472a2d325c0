"""The benchmark of growth runs with small sizes, and its made-up users are like the data."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def growth(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("growth")


def test_made_up_users_have_the_statistics_of_the_data(growth: Any) -> None:
    counts = np.sort(np.random.default_rng(0).zipf(1.6, 50).clip(max=500))[::-1].astype(float)
    statistics = {"lengths": np.array([3, 3, 5, 9]), "counts": counts}
    users = growth.made_up(statistics, 20_000, 50)
    assert (users.lengths.min(), users.lengths.max()) == (3, 9)
    assert users.lengths.mean() == pytest.approx(5.0, rel=0.02)
    found = growth.statistics_of(users, 50)["counts"]
    np.testing.assert_allclose(found / found.sum(), counts / counts.sum(), atol=0.01)
    again = growth.made_up(statistics, 20_000, 50)
    assert np.array_equal(again.items, users.items)


def test_a_larger_catalog_keeps_the_shape_of_the_popularity(growth: Any) -> None:
    statistics = {"lengths": np.array([5]), "counts": np.arange(100.0, 0.0, -1.0)}
    users = growth.made_up(statistics, 20_000, 1000)
    assert (users.items.min(), users.items.max()) == (1, 1000)
    share = np.sort(np.bincount(users.items, minlength=1001)[1:])[::-1][:500].sum() / 100_000
    assert share == pytest.approx(0.75, abs=0.02), "the upper half of a falling line"


def test_the_exponent_of_linear_growth_is_one(growth: Any) -> None:
    rows = [{"users": n, "round_cpu_seconds": [n / 100, n]} for n in (10, 100, 1000)]
    assert growth.growth(rows, "users") == pytest.approx([1.0, 1.0])


def test_small_sizes_are_measured_tabulated_and_drawn(
    growth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "--users", "40,20", "--items", "30", "--clients", "10", "--rounds", "2", "--threads", "1",
        "--out", str(tmp_path / "growth"), "-c", "dim=8", "-c", "layers=1",
    ]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["growth.py", *options])
    growth.main()
    result = json.loads((tmp_path / "growth.json").read_text())
    measured = {by: result[by] for by in ("users", "items")}
    sizes = {by: [(r["users"], r["items"], r["trained"]) for r in measured[by]] for by in measured}
    assert sizes == {"users": [(20, 1482, 1), (40, 1482, 1)], "items": [(10, 30, 1)]}
    for row in [*measured["users"], *measured["items"]]:
        assert len(row["round_cpu_seconds"]) == 1
        assert row["peak_mib"] > 50
    assert "| 40 | 1,482 | 1 |" in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    nothing = ["growth.py", "--users", "", "--items", "", *options[4:]]
    monkeypatch.setattr(sys, "argv", nothing)
    growth.main()
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert {by: kept[by] for by in measured} == measured, "what was not asked for stays"
    assert growth.measured_before(tmp_path / "growth.json", {"settings": ["dim=9"]}) == {}


def test_the_tables_of_the_documents_are_those_of_the_results(growth: Any) -> None:
    path = FOLDER / "results" / "growth.json"
    if not path.is_file():
        pytest.skip("a source distribution is without results")
    found = json.loads(path.read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for by in (growth.BY_USERS, growth.BY_ITEMS):
        assert growth.table(found[by], by).strip() in text
        assert max(growth.growth(found[by], by)) < 1, "the text says: no faster than the size"
        assert max(row["peak_mib"] for row in found[by]) < 8 * 2**10
