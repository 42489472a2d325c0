"""A real deployment of four nodes, of which one takes far longer than the others: rounds close
without it, it is not asked again before it has answered, and the run completes."""

import json
from pathlib import Path

import pytest
from deployment_support import deploying, leftovers, start, write_prepared
from slow_node import slow_app

from lumos_core.config import RunConfig
from lumos_core.runs.history import Event, read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

CONFIG = {
    "method": "fedavg", "semantic_start": "none", "dim": 8, "heads": 1, "layers": 1,
    "local_epochs": 1, "min_nodes": 4, "min_replies": 2, "start_timeout": 120,
}  # fmt: skip
SLOW, SECONDS = "node-3", 25.0


def _run(tmp_path: Path, **changes: object) -> list[Event]:
    data, run_dir = write_prepared(tmp_path / "data", nodes=4), tmp_path / "run"
    config = RunConfig(catalog=str(data / "catalog.tsv"), **{**CONFIG, **changes})
    app = slow_app(tmp_path / "app", {SLOW: SECONDS})
    with start(deploying(app, data, config, 4, run_dir), tmp_path) as supervisor:
        output, _ = supervisor.communicate(timeout=400)
    assert supervisor.returncode == 0, output
    assert json.loads((run_dir / "summary.json").read_text())["outcome"] == "completed"
    assert leftovers(run_dir, []) == []
    ledger = (data / SLOW / "state" / "ledger.jsonl").read_text().splitlines()
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    trained = [json.loads(line)["round"] for line in ledger if '"train"' in line]
    known = _asked(rounds)
    both = min(len(trained), len(known))  # the last one may not have been answered, or not be used
    assert both >= 1
    assert trained[:both] == known[:both], "it worked on what the history says, once on each"
    assert len(set(trained)) == len(trained)
    return rounds


def _asked(rounds: list[Event]) -> list[int]:
    """The rounds of whose asking the slow node the history tells."""
    late = [e["round"] for e in rounds if SLOW in e.get("late", [])]
    used = [e["round"] - e.get("staleness", {}).get(SLOW, 0) for e in rounds if SLOW in e["ok"]]
    return sorted({*late, *used})


@pytest.mark.timeout(500)
def test_rounds_close_without_the_slow_node(tmp_path: Path) -> None:
    rounds = _run(tmp_path, rounds=6, close_at=0.75)
    assert [e["round"] for e in rounds] == [1, 2, 3, 4, 5, 6]
    assert rounds[0]["late"] == [SLOW]
    assert rounds[1]["busy"] == [SLOW]
    for event in rounds:
        assert event["ok"] == ["node-0", "node-1", "node-2"]
        assert event["failed"] == []
        assert event["seconds"] < SECONDS


@pytest.mark.timeout(500)
def test_a_late_reply_counts_in_a_later_round(tmp_path: Path) -> None:
    """With ``mode = async`` and as many rounds as the others need until the slow node answers."""
    rounds = _run(tmp_path, rounds=14, mode="async", buffer_size=3)
    assert [e["round"] for e in rounds] == list(range(1, 15))
    assert rounds[0]["working"] == [SLOW]
    with_slow = [e for e in rounds if SLOW in e["ok"]]
    assert with_slow
    assert all(e["staleness"][SLOW] >= 1 for e in with_slow)
    assert all(len(e["ok"]) == 3 and e["failed"] == [] for e in rounds)


@pytest.mark.timeout(700)
def test_before_and_after_in_one_run(tmp_path: Path) -> None:
    """Rounds wait for the slow node until the run is resumed with ``close-at``."""
    data, run_dir = write_prepared(tmp_path / "data", nodes=4), tmp_path / "run"
    app = slow_app(tmp_path / "app", {SLOW: SECONDS})
    for changes in ({"rounds": 2}, {"rounds": 6, "close_at": 0.75}):
        config = RunConfig(catalog=str(data / "catalog.tsv"), **{**CONFIG, **changes})
        argv = deploying(app, data, config, 4, run_dir, resume="close_at" in changes)
        with start(argv, tmp_path) as supervisor:
            output, _ = supervisor.communicate(timeout=300)
        assert supervisor.returncode == 0, output
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    before, after = rounds[:2], rounds[2:]
    assert all(e["seconds"] >= SECONDS and SLOW in e["ok"] for e in before)
    assert all(e["seconds"] < SECONDS and SLOW not in e["ok"] for e in after)
    assert len(after) == 4
