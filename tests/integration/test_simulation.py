"""`lumos simulate`: the same apps under Flower's simulation engine."""

import json

import pytest
from deployment_support import command, family, leftovers, named, start, wait_for, write_prepared

from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration


def test_a_simulated_federation_from_start_to_end(tmp_path):
    data = write_prepared(tmp_path / "data", nodes=5, users=4)
    run_dir = tmp_path / "run"
    argv = command("simulate", data, run_dir, rounds=2, fraction="0.5")
    with start(argv, tmp_path) as cli:
        processes = wait_for(lambda: named(cli.pid, "raylet") and family(cli.pid), 90)
        output, _ = cli.communicate(timeout=150)
    assert cli.returncode == 0, output
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
    events = read_history(run_dir / "history.jsonl")
    assert [e["nodes_ok"] for e in events if e["event"] == "round"] == [3, 3]
    evaluated = [e["users"] for e in events if e["event"] == "evaluation"]
    assert evaluated == [20, 20, 20, 20]  # rounds 0, 1, 2 and the test, by all nodes
    assert leftovers(run_dir, processes) == []
