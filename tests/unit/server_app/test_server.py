"""Whole runs through both apps in one process: outcome, summary, and runs that must fail."""

import json

import numpy as np
import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Context, Message, RecordDict

from client_app.client import app as client
from lumos_core.config import NODE_NAMES
from lumos_core.data import Catalog
from lumos_core.errors import ConfigError, DataError, FederationError, NewerFileError
from lumos_core.flower.records import decode_train, encode_train
from lumos_core.recommend.model_files import kept_model, read_model
from lumos_core.runs.checkpoint import BEST
from lumos_core.runs.history import read_history
from server_app.server import _registered_names
from server_app.server import app as server


@pytest.fixture
def folder(tmp_path):
    return write_nodes(tmp_path)


def run(folder, tamper=None, **changes):
    """Run the ServerApp; its summary."""
    config = tiny_config(folder, **changes)
    grid = InProcessGrid(client, {100 + n: node_context(config, n) for n in range(2)})
    grid.tamper.update(tamper or {})
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    server(grid, context)
    return summary(folder)


def summary(folder):
    return json.loads((folder / "run" / "summary.json").read_text())


def test_a_run_ends_with_a_checkpoint_a_history_and_a_summary(folder):
    found = run(folder)
    assert (found["outcome"], found["rounds"], found["method"]) == ("completed", 2, "fedavg")
    assert 0 <= found["test"]["hr@20"] <= 1
    assert found["versions"].keys() == {"python", "flwr", "torch", "numpy"}
    assert found["schema_version"] == 1
    assert not {"epsilon", "views"} & found.keys()
    events = read_history(folder / "run" / "history.jsonl")
    assert [e["nodes_ok"] for e in events if e["event"] == "round"] == [2, 2]
    sent = sum(e.get("bytes_up", 0) for e in events)
    assert found["bytes_up"] == sent > 0
    assert (folder / "run" / "checkpoint" / "best.safetensors").exists()
    attended = json.loads((folder / "run" / "attendance.json").read_text())
    assert (attended["waiting"], attended["refused"]) == ([], {})


def test_without_a_test_every_node_has_the_result_all_the_same(folder):
    """That of an earlier run, which was tested, does not hide it."""
    run(folder)
    (folder / "run").rename(folder / "earlier")
    found = run(folder, rounds=1, evaluation="none")
    assert (found["outcome"], found["test"]) == ("completed", {})
    catalog = Catalog.read(folder / "catalog.tsv")
    result, _ = read_model(folder / "run" / BEST)
    for node in range(2):
        params, card = read_model(kept_model(folder / f"node-{node}" / "state", catalog))
        assert (card.round, card.final, card.config["evaluation"]) == (1, True, "none")
        assert all((params[name] == array).all() for name, array in result.items())


def test_the_same_seed_gives_the_same_run(tmp_path):
    first, second = (run(write_nodes(tmp_path / name))["test"] for name in ("a", "b"))
    assert first == second


def test_a_run_that_is_started_again_goes_on(tmp_path):
    straight, stopped = write_nodes(tmp_path / "a"), write_nodes(tmp_path / "b")
    expected = run(straight)
    assert run(stopped, rounds=1)["rounds"] == 1
    assert run(stopped)["rounds"] == 2
    rounds = [e["round"] for e in read_history(stopped / "run" / "history.jsonl")]
    assert rounds == [e["round"] for e in read_history(straight / "run" / "history.jsonl")]
    assert summary(stopped)["test"] == expected["test"]


def test_a_node_that_sends_nan_is_named_and_the_run_goes_on_without_it(folder):
    def poison(message: Message, context: Context) -> Message:
        reply = client(message, context)
        if "delta" not in reply.content:
            return reply
        arrays, metrics = decode_train(reply.content)
        arrays["items.weight"] = np.full_like(arrays["items.weight"], np.nan)
        return Message(encode_train(arrays, metrics), reply_to=message)

    found = run(folder, {101: poison}, **{"min-replies": 1})
    assert found["outcome"] == "completed"
    rounds = [e for e in read_history(folder / "run" / "history.jsonl") if e["event"] == "round"]
    assert [e["nodes_ok"] for e in rounds] == [1, 1]
    assert {f["node"] for e in rounds for f in e["failed"]} == {"node-1"}
    assert "NaN" in rounds[0]["failed"][0]["reason"]


def test_failed_rounds_fail_the_run_although_flower_would_call_it_completed(folder):
    def silent_after_query(message: Message, context: Context) -> Message | None:
        return client(message, context) if "query" in message.metadata.message_type else None

    with pytest.raises(FederationError, match=r"1 valid replies.*min-replies = 2"):
        run(folder, {101: silent_after_query}, **{"round-timeout": 1.0, "max-failed-rounds": 0})
    assert summary(folder)["outcome"] == "failed"
    assert "min-replies = 2" in summary(folder)["reason"]


def test_too_few_nodes_fail_after_the_start_timeout(folder):
    (folder / "node-1" / "interactions.tsv").unlink()
    with pytest.raises(FederationError, match=r"1 usable nodes after start-timeout = 1 s.*node-1"):
        run(folder, **{"start-timeout": 1.0})
    assert summary(folder)["outcome"] == "failed"


def test_a_run_needs_a_catalog(folder):
    with pytest.raises(ConfigError, match="key 'catalog' is required"):
        run(folder, catalog="")
    assert "catalog" in summary(folder)["reason"]


def test_registered_names_are_read_in_both_forms(tmp_path, monkeypatch):
    assert _registered_names() is None
    path = tmp_path / "nodes.json"
    monkeypatch.setenv(NODE_NAMES, str(path))
    nodes = '{"a": {"id": "18446744073709551615", "key": "k"}}'
    for text in (nodes, f'{{"schema_version": 2, "nodes": {nodes}}}'):
        path.write_text(text)
        assert _registered_names() == {2**64 - 1: "a"}
    path.write_text('{"schema_version": 3}')
    with pytest.raises(NewerFileError, match=r"nodes\.json: has schema version 3"):
        _registered_names()
    path.unlink()
    with pytest.raises(DataError, match=r"nodes\.json: cannot be read"):
        _registered_names()


def test_a_run_that_cannot_know_its_nodes_says_so_in_its_summary(folder, monkeypatch):
    monkeypatch.setenv(NODE_NAMES, str(folder / "nodes.json"))
    (folder / "nodes.json").write_text('{"schema_version": 3}')
    with pytest.raises(NewerFileError):
        run(folder)
    found = summary(folder)
    assert (found["outcome"], found["method"]) == ("failed", "fedavg")
    assert "update LUMOS" in found["reason"]
    assert "rounds" not in found
