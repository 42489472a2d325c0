from typing import Any

from lumos_core.config import RunConfig
from lumos_core.experiments.poisoning.attack_page import attack_page
from lumos_core.pages.page import Shade, render


def run(method: str, attack: str, hits: float, promoted: float = 0.0, seed: int = 0) -> Any:
    scenario = {
        "attack": attack, "rho": 0.0, "xi": 0.9, "noise": 0.0, "nodes": 19,
        "partition": "uniform", "malicious": 0 if attack == "none" else 1,
    }  # fmt: skip
    return {
        "method": method, "scenario": scenario, "seed": seed, "views": "none", "hr@20": hits,
        "ndcg@20": hits / 2, "er@10": promoted, "target-rank": 0.5, "config": RunConfig().to_flat(),
        "rejected": {"honest": 0, "malicious": 3},
    }  # fmt: skip


RESULTS = [
    run("lumos:default", "none", 0.24), run("lumos:default", "boosted", 0.23),
    run("lumos", "none", 0.24), run("lumos", "boosted", 0.04, 0.5),
]  # fmt: skip


def test_the_first_sentences_say_the_worst_that_happened() -> None:
    page = attack_page(RESULTS, "toys")
    assert page.lead == (
        "lumos:default lost at most 0.0100 of HR@20 (boosted, 1 of 20 nodes, ξ = 0.9), and no user "
        "got the attacked item among the first 10. lumos lost at most 0.2000 of HR@20 (boosted, 1 "
        "of 20 nodes, ξ = 0.9), and at most 50.0% of its users got the attacked item among their "
        "first 10 (boosted, 1 of 20 nodes, ξ = 0.9)."
    )


def test_the_ground_is_the_darker_the_more_is_lost() -> None:
    [table] = attack_page(RESULTS, "toys").sections[0].blocks
    assert table.header == ["scenario", "lumos:default", "lumos"]
    attacked = table.rows[1]
    assert attacked[1:] == [Shade("0.010", 0), Shade("0.200", 9)]


def test_without_a_run_that_is_not_attacked_no_loss_is_claimed() -> None:
    page = attack_page(RESULTS[1:2], "toys")
    assert page.lead == (
        "For lumos:default there is no run with an attack and the same one without."
    )
    [table] = page.sections[0].blocks
    assert table.rows[0][1] == "–"


def test_all_numbers_are_there_folded() -> None:
    [table] = attack_page(RESULTS, "toys").sections[2].blocks
    assert table.folded
    assert len(table.rows) == 4
    assert "lumos:default" in render(attack_page(RESULTS, "toys"))
