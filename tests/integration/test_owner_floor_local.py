"""The owner's floor over real processes: nodes refuse a run by name, the server learns the key
alone, and the run goes on with the node that has no floor."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from deployment_support import TINY, leftovers, start, wait_for, write_prepared

from lumos_core.config import RunConfig
from lumos_core.federation.owner_floor import Refusal
from lumos_core.privacy.node_budget import Account, Training
from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration

DEPLOY = """
import json, sys
from pathlib import Path
from lumos_core.config import RunConfig
from lumos_core.deployment.local import LocalNode, deploy
data, run_dir, config, floors = json.loads(sys.argv[1])
nodes = [LocalNode(name, Path(data) / name, floor) for name, floor in floors.items()]
summary = deploy(RunConfig.from_flat(config), nodes, Path(run_dir), print)
sys.exit(summary.outcome != "completed")
"""
FLOORS = {
    "node-0": {"min-noise-multiplier": 2.0, "max-local-epochs": 2, "allowed-llms": ""},
    "node-1": {"max-total-epsilon": 18.0},
    "node-2": {},
}
SENTENCES = {
    "node-0": (
        "dp-noise-multiplier = 1; this node has min-noise-multiplier = 2.0; ",
        "local-epochs = 3; this node has max-local-epochs = 2; ",
        "llm = '/etc'; this node has allowed-llms = \"\"; ",
    ),
    "node-1": ("; this node has max-total-epsilon = 18.0; ",),
}
CODES = {
    "node-0": "below-floor-min-noise-multiplier",
    "node-1": "below-floor-max-total-epsilon",
}


def test_a_run_below_the_floor_is_refused_and_goes_on_with_the_others(tmp_path: Path) -> None:
    data, run_dir = write_prepared(tmp_path / "data", nodes=3), tmp_path / "run"
    earlier = Account(data / "node-1" / "state")  # of a run before this one
    earlier.change(lambda spent: spent.after_training("earlier", Training(0.35)))
    before = earlier.read().epsilon(1e-5)
    assert 16 < before < 18
    config = RunConfig.from_flat(
        {**TINY, "dp": "user", "dp-noise-multiplier": 1.0, "local-epochs": 3, "llm": "/etc",
         "batch-size": 4, "rounds": 500, "min-nodes": 1, "min-replies": 1,
         "catalog": str(data / "catalog.tsv")}
    )  # fmt: skip
    arguments = json.dumps([str(data), str(run_dir), config.to_flat(), FLOORS])
    log, history = run_dir / "logs" / "server.log", run_dir / "history.jsonl"

    def refused_by_both() -> bool:
        return log.exists() and all(code in log.read_text() for code in CODES.values())

    def rounds() -> list[dict[str, Any]]:
        return [e for e in read_history(history) if e["event"] == "round"]

    with start([sys.executable, "-c", DEPLOY, arguments], tmp_path) as supervisor:
        wait_for(refused_by_both, 150)  # nodes connect one after the other
        done = len(rounds())
        wait_for(lambda: len(rounds()) > done, 60)
        supervisor.send_signal(signal.SIGINT)
        supervisor.communicate(timeout=60)
    assert all(e["ok"] == ["node-2"] for e in rounds())
    server = log.read_text()
    for node, sentences in SENTENCES.items():
        state = data / node / "state"
        noted = (state / "node.log").read_text()
        refusal = Refusal.of_node(state)
        assert refusal is not None
        assert len(refusal.sentences) == len(sentences)
        for sentence in sentences:
            assert sentence in noted
            assert any(sentence in told for told in refusal.sentences)
            assert sentence not in server
        assert f"node {node}: refused: it answers with error '{CODES[node]}'" in server
    assert "this node has" not in server
    spent = {node: Account(data / node / "state").read() for node in FLOORS}
    assert (spent["node-0"].trainings, spent["node-1"].trainings) == (0, 1)
    assert spent["node-2"].trainings >= len(rounds())
    assert spent["node-1"].epsilon(1e-5) == before
    assert spent["node-2"].epsilon(1e-5) > 0
    assert leftovers(run_dir, []) == []
