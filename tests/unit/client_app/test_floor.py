"""The owner's floor at the ClientApp: a code for the server, a sentence for the owner, and nothing
is begun."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from flower_in_process import (
    InProcessGrid,
    identify,
    node_context,
    set_message_id,
    tiny_config,
    write_nodes,
)
from flwr.app import Message

from client_app import duties
from client_app.client import app
from lumos_core.config import NodeConfig
from lumos_core.data import Catalog
from lumos_core.federation.node import Node
from lumos_core.federation.owner_floor import Refusal
from lumos_core.federation.owner_pause import pause
from lumos_core.federation.round_loop import run_federation
from lumos_core.flower import records
from lumos_core.flower.cryptography import FLOWER
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy.budget import epsilon, private_steps
from lumos_core.privacy.node_budget import FILE, Account
from lumos_core.wire import versions
from server_app.grid_transport import GridTransport

USER = {"dp": "user", "batch-size": 4, "dp-noise-multiplier": 2.0}
KINDS = [
    (records.DESCRIBE, Order(None, 0, None, "")),
    (records.PREPARE, Order(None, 0, None, "", seconds=1.0)),
    (records.TRAIN, Order({}, 1, None, "")),
    (records.EVALUATE, Order({}, 1, "test", "")),
    (records.SECURE, Order(None, 1, None, "", {"stage": "open", "attempt": 1})),
]


@pytest.fixture
def folder(tmp_path):
    identify()
    return write_nodes(tmp_path)


def ask(config, kind=records.TRAIN, order=None, **floor):
    """The record of the reply of node-0 to a message."""
    if order is None:
        params = get_params(new_model(config, len(Catalog.read(Path(config.catalog)))))
        order = Order(params, 1, None, "")
    message = set_message_id(Message(records.encode_order(order), 100, kind, ttl=60.0), "m1")
    return app(message, node_context(config, 0, **floor)).content


def state_of(folder):
    return folder / "node-0" / "state"


@pytest.mark.parametrize(("kind", "order"), KINDS, ids=[kind for kind, _ in KINDS])
def test_a_run_below_the_floor_gets_nothing_done(folder, monkeypatch, kind, order):
    """Not even the data are opened, let alone a model that the server names."""
    monkeypatch.setattr(duties.Task, "open_data", lambda *_: pytest.fail("opened"))
    config = tiny_config(folder, method="lumos", llm="/etc", **{"local-epochs": 9})
    content = ask(config, kind, order, **{"max-local-epochs": 8})
    assert list(content) == ["error"]
    told = {"name": "node-0", **versions.own().to_info()}
    named = told if kind == records.DESCRIBE else {}
    assert dict(content["error"]) == {"code": "below-floor-allowed-llms", **named}
    log = (state_of(folder) / "node.log").read_text()
    for text in (
        "llm = '/etc'; this node has allowed-llms = \"\"; ask the server's operator for",
        "local-epochs = 9; this node has max-local-epochs = 8; ask the server's operator for",
    ):
        assert log.count(text) == 1
    assert "Traceback" not in log
    assert [s for s in Refusal.of_node(state_of(folder)).sentences if s not in log] == []


@pytest.mark.parametrize(
    ("run", "floor", "code"),
    [
        ({}, {"allowed-dp": "user"}, "below-floor-allowed-dp"),
        (USER, {"min-noise-multiplier": 2.5}, "below-floor-min-noise-multiplier"),
        (USER, {"max-run-epsilon": 0.01}, "below-floor-max-run-epsilon"),
        (USER, {"max-total-epsilon": 0.01}, "below-floor-max-total-epsilon"),
        ({}, {"min-users": 7}, "below-floor-min-users"),
        ({}, {"require-secure-aggregation": True}, "secagg-refused"),
    ],
)
def test_each_refusal_has_a_code_and_nothing_is_trained(folder, monkeypatch, run, floor, code):
    monkeypatch.setattr(Node, "train", lambda *_: pytest.fail("trained"))
    content = ask(tiny_config(folder, **run), **floor)
    assert {name: dict(record) for name, record in content.items()} == {"error": {"code": code}}
    assert not (state_of(folder) / FILE).exists() or not Account(state_of(folder)).read().trainings


def test_codes_are_codes_that_a_server_accepts(folder):
    content = ask(tiny_config(folder, **USER), **{"min-noise-multiplier": 2.5})
    assert records.decode_error(content) == ("below-floor-min-noise-multiplier", "")


def test_every_training_is_counted_before_it_begins(folder, monkeypatch):
    config = tiny_config(folder, **USER)
    train, seen = Node.train, []

    def looking(self, *arguments):
        seen.append(Account(state_of(folder)).read().trainings)
        return train(self, *arguments)

    monkeypatch.setattr(Node, "train", looking)
    for _ in range(2):
        assert "delta" in ask(config)
    assert seen == [1, 2]
    rate, steps = private_steps(6, config)
    spent = Account(state_of(folder)).read()
    assert spent.epsilon(1e-5) == pytest.approx(epsilon(2.0, rate, 2 * steps, 1e-5))


def test_a_second_run_that_exceeds_epsilon_is_refused_from_the_start(folder):
    config = tiny_config(folder, **USER)
    rate, steps = private_steps(6, config)
    limit = {"max-total-epsilon": epsilon(2.0, rate, 2.5 * steps, 1e-5)}
    assert "delta" in ask(config, **limit)
    assert "delta" in ask(config, **limit)
    second = config.replace(seed=1)
    for kind, order in ((records.TRAIN, None), KINDS[0]):
        content = ask(second, kind, order, **limit)
        assert content["error"]["code"] == "below-floor-max-total-epsilon"
    assert "ε of all runs" in (state_of(folder) / "node.log").read_text()
    assert "node" in ask(config, *KINDS[0], **limit), "the first may go on without training"


@pytest.mark.parametrize("content", ["{", None])
def test_without_the_account_nothing_is_trained(folder, monkeypatch, content):
    monkeypatch.setattr(Node, "train", lambda *_: pytest.fail("trained"))
    path = state_of(folder) / FILE
    path.parent.mkdir()
    if content is None:
        path.mkdir()  # cannot be replaced by a file
    else:
        path.write_text(content)
    reply = ask(tiny_config(folder, **USER))
    assert {name: dict(record) for name, record in reply.items()} == {
        "error": {"code": "ledger-failed"}
    }


@pytest.mark.parametrize("run", [{}, USER])
def test_a_training_ends_when_its_time_is_up(folder, run):
    config = tiny_config(folder, **run)
    for _ in range(2):
        content = ask(config, **{"max-training-seconds": 1e-9})
        assert dict(content["error"]) == {"code": "below-floor-max-training-seconds"}
    assert Account(state_of(folder)).read().trainings == 1, "the second was not begun"
    assert "delta" in ask(config, **{"max-training-seconds": 60.0})


def test_the_day_s_trainings_and_bytes(folder):
    config = tiny_config(folder)
    assert "delta" in ask(config, **{"max-rounds-a-day": 1})
    sent = Account(state_of(folder)).read().bytes_today
    ledger = (state_of(folder) / "ledger.jsonl").read_text().splitlines()
    arrays = sum(record["bytes"] for record in json.loads(ledger[0])["records"])
    assert arrays <= sent < 1.5 * arrays + 2000
    content = ask(config, **{"max-rounds-a-day": 1})
    assert content["error"]["code"] == "below-floor-max-rounds-a-day"
    content = ask(config, **{"max-bytes-a-day": 2 * sent - 1})
    assert content["error"]["code"] == "below-floor-max-bytes-a-day"
    assert Account(state_of(folder)).read().trainings == 1
    assert "delta" in ask(config, **{"max-bytes-a-day": 2 * sent})


def federate(folder, nodes, floor, **changes):
    config = tiny_config(folder, **changes)
    catalog = Catalog.read(folder / "catalog.tsv")
    contexts = {100 + n: node_context(config, n) for n in range(nodes)}
    facts = {**contexts[100].node_config, **floor}
    contexts[100] = replace(contexts[100], node_config=facts)
    transport = GridTransport(InProcessGrid(app, contexts), catalog.fingerprint, poll=0.01)
    params = initial_params(config, catalog)
    return run_federation(config, transport, catalog.fingerprint, params, primitives=FLOWER)


def test_the_round_goes_on_with_the_others(folder):
    floor = {"max-rounds-a-day": 1}
    result = federate(folder, 2, floor, **{"min-replies": 1})
    first, second = [e for e in result.events if e["event"] == "round"]
    assert (first["ok"], second["ok"]) == (["node-0", "node-1"], ["node-1"])
    reason = "error 'below-floor-max-rounds-a-day'"
    assert second["failed"] == [{"node": "node-0", "reason": reason}]


def test_secure_rounds_are_counted_with_the_noise_that_the_node_can_be_sure_of(tmp_path):
    identify()
    folder = write_nodes(tmp_path / "more", nodes=4)
    result = federate(
        folder, 4, {}, dp="distributed", weighting="uniform", rounds=1,
        **{"secure-aggregation": True, "min-nodes": 4, "min-replies": 4},
    )  # fmt: skip
    assert result.outcome == "completed"
    sure = (NodeConfig(data="d").secagg_min_nodes / 4) ** 0.5
    for node in range(4):
        spent = Account(folder / f"node-{node}" / "state").read()
        assert spent.epsilon(1e-5) == pytest.approx(epsilon(sure / 2, 1.0, 1, 1e-5))


def test_virtual_nodes_belong_to_whoever_names_the_model(folder, monkeypatch):
    monkeypatch.setenv("LUMOS_SIMULATION_DATA", str(folder))
    config = tiny_config(folder, llm="/my/model")
    context = replace(node_context(config, 0), node_config={"partition-id": 0})
    message = Message(records.encode_order(Order(None, 0, None, "")), 100, records.DESCRIBE)
    assert list(app(set_message_id(message, "m1"), context).content) == ["node"]


def test_a_delta_that_was_being_made_when_its_owner_paused_stays_here(folder, monkeypatch):
    train = Node.train

    def and_pause(self, *arguments):
        pause(state_of(folder))
        return train(self, *arguments)

    monkeypatch.setattr(Node, "train", and_pause)
    content = ask(tiny_config(folder))
    assert {n: dict(r) for n, r in content.items()} == {"error": {"code": "paused"}}
    spent = Account(state_of(folder)).read()
    assert (spent.trainings, spent.bytes_today) == (1, 0)
