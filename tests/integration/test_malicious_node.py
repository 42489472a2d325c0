"""A real deployment in which one ClientApp is malicious: its replies are named and do no harm."""

import json

import numpy as np
import pytest
from deployment_support import deploying, leftovers, start, wrapped_app, write_prepared

from lumos_core.config import RunConfig
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration

WRAPPER = '''
"""The app as it is, but for node-2: NaN in the first round, a giant delta in the second."""

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp

from client_app import honest
from lumos_core.flower import records

app = ClientApp()
app.query("describe")(honest.answer)
app.evaluate()(honest.answer)


@app.train()
def train(message, context):
    reply = honest.answer(message, context)
    if context.node_config["name"] != "node-2":
        return reply
    round_ = records.decode_order(message.content).round
    delta, metrics = records.decode_train(reply.content)
    factor = np.float32(np.nan if round_ == 1 else 1e7)
    spoiled = {name: array * factor for name, array in delta.items()}
    return Message(records.encode_train(spoiled, metrics), reply_to=message)
'''


def test_a_malicious_client_app_is_named_and_does_no_harm(tmp_path):
    data, run_dir = write_prepared(tmp_path / "data", nodes=3), tmp_path / "run"
    config = RunConfig(
        method="fedavg", semantic_start="none", dim=8, heads=1, layers=1, local_epochs=1, rounds=2,
        catalog=str(data / "catalog.tsv"), min_nodes=3, min_replies=2, start_timeout=90,
    )  # fmt: skip
    app = wrapped_app(tmp_path / "app", WRAPPER)
    with start(deploying(app, data, config, 3, run_dir), tmp_path) as supervisor:
        output, _ = supervisor.communicate(timeout=400)
    assert supervisor.returncode == 0, output
    assert json.loads((run_dir / "summary.json").read_text())["outcome"] == "completed"
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    assert [e["nodes_ok"] for e in rounds] == [2, 2]
    assert [[f["node"] for f in e["failed"]] for e in rounds] == [["node-2"], ["node-2"]]
    reasons = [e["failed"][0]["reason"] for e in rounds]
    assert "NaN" in reasons[0]
    assert "max-delta-norm" in reasons[1]
    assert leftovers(run_dir, []) == []

    catalog, parts = load_prepared(data)
    honest = [Node(f"node-{n}", catalog, parts[n], config) for n in range(2)]
    alone = config.replace(min_nodes=2)
    folder = tmp_path / "alone"
    run_federation(
        alone, InProcessTransport(honest), catalog.fingerprint, initial_params(config, catalog),
        run_dir=folder,
    )  # fmt: skip
    expected = load_checkpoint(folder / LATEST).params
    found = load_checkpoint(run_dir / LATEST).params
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
