"""Rounds that use late replies to earlier models (``mode = async``)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import (
    CATALOG,
    NAMES,
    SLOW,
    replayed,
    rounds_of,
    run_at_speeds,
    same,
    six_nodes,
    start,
)

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation import membership
from lumos_core.federation.aggregator import faded
from lumos_core.federation.closing import Standing
from lumos_core.federation.one_user_clients import check_one_user_clients
from lumos_core.federation.round_loop import run_federation
from lumos_core.federation.simulate import simulate
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.wire.messages import Instruction, Reply

Tiny = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        quick = {
            "dim": 4, "round_timeout": 60.0, "start_timeout": 1.0, "max_failed_rounds": 0,
            "mode": "async",
        }  # fmt: skip
        return tiny(**{**quick, **changes})

    return make


def test_a_slow_node_costs_nothing_and_contributes(config: Tiny) -> None:
    """Six nodes, five of which answer every second, and rounds of five replies: a round a second.
    The sixth answers every ten and counts then."""
    result, transport = run_at_speeds(config(rounds=22, buffer_size=5))
    assert result.outcome == "completed"
    assert transport.clock <= 22.0 + 10.0, "the last ten for the evaluation at the end"
    with_slow = [e["round"] for e in rounds_of(result) if "fay" in e["ok"]]
    assert 2 <= len(with_slow) <= 3
    assert all(e["staleness"]["fay"] >= 8 for e in rounds_of(result) if "fay" in e["ok"])
    assert all(len(e["ok"]) == 5 for e in rounds_of(result))


def test_what_a_round_used_is_what_the_history_names(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=20, buffer_size=3, server_optimizer="adam")
    result, _ = run_at_speeds(cfg, {"ann": 0.3, "bob": 2.2, "fay": 7.0}, run_dir=tmp_path)
    assert any(e.get("staleness") for e in rounds_of(result))
    assert same(replayed(cfg, rounds_of(result)), load_checkpoint(tmp_path / LATEST).params)


def test_resumed_it_continues_from_what_the_history_names(config: Tiny, tmp_path: Path) -> None:
    """What nodes were at work on is lost; the model is not."""
    cfg = config(rounds=4, buffer_size=3)
    run_at_speeds(cfg, run_dir=tmp_path)
    result, _ = run_at_speeds(cfg.replace(rounds=9), run_dir=tmp_path, resume=True)
    first, *_ = [e for e in rounds_of(result) if e["round"] == 5]
    assert "staleness" not in first
    assert [e["round"] for e in rounds_of(result)] == list(range(1, 10))
    assert same(replayed(cfg, rounds_of(result)), load_checkpoint(tmp_path / LATEST).params)


def test_equal_nodes_all_get_their_turn(config: Tiny) -> None:
    result, _ = run_at_speeds(config(rounds=12, buffer_size=3), {})
    turns = [sum(name in e["ok"] for e in rounds_of(result)) for name in NAMES]
    assert sum(turns) == 36
    assert min(turns) >= 5


def test_no_more_nodes_are_at_work_than_fraction_says(config: Tiny) -> None:
    cfg = config(rounds=10, buffer_size=3, fraction=0.5)
    at_once = [len(e["ok"]) + len(e.get("working", [])) for e in rounds_of(run_at_speeds(cfg)[0])]
    assert max(at_once) <= 3 + 1, "three, and a reply that came while the round closed"


def test_a_stale_reply_is_refused_by_name(config: Tiny) -> None:
    result, _ = run_at_speeds(config(rounds=14, buffer_size=5, max_staleness=4))
    assert not any("fay" in e["ok"] for e in rounds_of(result))
    reasons = [f["reason"] for e in rounds_of(result) for f in e["failed"] if f["node"] == "fay"]
    assert reasons
    assert all(
        r.startswith("it trained a model that is") and r.endswith("max-staleness = 4")
        for r in reasons
    )


@pytest.mark.parametrize("staleness", [0, 1, 3, 8])
def test_a_delta_fades_with_its_age(staleness: int) -> None:
    delta = start()
    found = faded(delta, staleness)
    for name, array in delta.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array / math.sqrt(1 + staleness), rtol=1e-6)


def test_invalid_replies_do_not_fill_the_buffer(config: Tiny) -> None:
    cfg = config(rounds=6, buffer_size=3)
    nodes = six_nodes(cfg)
    nodes.distort = lambda asked, reply: (
        [replace(reply, error="out-of-memory")]
        if (asked.node, asked.kind) == ("ann", "train")
        else [reply]
    )
    result = run_federation(cfg, SimulatedSpeeds(nodes, SLOW), CATALOG, start())
    assert all(len(e["ok"]) == 3 and "ann" not in e["ok"] for e in rounds_of(result))
    assert any(f["node"] == "ann" for e in rounds_of(result) for f in e["failed"])


def test_silent_nodes_are_named_at_their_deadline(config: Tiny) -> None:
    cfg = config(rounds=2, buffer_size=3, round_timeout=0.2)
    nodes = six_nodes(cfg)

    def silent(asked: Instruction, reply: Reply) -> Sequence[Reply]:
        return [] if asked.kind == "train" and asked.node > "bob" else [reply]

    nodes.distort = silent
    result = run_federation(cfg, nodes, CATALOG, start())
    for event in rounds_of(result):
        assert event["ok"] == ["ann", "bob"], "two are min-replies"
        assert {f["node"] for f in event["failed"]} == {"cy", "dee", "eve", "fay"}


@pytest.mark.parametrize("dp", ["central", "user"])
def test_every_training_is_paid_for_once(config: Tiny, dp: str) -> None:
    """With noise of its own when a node is asked, with the server's when its reply is released."""
    rule = {"aggregation": "mean", "clip": "none"} if dp == "central" else {}
    cfg = config(rounds=22, buffer_size=5, dp=dp, weighting="uniform", item_rows="all", **rule)
    transport = six_nodes(cfg)
    result = run_federation(cfg, SimulatedSpeeds(transport, SLOW), CATALOG, start())
    paid = [(n, e["round"]) for e in rounds_of(result) for n in e["privacy"]["nodes"]]
    asked = [(i.node, i.round) for i in transport.asked if i.kind == "train"]
    used = [(n, e["round"]) for e in rounds_of(result) for n in e["ok"]]
    if dp == "central":
        assert sorted(paid) == sorted(used)
    else:
        noted = [
            (n, e["round"]) for e in result.events if e["event"] == "asked" for n in e["asked"]
        ]
        assert sorted(paid) == sorted(noted)
        assert set(asked) <= set(paid), "also what is still at work"
    assert 20 <= max(sum(n == name for n, _ in paid) for name in NAMES) <= 22


def test_the_history_lists_every_standing(config: Tiny) -> None:
    """The table of what a node can be to a round, and the events that rounds have."""
    listed: set[str] = set()
    for mode in ({"mode": "sync", "close_at": 0.8}, {"mode": "async", "buffer_size": 5}):
        result, _ = run_at_speeds(config(rounds=12, **mode))
        listed |= {key for e in rounds_of(result) for key in e}
    assert {standing.listed for standing in Standing} <= listed


def test_nobody_evaluates_between_the_rounds(config: Tiny) -> None:
    cfg = config(rounds=5)
    transport = six_nodes(cfg)
    result = run_federation(cfg, SimulatedSpeeds(transport, SLOW), CATALOG, start())
    assert not [i for i in transport.asked if i.kind == "train" and i.evaluate]
    found = [(e["round"], e["split"]) for e in result.events if e["event"] == "evaluation"]
    assert found == [(0, "validation"), (5, "validation"), (result.best_round, "test")]
    assert result.best_round in (0, 5)
    last = result.params if result.best_round else start()
    assert same(result.params, last)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secure_aggregation": True, "min_replies": 3, "min_nodes": 3},
         "mode = async with secure-aggregation = true: .*; choose mode = sync"),
        ({"dp": "distributed", "weighting": "uniform"},
         "mode = async with dp = distributed: .*; choose dp = central or user"),
        ({"close_at": 0.8}, "mode = async with close-at = 0.8: .*; choose close-at = 1"),
        ({"over_select": 0.5, "fraction": 0.5}, "with over-select = 0.5: .*; choose over-select ="),
        ({"patience": 3}, "mode = async with patience = 3: .*; choose patience = 0"),
        ({"buffer_size": 3, "min_replies": 4, "min_nodes": 4},
         "with buffer-size = 3: .* min-replies = 4 fails; choose buffer-size = 4 or more"),
        ({"buffer_size": 2},
         "buffer-size = 2 and aggregation = median-encoder: .*; choose buffer-size = 3 or more"),
    ],
)  # fmt: skip
def test_combinations_that_make_no_sense(
    config: Tiny, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)
    config(**{**settings, "mode": "sync"})


def test_two_are_enough_for_a_mean(config: Tiny) -> None:
    result, _ = run_at_speeds(config(rounds=4, buffer_size=2, aggregation="mean"))
    assert [len(e["ok"]) for e in rounds_of(result)] == [2] * 4


def test_one_user_clients_are_refused(config: Tiny) -> None:
    with pytest.raises(ConfigError, match="mode = async: clients with one user each"):
        check_one_user_clients(config())


def test_simulated_shops(tiny: Tiny, toy_catalog: Any, toy_users: Any) -> None:
    cfg = tiny(rounds=8, mode="async", buffer_size=3, round_timeout=60.0)
    shops = {name: toy_users(5, seed) for seed, name in enumerate("abcd")}
    once, again = (simulate(cfg, toy_catalog, shops, seconds={"b": 6.0}) for _ in range(2))
    assert [e["ok"] for e in rounds_of(once)] == [e["ok"] for e in rounds_of(again)]
    assert same(once.params, again.params)
    assert any("b" in e.get("staleness", {}) for e in rounds_of(once))


@pytest.mark.parametrize(("buffer_size", "warned"), [(5, False), (6, True), (7, True)])
def test_a_buffer_of_all_nodes_is_warned_of(
    config: Tiny, caplog: pytest.LogCaptureFixture, buffer_size: int, warned: bool
) -> None:
    run_at_speeds(config(rounds=1, buffer_size=buffer_size))
    assert ("rounds wait for the slowest" in caplog.text) is warned
