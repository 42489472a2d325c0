"""Metrics by node: of nodes with enough users, and never of a sum that is not one node's."""

import json
from pathlib import Path

import numpy as np
import pytest

from lumos_core.learning.metrics import ranking_sums
from lumos_core.runs.history import Event
from lumos_core.runs.node_metrics import BY_NODE, SHOWN, by_node, section
from lumos_core.runs.report import write_report
from lumos_core.runs.summary import RunSummary


def sums(users: int, hits: int) -> dict[str, float]:
    """Targets at rank 1, and beyond every cutoff."""
    return ranking_sums(np.where(np.arange(users) < hits, 1.0, 500.0))


def test_nodes_are_told_apart_only_with_enough_users() -> None:
    found = by_node([(["a"], sums(10, 4)), (["b"], sums(20, 2)), (["few"], sums(9, 9))])
    assert list(found[BY_NODE]) == ["a", "b"]
    assert found[BY_NODE]["a"] == {"users": 10, "hr@20": 0.4, "ndcg@20": 0.4}


@pytest.mark.parametrize(
    "evaluated",
    [
        [],
        [(["a"], sums(30, 3))],
        [(["a"], sums(30, 3)), (["few"], sums(1, 1))],
        [(["a", "b"], sums(30, 3)), (["c", "d"], sums(30, 3))],
    ],
)
def test_a_single_node_and_sums_over_nodes_say_nothing(
    evaluated: list[tuple[list[str], dict[str, float]]],
) -> None:
    assert by_node(evaluated) == {}
    assert section([{"event": "evaluation", "split": "test"}]) == ([], [])


def test_a_report_says_how_nodes_differ(tmp_path: Path) -> None:
    metrics = by_node([([f"n{at:02}"], sums(20, at)) for at in range(12)])
    event: Event = {"event": "evaluation", "round": 1, "split": "test", **metrics}
    (tmp_path / "history.jsonl").write_text(json.dumps(event) + "\n")
    summary = RunSummary(method="fedavg", outcome="completed", seconds=1.0)
    text = write_report(tmp_path, summary, []).read_text()
    assert "12 nodes, each counting the same: 0.2750, standard deviation 0.1726, worst" in text
    assert "worst tenth 0.0250." in text, "of twelve nodes the lowest two"
    assert text.index("| n00 | 20 | 0.0000 |") < text.index("| n11 | 20 | 0.5500 |")
    assert text.index("## Nodes") < text.index("## Rounds")
    (tmp_path / "history.jsonl").write_text("")
    assert "## Nodes" not in write_report(tmp_path, summary, []).read_text()


def test_many_nodes_are_not_all_listed() -> None:
    metrics = by_node([([f"n{at:02}"], sums(50, at)) for at in range(SHOWN + 5)])
    sentences, (_, *rows) = section([metrics])
    assert [row[0] for row in rows] == [f"n{at:02}" for at in range(SHOWN)]
    assert f"The {SHOWN} lowest:" in sentences[-1]
