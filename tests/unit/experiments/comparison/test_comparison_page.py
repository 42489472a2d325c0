import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.comparison_page import comparison_page, spans_of
from lumos_core.experiments.comparison.comparison_table import Comparison
from lumos_core.experiments.comparison.packed_ranks import pack_counts, pack_ranks
from lumos_core.experiments.comparison.parts import PARTS
from lumos_core.experiments.comparison.variant_runs import HISTORY_LENGTHS, OWNERS
from lumos_core.experiments.comparison.variants import VARIANTS
from lumos_core.experiments.results_file import Result
from lumos_core.learning.metrics import means, ranking_sums
from lumos_core.pages.page import Page, Span, render

USERS = 200


def result(variant: str, share: float, seed: int = 0, ranks: bool = True) -> Result:
    """A run that hits the first users; without ranks as earlier versions wrote it."""
    rows = np.where(np.arange(USERS) < share * USERS, 3, 60)
    found = means(ranking_sums(rows))
    return {
        "variant": variant, "seed": seed, "test": found, "validation": found, "users": USERS,
        "nodes": 8, "config": RunConfig().to_flat(), "bytes_up": [1000] * 3, "best_round": 2,
        "curve": [{"round": n, "hr@20": share * n / 2, "ndcg@20": 0.1} for n in range(3)],
        **({"ranks": {"validation": pack_ranks(rows), "test": pack_ranks(rows)},
            "target_counts": pack_ranks(np.arange(USERS) % 60)} if ranks else {}),
    }  # fmt: skip


def section(page: Page, key: str):
    return next(s.blocks for s in page.sections if s.key == key)


RESULTS = [
    result("confedsrs", 0.2), result("lumos", 0.4), result("lumos-no-start", 0.1),
    result("fedavg-plus", 0.4), result("popularity", 0.05),
]  # fmt: skip


def test_the_first_sentence_names_the_best_and_how_certain_it_is() -> None:
    page = comparison_page(RESULTS, "confedsrs", "toys")
    assert page.lead.startswith(
        "lumos is best: a user's next item is among its first 20 suggestions for 40.0% of users. "
        "Against confedsrs that is +100.0% (95 % interval: +"
    )
    old = [result("confedsrs", 0.2, ranks=False), result("lumos", 0.4, ranks=False)]
    assert comparison_page(old, "confedsrs", "toys").lead.endswith("by the mean over seeds.")


def test_what_a_part_adds_is_the_method_against_itself_without_it() -> None:
    about, table = section(comparison_page(RESULTS, "confedsrs", "toys"), "parts")
    assert "without one part" in about.text
    assert table.title == "Parts of lumos"
    rows = {row[0]: row for row in table.rows}
    start, views = rows["start from titles"], rows["views"]
    assert start[1].text.startswith("+300.0% [")
    assert start[1].tone == "good"
    assert start[2] == "lumos-no-start"
    assert views[1].text.startswith("+0.0% [")
    assert views[1].tone == "plain"


def test_without_ablations_there_is_no_such_section() -> None:
    page = comparison_page([result("confedsrs", 0.2), result("popularity", 0.1)], "confedsrs", "x")
    assert section(page, "parts") == []
    assert "What each part adds" not in render(page)


def test_hits_are_shown_by_rarity_of_the_target() -> None:
    [table] = section(comparison_page(RESULTS, "confedsrs", "toys"), "rarity")
    assert table.header[1:] == ["< 5", "5–9", "10–19", "20–49", "≥ 50"]
    rates = Comparison.of(RESULTS, "confedsrs").rarity_rates("lumos")
    shown = next(row for row in table.rows if row[0] == "lumos")
    assert [bar.text for bar in shown[1:]] == [f"{rate:.4f}" for rate in rates]
    old = [result("lumos", 0.4, ranks=False)]
    assert section(comparison_page(old, "lumos", "toys"), "rarity") == []


def test_hits_are_shown_by_length_of_the_history_and_spread_over_nodes() -> None:
    known = {
        HISTORY_LENGTHS: pack_counts(np.arange(USERS) % 40 + 1),
        OWNERS: pack_counts(np.arange(USERS) % 8),
    }
    results = [{**r, **known} for r in RESULTS]
    _, lengths, spread = section(comparison_page(results, "confedsrs", "toys"), "rarity")
    assert lengths.header[1:] == ["1–3", "4–7", "8–15", "16–31", "≥ 32"]
    assert sum(int(users) for users in lengths.rows[0][1:]) == USERS
    assert spread.folded
    assert {row[0] for row in spread.rows} == {r["variant"] for r in RESULTS}


def test_curves_have_a_line_for_each_variant_and_levels_for_those_without_rounds() -> None:
    [charts] = section(comparison_page(RESULTS, "confedsrs", "toys"), "curves")
    styles = {name: style for style, name in charts.charts[0].legend}
    assert set(styles) == {r["variant"] for r in RESULTS}
    assert "dashed" in styles["popularity"]
    assert "dashed" not in styles["lumos"]


def test_intervals_lie_on_one_scale() -> None:
    page = comparison_page(RESULTS, "confedsrs", "toys")
    [table] = section(page, "quality")
    spans = [row[3] for row in table.rows if isinstance(row[3], Span)]
    assert len({span.zero for span in spans}) == 1
    for span in spans:
        assert 0 <= span.low <= span.middle <= span.high <= 1
    assert spans_of({"a": None}) == {}


@pytest.mark.parametrize("method", list(PARTS))
def test_parts_are_of_variants_that_exist(method: str) -> None:
    assert {method, *PARTS[method]} <= set(VARIANTS)


def test_a_hostile_name_of_data_stays_text() -> None:
    assert "<script" not in render(comparison_page(RESULTS, "confedsrs", "<script>x</script>"))
