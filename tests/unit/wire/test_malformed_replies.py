"""Whatever a node answers: the server goes on, the model is that of the others, the node is named.

The whole way is real but for Flower's network: messages, transport, checks, round loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from malformed_corpus import Bad, corpus

from client_app.client import app
from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.federation import membership
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.flower import records
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.parameters import Params
from lumos_core.wire.reply_checks import EVALUATION_METRICS
from server_app.grid_transport import GridTransport, Unreadable

LIAR = 102  # Flower's id of node-2
Answer = Callable[[Message, Context], Message | None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nodes(tmp_path_factory.mktemp("nodes"), nodes=3)


@pytest.fixture(scope="module")
def initial(folder: Path) -> Params:
    return get_params(new_model(tiny_config(folder), len(_catalog(folder))))


def _catalog(folder: Path) -> Catalog:
    return Catalog.read(folder / "catalog.tsv")


def _good(order: records.Order, node: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A train reply as a node would make it; another one every round."""
    assert order.params is not None
    rng = np.random.default_rng([order.round, node])
    delta = {n: 0.01 * rng.normal(size=a.shape).astype("f4") for n, a in order.params.items()}
    delta = {n: a.astype(np.float32) for n, a in delta.items()}
    metrics: dict[str, Any] = {
        "users": 6, "examples": 30, "loss": 80.0, "contrastive": 0.0, "contrastive-users": 0,
        "views-complete": 1, "seconds": 0.1,
    }  # fmt: skip
    return delta, metrics


def _evaluation(hits: float = 1.0) -> dict[str, Any]:
    return {**dict.fromkeys(EVALUATION_METRICS, hits), "eval-users": 6.0}


def _honest(message: Message, context: Context) -> Message:
    if message.metadata.message_type == records.DESCRIBE:
        return app(message, context)
    order = records.decode_order(message.content)
    if message.metadata.message_type == records.EVALUATE:
        # the last model is the best, so that it is the run's result
        return Message(records.encode_metrics(_evaluation(2.0)), reply_to=message)
    delta, metrics = _good(order, context.node_id)
    metrics |= _evaluation() if order.evaluate else {}
    return Message(records.encode_train(delta, metrics), reply_to=message)


def _run(
    folder: Path, initial: Params, rounds: int, liar: Answer | None
) -> tuple[FederationResult, InProcessGrid]:
    config = tiny_config(
        folder, rounds=rounds, **{"evaluate-every": 10**6, "min-nodes": 2, "min-replies": 2}
    )
    names = range(3 if liar else 2)
    grid = InProcessGrid(app, {100 + n: node_context(config, n) for n in names})
    grid.tamper = {100: _honest, 101: _honest}
    if liar:
        grid.tamper[LIAR] = liar
    fingerprint = _catalog(folder).fingerprint
    transport = GridTransport(grid, fingerprint, poll=0.001)
    return run_federation(config, transport, fingerprint, initial), grid


def _rejections(result: FederationResult) -> list[list[dict[str, str]]]:
    return [e["failed"] for e in result.events if e["event"] == "round"]


def test_the_corpus_of_malformed_replies(
    folder: Path, initial: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One malformed reply a round, all rounds of one run, however large the reply before."""
    monkeypatch.setattr(membership, "LEFT_OUT_ROUNDS", 0)
    bad: dict[str, Bad] = corpus(list(initial))
    assert len(bad) >= 100
    cases = list(bad.values())

    def answer(message: Message, context: Context) -> Message | None:
        order = records.decode_order(message.content)
        if message.metadata.message_type != records.TRAIN:
            return _honest(message, context)
        delta, metrics = _good(order, LIAR)
        metrics |= _evaluation() if order.evaluate else {}
        return Message(cases[order.round - 1](delta, metrics), reply_to=message)

    result, _ = _run(folder, initial, len(cases), answer)
    without, _ = _run(folder, initial, len(cases), None)
    assert result.outcome == "completed"
    for case, failed in zip(bad, _rejections(result), strict=True):
        assert [f["node"] for f in failed] == ["node-2"], case
        reason = failed[0]["reason"]
        assert 0 < len(reason) < 700, case
        assert not any(secret in reason for secret in ("\x1b", "anna", "Traceback")), case
    assert result.best_round == len(cases)
    for name, array in without.params.items():
        assert np.array_equal(result.params[name], array)
        assert not np.array_equal(array, initial[name])


def test_the_good_reply_that_the_corpus_spoils_is_good(folder: Path, initial: Params) -> None:
    result, _ = _run(folder, initial, 2, _honest)
    assert _rejections(result) == [[], []]
    without, _ = _run(folder, initial, 2, None)
    assert any(not np.array_equal(result.params[n], a) for n, a in without.params.items())


def test_a_node_that_sends_too_much_is_left_out_of_three_rounds(
    folder: Path, initial: Params
) -> None:
    asked: list[tuple[str, int]] = []

    def answer(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == records.DESCRIBE:
            return app(message, context)
        order = records.decode_order(message.content)
        asked.append((message.metadata.message_type, order.round))
        if order.round > 1:
            return _honest(message, context)
        many = MetricRecord({f"m{n}": n for n in range(1000)})
        return Message(RecordDict({"metrics": many}), reply_to=message)

    result, _ = _run(folder, initial, 6, answer)
    rounds = [e for e in result.events if e["event"] == "round"]
    assert result.outcome == "completed"
    assert [len(e["ok"]) for e in rounds] == [2, 2, 2, 2, 3, 3]
    assert [e.get("left_out", []) for e in rounds] == [[], *[["node-2"]] * 3, [], []]
    assert rounds[0]["failed"][0]["reason"] == (
        "error 'malformed: too large: 1000 entries, at most 64'"
    )
    assert [number for kind, number in asked if kind == records.TRAIN] == [1, 5, 6]


@pytest.mark.parametrize("code", [0, 1, 3, 204, -5])
def test_flowers_errors_and_unreadable_replies(folder: Path, initial: Params, code: int) -> None:
    def answer(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == records.DESCRIBE:
            return app(message, context)
        return Message(Error(code, "u17 bought i3"), reply_to=message)

    result, _ = _run(folder, initial, 1, answer)
    [[failure]] = _rejections(result)
    assert failure["node"] == "node-2"
    assert "u17" not in failure["reason"]


def test_what_cannot_be_unpacked_is_attributed() -> None:
    from lumos_core.wire.messages import Instruction
    from server_app.grid_transport import to_reply

    reply = to_reply(Instruction("node-2", "train", 1), Unreadable(), 3)
    assert (reply.node, reply.error) == ("node-2", "malformed: cannot be unpacked")


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_other_codecs_refuse_plain_deltas(folder: Path, codec: str) -> None:
    """A reply in another codec than the agreed one is as malformed as any."""
    from lumos_core.errors import ReplyError
    from lumos_core.wire.reply_checks import check_train

    config = RunConfig(delta_codec=codec, dim=8)
    like = {"items.weight": np.zeros((4, 8), np.float32)}
    _, metrics = _good(records.Order(like, 1, None, ""), 1)
    with pytest.raises(ReplyError):
        check_train(like, metrics, like, config, evaluated=False)
