"""The tables: marks, intervals, rarity and cost."""

from typing import Any

import numpy as np
import pytest

from lumos_core.experiments.comparison.comparison_table import comparison_table, screen_table
from lumos_core.experiments.comparison.packed_ranks import pack_counts, pack_ranks
from lumos_core.experiments.results_file import Result
from lumos_core.learning.metrics import means, ranking_sums

USERS = 400


def result(variant: str, seed: int, validation: float, test: float, **more: Any) -> Result:
    """A run whose share of hits is about as given; users with low numbers are hit first."""
    ranks = {}
    for split, share in (("validation", validation), ("test", test)):
        rng = np.random.default_rng([seed, len(split)])
        hit = np.arange(USERS) < share * USERS
        ranks[split] = np.where(hit, rng.integers(1, 6, USERS), 60)
    return {
        "variant": variant, "seed": seed, "curve": [],
        **{split: means(ranking_sums(row)) for split, row in ranks.items()},
        "ranks": {split: pack_ranks(row) for split, row in ranks.items()},
        "target_counts": pack_ranks(np.arange(USERS) % 60), **more,
    }  # fmt: skip


def tables(*results: Result) -> list[str]:
    """Those of a table.md, and its legend as the second part."""
    return comparison_table(results, "base").split("\n\n")


def row(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.split("|")[1:-1]]


BASE = result("base", 0, 0.4, 0.4)


@pytest.mark.parametrize(
    ("validation", "test", "mark"),
    [(0.6, 0.6, "▲"), (0.2, 0.2, "▼"), (0.6, 0.2, "="), (0.4, 0.6, "="), (0.6, 0.405, "="),
     (0.4, 0.4, "=")],
)  # fmt: skip
def test_a_win_is_one_on_validation_and_on_test(validation: float, test: float, mark: str) -> None:
    first, *_ = tables(BASE, result("ours", 0, validation, test))
    hr = row(first, "ours")[4]
    assert hr.endswith(f"] {mark}")
    assert hr.startswith(f"{test / 0.4 - 1:+.1%} [")


def test_the_reference_has_no_difference_and_no_ranks_no_interval() -> None:
    old = {k: v for k, v in result("old", 0, 0.3, 0.3).items() if k not in ("ranks", "validation")}
    first, *_ = tables(BASE, old)
    assert row(first, "base")[4:6] == ["–", "–"]
    assert row(first, "old")[4] == "-25.0%"
    assert row(first, "old")[-1] == "–"


def test_results_of_earlier_versions_have_the_table_of_earlier_versions() -> None:
    olds = [
        {"variant": n, "seed": 0, "test": {"hr@20": 0.1, "ndcg@20": 0.1}} for n in ("base", "b")
    ]
    assert comparison_table(olds, "base").splitlines() == [
        "| variant | seeds | HR@20 | NDCG@20 | HR@20 vs base | NDCG@20 vs same |",
        "|---|--:|--:|--:|--:|--:|",
        "| base | 1 | 0.1000 | 0.1000 | +0.0% | +0.0% |",
        "| b | 1 | 0.1000 | 0.1000 | +0.0% | +0.0% |",
    ]


def test_only_seeds_that_both_have_are_compared() -> None:
    first, *_ = tables(BASE, result("ours", 0, 0.6, 0.6), result("ours", 1, 0.1, 0.1))
    assert row(first, "ours")[4].startswith("+50.0% [")
    first, *_ = tables(BASE, result("ours", 1, 0.1, 0.1))
    assert row(first, "ours")[4] == "–"


def test_other_users_are_not_paired() -> None:
    other = {**result("ours", 0, 0.6, 0.6)}
    other["ranks"] = {split: pack_ranks([1.0, 2.0]) for split in ("validation", "test")}
    first, *_ = tables(BASE, other)
    assert "[" not in row(first, "ours")[4]


def test_what_did_not_converge_is_marked() -> None:
    runs = [
        result("ours", 0, 0.5, 0.5, converged=True),
        result("ours", 1, 0.5, 0.5, converged=False),
    ]
    first, legend, _, costs = tables(BASE, *runs)
    assert row(first, "ours †")[1] == "2"
    assert "†" in legend
    assert row(costs, "ours")[6] == "patience/cap"
    first, *_ = tables(BASE, runs[0])
    assert "†" not in first


def test_hits_by_rarity() -> None:
    first, _, rarity, _ = tables(BASE, result("ours", 0, 0.5, 0.5))
    counts = np.arange(USERS) % 60
    members = [(counts < 5), (counts >= 5) & (counts < 10), (counts >= 10) & (counts < 20),
               (counts >= 20) & (counts < 50), counts >= 50]  # fmt: skip
    assert row(rarity, "users")[1:] == [str(int(m.sum())) for m in members]
    hit = np.arange(USERS) < 200
    assert row(rarity, "ours")[1:] == [f"{hit[m].mean():.4f}" for m in members]
    assert row(first, "ours")[-1] == row(rarity, "ours")[1]


LENGTHS = pack_counts(np.arange(USERS) % 40 + 1)
OWNERS = pack_counts(np.arange(USERS) // 100)


def test_hits_by_length_of_the_history() -> None:
    found = tables(BASE, result("ours", 0, 0.5, 0.5, history_lengths=LENGTHS))
    assert len(found) == 7
    lengths = np.arange(USERS) % 40 + 1
    members = [lengths < 4, (lengths >= 4) & (lengths < 8), (lengths >= 8) & (lengths < 16),
               (lengths >= 16) & (lengths < 32), lengths >= 32]  # fmt: skip
    assert row(found[3], "users")[1:] == [str(int(m.sum())) for m in members]
    hit = np.arange(USERS) < 200
    assert row(found[3], "ours")[1:] == [f"{hit[m].mean():.4f}" for m in members]
    hit = np.arange(USERS) < 160
    assert row(found[3], "base")[1:] == [f"{hit[m].mean():.4f}" for m in members]


def test_hits_of_nodes_and_of_the_worst_tenth() -> None:
    """Users with low numbers are hit: the first two of four nodes, and half of the third."""
    more = {"history_lengths": LENGTHS, "owners": OWNERS}
    runs = [result("ours", seed, 0.25, 0.625, **more) for seed in range(2)]
    spreads, legend = tables(BASE, *runs)[4:6]
    assert row(spreads, "ours") == ["ours", "0.6250", "0.4146", "0.0000", "0.0000", "37.5%"]
    assert row(spreads, "base")[1:] == ["–", "–", "–", "0.0000", "60.0%"]
    assert "worst tenth" in legend
    everybody = result("ours", 0, 1.0, 1.0, **more)
    spreads = tables(BASE, everybody)[4]
    assert row(spreads, "ours")[1:] == ["1.0000", "0.0000", "1.0000", "1.0000", "0.0%"]


def test_results_without_lengths_have_no_tables_of_fairness() -> None:
    text = comparison_table([BASE, result("ours", 0, 0.5, 0.5)], "base")
    assert "length of the history" not in text
    assert "worst tenth" not in text


def test_cost_of_a_run() -> None:
    federated = {"bytes_up": [10**6, 2 * 10**6], "best_round": 1, "cpu_seconds": 12.4}
    runs = [
        result("ours", 0, 0.5, 0.5, converged=True, tuned="slower", **federated),
        result("counted", 0, 0.5, 0.5, chosen={"half-life": 2.0}),
        result("centralised", 0, 0.5, 0.5, epochs=30, best_round=20, converged=True),
    ]
    *_, costs = tables(BASE, *runs)
    assert row(costs, "ours") == ["ours", "1", "2", "–", "12", "3.0", "patience", "slower"]
    assert row(costs, "counted")[-2:] == ["–", "half-life 2"]
    assert row(costs, "centralised")[1:4] == ["–", "–", "30"]


def test_no_table_is_wider_than_a_page() -> None:
    more = {"converged": False, "history_lengths": LENGTHS, "owners": OWNERS}
    runs = [result("lumos-no-counterfactual", s, 0.5, 0.55, **more) for s in range(3)]
    text = comparison_table([*runs, *(result("base", s, 0.1, 0.1) for s in range(3))], "base")
    assert max(map(len, text.splitlines())) < 160


def test_the_screen_has_intervals_too() -> None:
    header, rows = screen_table([BASE, result("ours", 0, 0.6, 0.6)], "base")
    assert header == ["variant", "HR@20", "vs base", "NDCG@20", "vs same"]
    assert rows[0][2] == ""
    assert rows[1][:2] == ["ours", "0.6000"]
    assert rows[1][2].endswith("▲")


def test_what_a_part_adds_is_the_method_against_itself_without_it() -> None:
    best = {"best_round": 1}
    found = tables(
        result("lumos", 0, 0.6, 0.6, cpu_seconds=50.0, bytes_up=[3_000_000, 1_000_000], **best),
        result("lumos", 1, 0.9, 0.9, cpu_seconds=999.0),
        result("fedavg-plus", 0, 0.4, 0.4, cpu_seconds=20.0, bytes_up=[1_500_000], **best),
        BASE,
    )
    (parts,) = (table for table in found if table.startswith("| part "))
    line = row(parts, "views")
    assert line[1:3] == ["lumos", "fedavg-plus"]
    assert line[3].startswith("+50.0% [")
    assert line[3].endswith("▲")
    assert line[5:] == ["+30", "+2.5"], "over the seed that both have"


def test_without_such_a_variant_there_is_no_table_of_parts() -> None:
    assert not any(t.startswith("| part ") for t in tables(BASE, result("lumos", 0, 0.6, 0.6)))


def test_rows_stand_in_the_order_of_variants_not_of_the_file() -> None:
    first, *_ = tables(BASE, result("popularity", 0, 0.1, 0.1), result("lumos", 0, 0.6, 0.6))
    names = [line.split("|")[1].strip() for line in first.splitlines()[2:]]
    assert names == ["lumos", "popularity", "base"]


def test_what_is_suggested_is_compared_with_what_users_take() -> None:
    """Targets are used 0 to 59 times, so on average 26.975 with 400 users."""
    shown = {"coverage": 0.25, "mean_uses": 54.0}
    found = tables(BASE, result("ours", 0, 0.6, 0.6, suggested=shown))
    (table,) = (text for text in found if text.startswith("| first 20 suggestions"))
    uses = (np.arange(USERS) % 60).mean()
    assert row(table, "ours")[1:] == ["25.0%", "54.0", f"{54.0 / uses:.2f}"]
    assert "| base |" not in table, "an older result does not have it"


@pytest.mark.parametrize(("exact", "shown"), [(True, "2.00"), (False, "–")])
def test_uses_of_targets_that_an_earlier_version_clipped_are_no_mean(
    exact: bool, shown: str
) -> None:
    uses = np.full(USERS, 200)
    facts = {"target_counts": pack_ranks(uses), "suggested": {"coverage": 0.25, "mean_uses": 400.0}}
    if exact:
        facts["target_uses"] = pack_counts(uses)
    found = comparison_table([result("ours", 0, 0.6, 0.6, **facts)], "ours")
    (line,) = (line for line in found.splitlines() if "| 25.0% |" in line)
    assert line.split("|")[-2].strip() == shown


def test_results_without_it_have_no_such_table() -> None:
    assert not any(text.startswith("| first 20") for text in tables(BASE))
