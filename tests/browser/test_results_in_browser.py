"""The pages of `lumos compare`, `lumos attack` and `lumos audit` in Chromium."""

from pathlib import Path
from typing import Any

import pytest
from chromium import SCHEMES, WIDTHS, opened, violations

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.comparison_page import comparison_page
from lumos_core.experiments.inference.audit_page import active_page, leakage_page
from lumos_core.experiments.poisoning.attack_page import attack_page
from lumos_core.pages.page import Page, render

pytestmark = pytest.mark.browser
CONFIG = RunConfig().to_flat()
VARIANTS = {
    "confedsrs": 0.1, "lumos": 0.3, "lumos-no-start": 0.2, "lumos-no-future": 0.31,
    "popularity": 0.05,
}  # fmt: skip


def compared() -> Page:
    results = []
    for variant, share in VARIANTS.items():
        for seed in (0, 1):
            found = {"hr@20": share + seed / 100, "ndcg@20": share / 2}
            curve = [{"round": n, **{k: v * n / 10 for k, v in found.items()}} for n in range(11)]
            results.append(
                {"variant": variant, "seed": seed, "test": found, "validation": found,
                 "curve": curve, "config": CONFIG, "users": 708, "nodes": 8}
            )  # fmt: skip
    return comparison_page(results, "confedsrs", "toys")


def attacked() -> Page:
    results = []
    for method in ("lumos:default", "lumos", "fedavg"):
        for attack, malicious in (("none", 0), ("boosted", 1), ("sign-flip", 5)):
            scenario = {
                "attack": attack, "rho": 0.0, "xi": 0.9, "noise": 0.0, "nodes": 19,
                "partition": "uniform", "malicious": malicious,
            }  # fmt: skip
            lost = 0.03 * malicious * (method != "lumos:default")
            results.append(
                {"method": method, "scenario": scenario, "seed": 0, "views": "none",
                 "hr@20": 0.24 - lost, "ndcg@20": 0.1, "er@10": lost * 4, "target-rank": 0.5,
                 "rejected": {"honest": 0, "malicious": 3}, "config": CONFIG}
            )  # fmt: skip
    return attack_page(results, "toys")


FACTS = {"data": "toys", "trials": 3, "users": 20, "config": CONFIG}


def leaked() -> Page:
    rows = [
        {"setting": name, "users": users, "auc": auc, "precision@20": 0.5, "chance": 0.02,
         "user_auc": auc, "popularity_auc": 0.5, "view_auc": None}
        for users in (1, 10, 200) for name, auc in (("plain", 0.99), ("noise 1", 0.51))
    ]  # fmt: skip
    return leakage_page(rows, FACTS)


def played() -> Page:
    rows = [
        {"move": move, "protection": protection, "user_auc": [share, 0, 1],
         "recovered": [share, 0, 1], "chance": [0.02, 0, 0.1], "rounds": 1, "epsilon": 3.0,
         "refused_by": ["require-secure-aggregation", "max-run-epsilon = 8"]}
        for move in ("watch", "marked") for protection, share in (("plain", 0.7), ("noise", 0.02))
    ]  # fmt: skip
    members = [
        {"setting": "none", "rounds": 5, "model": "final", "attack": "loss", "auc": [0.9],
         "epsilon": None}
    ]  # fmt: skip
    return active_page(rows, members, {"a roster of one node": "this one needs 3"}, FACTS)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [compared, attacked, leaked, played])
def test_it_fits_is_accessible_and_fetches_nothing(
    browser: Any, tmp_path: Path, make: Any, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(make()), "utf-8")
    with opened(browser, path.as_uri(), width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(page) == []
        assert page.complaints == []
