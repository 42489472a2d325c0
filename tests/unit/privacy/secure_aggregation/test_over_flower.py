"""Secure rounds through Flower's messages: real ClientApps, a real Grid transport."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flower_in_process import (
    InProcessGrid,
    identify,
    node_context,
    set_message_id,
    tiny_config,
    write_nodes,
)
from flwr.app import ArrayRecord, Message

from client_app.client import app
from lumos_core.data import Catalog
from lumos_core.federation.round_loop import run_federation
from lumos_core.flower import records
from lumos_core.flower.cryptography import FLOWER
from lumos_core.flower.records import Order
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy.secure_aggregation.packets import Open, pack
from server_app.grid_transport import GridTransport

SECURE = {"min-nodes": 3, "min-replies": 3, "secure-aggregation": True}


@pytest.fixture
def folder(tmp_path):
    identify()
    return write_nodes(tmp_path, nodes=4)


def federate(folder, tamper=None, **changes):
    config = tiny_config(folder, **{**SECURE, **changes})
    catalog = Catalog.read(folder / "catalog.tsv")
    grid = InProcessGrid(app, {100 + n: node_context(config, n) for n in range(4)})
    grid.tamper |= tamper or {}
    transport = GridTransport(grid, catalog.fingerprint, poll=0.01)
    result = run_federation(
        config, transport, catalog.fingerprint, initial_params(config, catalog), primitives=FLOWER
    )
    return result, grid


def ledger(folder, node):
    lines = (folder / f"node-{node}" / "state" / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_secure_rounds_equal_two_plain_ones(folder):
    secure, grid = federate(folder)
    assert (secure.outcome, secure.rounds) == ("completed", 2)
    kinds = [m.metadata.message_type for m in grid.sent]
    assert kinds.count(records.SECURE) == 2 * 3 * 4
    for node in range(4):
        sent = ledger(folder, node)
        assert [line["message"] for line in sent if line["round"] == 1] == [
            "query.secagg", "query.secagg", "train", "query.secagg",
        ]  # fmt: skip
        (upload,) = next(line for line in sent if line["message"] == "train")["records"]
        assert (upload["record"], upload["array"], upload["dtype"]) == (
            "upload", "masked", "uint32",
        )  # fmt: skip
        session = json.loads((folder / f"node-{node}" / "state" / "secagg" / "1.json").read_text())
        assert (session["stage"], session["seed"], session["mask_key"]) == ("closed", "", "")
    plain, _ = federate(folder, **{"secure-aggregation": False, "clip": "none"})
    first = [
        next(e for e in r.events if e["event"] == "round" and e["round"] == 1)
        for r in (secure, plain)
    ]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"])
    assert first[0]["users"] == first[1]["users"] == 24
    for name, array in plain.params.items():
        np.testing.assert_allclose(secure.params[name], array, atol=0.02)


def silent_from(step):
    """A node that dies when a step begins."""

    def answer(message, context):
        secure = message.content.config_records.get(records.SECAGG)
        return None if secure is not None and secure["stage"] == step else app(message, context)

    return answer


@pytest.mark.parametrize("step", ["roster", "upload", "unmask"])
def test_a_node_that_dies_does_not_cost_the_round(folder, step):
    result, _ = federate(
        folder, {103: silent_from(step)}, rounds=1, **{"round-timeout": 6.0}
    )  # fmt: skip
    (event,) = [e for e in result.events if e["event"] == "round"]
    alive = ["node-0", "node-1", "node-2"]
    assert event["ok"] == ([*alive, "node-3"] if step == "unmask" else alive)


def hostile(change):
    def answer(message, context):
        reply = app(message, context)
        if records.UPLOAD in reply.content:
            change(reply.content)
        return reply

    return answer


def as_plain_delta(content):
    content["delta"] = content[records.UPLOAD]
    del content[records.UPLOAD]


def with_a_note(content):
    content["note"] = ArrayRecord([np.zeros(3)])


def longer(content):
    content[records.UPLOAD] = records.to_record({"masked": np.zeros(10**5, np.uint32)})


@pytest.mark.parametrize("change", [as_plain_delta, with_a_note, longer])
def test_malformed_uploads_are_left_out(folder, change):
    result, _ = federate(folder, {103: hostile(change)}, rounds=1)
    (event,) = [e for e in result.events if e["event"] == "round"]
    assert event["ok"] == ["node-0", "node-1", "node-2"]
    assert [f["node"] for f in event["failed"]] == ["node-3"]


def ask(kind, order, context):
    message = Message(records.encode_order(order), 100, kind, ttl=60.0)
    return app(set_message_id(message, "m1"), context).content


def test_a_node_sends_no_readable_delta_where_run_or_owner_forbids_it(folder):
    secure = tiny_config(folder, **SECURE)
    plain = secure.replace(secure_aggregation=False)
    catalog = Catalog.read(folder / "catalog.tsv")
    order = Order(initial_params(secure, catalog), 1, None, "")
    refused = {"error": {"code": "secagg-refused"}}
    for context in (
        node_context(secure, 0),
        node_context(plain, 0, **{"require-secure-aggregation": True}),
    ):
        content = ask(records.TRAIN, order, context)
        assert {n: dict(r) for n, r in content.items()} == refused
    assert "delta" in ask(records.TRAIN, order, node_context(plain, 0))
    for packet in (pack(Open(1)), {"stage": "upload"}, {}):
        content = ask(records.TRAIN, order._replace(secure=packet), node_context(plain, 0))
        assert list(content) == ["error"]


def test_the_owner_decides_how_large_a_sum_must_be(folder):
    def shy(message, context):
        facts = {**context.node_config, "secagg-min-nodes": 5}
        return app(message, replace(context, node_config=facts))

    result, _ = federate(folder, {103: shy}, rounds=1)
    (event,) = [e for e in result.events if e["event"] == "round"]
    assert event["ok"] == ["node-0", "node-1", "node-2"]
    (failure,) = event["failed"]
    assert failure == {"node": "node-3", "reason": "step 'roster': error 'secagg-refused'"}
