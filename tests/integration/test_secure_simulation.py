"""`lumos simulate` with secure aggregation: the same apps, real messages, real cryptography."""

import json

import pytest
from deployment_support import command, start, write_prepared

from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration


def test_two_secure_rounds_of_three_nodes(tmp_path):
    data = write_prepared(tmp_path / "data", nodes=3, users=4)
    run_dir = tmp_path / "run"
    secure = {"secure_aggregation": "true", "min_nodes": "3", "min_replies": "3"}
    with start(command("simulate", data, run_dir, rounds=2, **secure), tmp_path) as cli:
        output, _ = cli.communicate(timeout=200)
    assert cli.returncode == 0, output
    assert json.loads((run_dir / "summary.json").read_text())["outcome"] == "completed"
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    assert [(e["nodes_ok"], e["users"], e["failed"]) for e in rounds] == [(3, 12, [])] * 2
    for node in range(3):
        lines = (data / f"node-{node}" / "state" / "ledger.jsonl").read_text().splitlines()
        sent = [json.loads(line) for line in lines]
        kinds = [line["message"] for line in sent]
        assert kinds[1:-2] == ["query.secagg", "query.secagg", "train", "query.secagg"] * 2
        uploads = [line["records"] for line in sent if line["message"] == "train"]
        assert [[(r["array"], r["dtype"]) for r in u] for u in uploads] == [
            [("masked", "uint32")]
        ] * 2
