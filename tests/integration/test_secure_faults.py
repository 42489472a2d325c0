"""Secure aggregation over gRPC, in which nodes are killed between the steps of a round."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from deployment_support import (
    deploying,
    family,
    leftovers,
    node_process,
    start,
    wait_for,
    wrapped_app,
    write_prepared,
)

from lumos_core.config import RunConfig
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

NODES, ROUNDS = 6, 4
DEATHS = {  # node: in which round, at which step, which it does not answer any more
    "node-5": (1, "roster"),  # after the exchange of keys
    "node-4": (2, "upload"),  # after the shares
    "node-3": (3, "unmask"),  # after its upload, which is in the sum
    "node-2": (4, "upload"),  # two are left: fewer than the threshold
}
WRAPPER = f"""
import time
from pathlib import Path

from flwr.clientapp import ClientApp

from client_app import honest
from lumos_core.flower import records

DEATHS = {DEATHS!r}
app = ClientApp()


def mortal(message, context):
    order = records.decode_order(message.content)
    when = (order.round, (order.secure or {{}}).get("stage"))
    if DEATHS.get(context.node_config["name"]) == when:
        Path(context.node_config["data"], "state", "dying").touch()
        time.sleep(600)  # it is killed
    return honest.answer(message, context)


app.query("describe")(mortal)
app.query("secagg")(mortal)
app.train()(mortal)
app.evaluate()(mortal)
"""


def kill_node(pid: int, name: str) -> None:
    """SIGKILL a node's SuperNode, and whatever of its work still runs."""
    supernode = node_process(pid, name)
    assert supernode is not None
    state = f"/{name}/state"
    workers = []
    for process in family(pid):
        with suppress(psutil.Error):
            if any(state in file.path for file in process.open_files()):
                workers.append(process)
    for process in (supernode, *workers):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def plain_rounds(data: Path, config: RunConfig, who: dict[int, list[int]]) -> Params:
    """The model after plain rounds of these nodes: mean deltas, added up."""
    catalog, parts = load_prepared(data)
    nodes = [Node(f"node-{n}", catalog, part, config) for n, part in enumerate(parts)]
    params = initial_params(config, catalog)
    for number, numbers in who.items():
        found = [nodes[n].train(params, number)[0] for n in numbers]
        params = {k: a + np.mean([d[k] for d in found], axis=0) for k, a in params.items()}
    return params


def distance(a: Params, b: Params) -> float:
    return float(np.mean([np.abs(a[k] - b[k]).mean() for k in a]))


@pytest.mark.timeout(900)
def test_nodes_killed_between_steps_cost_no_round_until_too_few_are_left(tmp_path: Path) -> None:
    data, run_dir = write_prepared(tmp_path / "data", nodes=NODES), tmp_path / "run"
    config = RunConfig(
        method="fedavg", semantic_start="none", dim=8, heads=1, layers=1, local_epochs=3,
        rounds=ROUNDS, catalog=str(data / "catalog.tsv"), min_nodes=NODES, min_replies=3,
        max_failed_rounds=0, start_timeout=120, round_timeout=60, weighting="uniform",
        server_optimizer="sgd", secure_aggregation=True,
    )  # fmt: skip
    app = wrapped_app(tmp_path / "app", WRAPPER)
    with start(deploying(app, data, config, NODES, run_dir), tmp_path) as supervisor:
        for name in DEATHS:
            wait_for((data / name / "state" / "dying").exists, 200)
            kill_node(supervisor.pid, name)
        output, _ = supervisor.communicate(timeout=200)
    assert supervisor.returncode == 1, output
    events = read_history(run_dir / "history.jsonl")
    rounds = [e for e in events if e["event"] == "round"]
    assert [e["ok"] for e in rounds] == [
        [f"node-{n}" for n in range(5)],
        [f"node-{n}" for n in range(4)],
        [f"node-{n}" for n in range(4)],  # node-3 died after its upload
    ]
    [failed] = [e for e in events if e["event"] == "failed-round"]
    assert failed["round"] == ROUNDS
    assert failed["ok"] == []
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["outcome"] == "failed"
    checkpoint = load_checkpoint(run_dir / LATEST)
    assert checkpoint.progress.round == ROUNDS - 1

    those = {1: [0, 1, 2, 3, 4], 2: [0, 1, 2, 3], 3: [0, 1, 2, 3]}
    others = {**those, 3: [0, 1, 2]}
    expected, wrong = (plain_rounds(data, config, who) for who in (those, others))
    assert distance(checkpoint.params, expected) < 0.1 * distance(checkpoint.params, wrong)
    assert leftovers(run_dir, []) == []
