from typing import Any

from lumos_core.config import RunConfig
from lumos_core.experiments.inference.audit_page import active_page, leakage_page
from lumos_core.pages.page import Shade, render

FACTS = {"data": "toys", "trials": 3, "users": 20, "config": RunConfig().without_paths()}


def leak(setting: str, users: int, auc: float | None) -> Any:
    return {
        "setting": setting, "users": users, "auc": auc, "precision@20": 0.5, "chance": 0.02,
        "user_auc": auc, "popularity_auc": 0.5, "view_auc": None,
    }  # fmt: skip


def move(name: str, protection: str, recovered: float | None) -> Any:
    three = None if recovered is None else [recovered, 0.0, 1.0]
    return {
        "move": name, "protection": protection, "user_auc": three, "recovered": three,
        "chance": [0.02, 0.0, 0.1], "rounds": 1, "epsilon": None, "refused_by": ["max-run-epsilon"],
    }  # fmt: skip


def test_a_curious_server_in_sentences() -> None:
    rows = [leak("plain", 1, 1.0), leak("plain", 10, 0.9), leak("noise", 10, 0.5)]
    page = leakage_page(rows, FACTS)
    assert page.lead == (
        "The server guesses best where a node with 1 user sends with the setting “plain”: AUC "
        "1.000. It guesses worst with 10 users and “noise”: AUC 0.500, where 0.5 is guessing "
        "blindly."
    )
    _, table = page.sections[0].blocks
    assert table.header == ["setting", "1 user", "10 users"]
    assert table.rows == [
        ["plain", Shade("1.000", 9), Shade("0.900", 7)],
        ["noise", "–", Shade("0.500", 0)],
    ]


def test_a_malicious_server_in_sentences() -> None:
    rows = [move("marked", "plain", 0.66), move("marked", "noise", 0.016), move("flat", "x", None)]
    members = [
        {"setting": "none", "rounds": 5, "model": "final", "attack": "loss", "auc": [0.6, 0.8],
         "epsilon": 3.0}
    ]  # fmt: skip
    page = active_page(rows, members, {"a roster of one": "needs 3"}, FACTS)
    assert page.lead == (
        "The most is recovered by the move “marked” against the protection “plain”: 66% of a "
        "user's items. The least is 1.6%, with “noise”; by chance it would be 2.0%."
    )
    text = render(page)
    for part in ("max-run-epsilon", "a roster of one", "0.700", "needs 3"):
        assert part in text


def test_where_nothing_was_learned_nothing_is_claimed() -> None:
    assert "nothing to guess" in leakage_page([leak("a", 1, None)], FACTS).lead
    assert active_page([move("m", "p", None)], [], {}, FACTS).lead.startswith("No move told")
