"""The ledger and ``spent.json`` together: runs, what they got, and what it costs."""

from pathlib import Path
from typing import Any

import pytest

from lumos_core.config import NodeConfig
from lumos_core.privacy.budget import epsilon
from lumos_core.privacy.ledger_file import FORGOTTEN, write_line
from lumos_core.privacy.ledger_report import LedgerReport
from lumos_core.privacy.node_budget import RUNS, Account, Training

DELTA = 1e-5
USER = {"dp": "user", "noise": 2.0, "public_noise": False, "secure_aggregation": True}


def reply(state: Path, message: str, round_: int, run: str, number: str = "7", **more: Any) -> None:
    facts: dict[str, Any] = {"run": number, "round": round_, "message": message}
    if run:
        facts |= {"run_key": run, "privacy": USER}
    write_line(state, {**facts, "records": [{"record": "delta", "bytes": 100}], **more})


def train(state: Path, run: str, training: Training) -> None:
    Account(state).change(lambda spent: spent.after_training(run, training))


def report(state: Path, **floor: Any) -> LedgerReport:
    return LedgerReport.of(state, NodeConfig(data="d", **floor))


def test_nothing(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert (found.empty, found.epsilon, found.left) == (True, 0.0, None)


def test_replies_are_counted_by_run_and_by_kind(tmp_path: Path) -> None:
    """A run that is resumed has another number of Flower, but the same key."""
    reply(tmp_path, "query.describe", 0, "a")
    reply(tmp_path, "train", 3, "a")
    reply(tmp_path, "train", 1, "b")
    reply(tmp_path, "train", 2, "a", number="8")
    reply(tmp_path, "train", 4, "a", records=[{"record": "error", "names": ["code"], "bytes": 9}])
    a, b = report(tmp_path).runs
    assert (a.run, a.trainings, a.others, a.errors, a.bytes) == ("a", 2, 1, 1, 309)
    assert a.rounds == (2, 3)
    assert (b.run, b.trainings, b.rounds, b.bytes) == ("b", 1, (1, 1), 100)
    assert (a.dp, a.noise, a.secure_aggregation) == ("user", 2.0, True)
    assert a.first < b.first < a.last


def test_bytes_are_those_of_the_whole_reply_where_they_were_noted(tmp_path: Path) -> None:
    reply(tmp_path, "train", 1, "a", bytes=150)
    reply(tmp_path, "train", 2, "a")
    assert [run.bytes for run in report(tmp_path).runs] == [250]


def test_epsilon_of_runs_and_of_all_by_one_accountant(tmp_path: Path) -> None:
    for run in ("a", "b"):
        reply(tmp_path, "train", 1, run)
        train(tmp_path, run, Training(2.0))
    found = report(tmp_path, max_total_epsilon=8.0)
    one, all_ = epsilon(2.0, 1.0, 1, DELTA), epsilon(2.0, 1.0, 2, DELTA)
    assert [run.epsilon for run in found.runs] == pytest.approx([one, one])
    assert found.epsilon == pytest.approx(all_)
    assert found.left == pytest.approx(8.0 - all_)
    assert one < all_ < 2 * one
    assert report(tmp_path, max_total_epsilon=1e-3).left == 0.0


@pytest.mark.parametrize(
    "changes",
    [{"dp": "none", "noise": 0.0}, {"public_noise": True}, {"noise": 0.0}, {"dp": "central"}],
)
def test_what_a_node_cannot_count_has_no_bound(tmp_path: Path, changes: dict[str, Any]) -> None:
    reply(tmp_path, "train", 1, "a", privacy={**USER, **changes})
    train(tmp_path, "a", Training())
    [run] = report(tmp_path).runs
    assert (run.epsilon, run.counted) == (None, 1)


def test_lines_of_an_older_lumos_say_nothing_of_privacy(tmp_path: Path) -> None:
    reply(tmp_path, "train", 1, "")
    [run] = report(tmp_path).runs
    assert (run.run, run.dp, run.secure_aggregation, run.epsilon) == ("7", None, None, None)


def test_a_run_of_long_ago_is_in_the_sum_only(tmp_path: Path) -> None:
    for number in range(RUNS + 1):
        reply(tmp_path, "train", 1, f"r{number}")
        train(tmp_path, f"r{number}", Training(2.0))
    found = report(tmp_path)
    assert [run.counted for run in found.runs] == [None, *[1] * RUNS]
    assert found.runs[0].epsilon is None
    assert found.epsilon == pytest.approx(epsilon(2.0, 1.0, RUNS + 1, DELTA))


def test_users_that_were_forgotten_are_no_run(tmp_path: Path) -> None:
    write_line(tmp_path, {"message": FORGOTTEN, "users": 2, "interactions": 9, "records": []})
    found = report(tmp_path)
    assert (found.runs, found.empty) == ([], False)
    assert [(line.users, line.interactions) for line in found.forgotten] == [(2, 9)]
