"""Rounds that close before everybody has answered."""

import logging
from collections.abc import Callable
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
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation import membership
from lumos_core.federation.round_loop import run_federation
from lumos_core.federation.simulate import simulate
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import Event
from lumos_core.runs.status import status_of
from lumos_core.wire.messages import Instruction, Reply

Tiny = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        quick = {"dim": 4, "round_timeout": 60.0, "start_timeout": 1.0, "max_failed_rounds": 0}
        return tiny(**{**quick, **changes})

    return make


def test_a_slow_node_costs_the_others_nothing(config: Tiny) -> None:
    """Without it a round takes as long as the slow node; with it, as long as the others."""
    waiting, all_in = run_at_speeds(config(rounds=12))
    closing, quick = run_at_speeds(config(rounds=12, close_at=0.8))
    assert all_in.clock == pytest.approx(12 * 10.0, abs=10.0)
    assert quick.clock == pytest.approx(12.0)
    assert waiting.outcome == closing.outcome == "completed"
    assert all(len(e["ok"]) == 6 for e in rounds_of(waiting))
    assert not any("late" in e or "busy" in e for e in rounds_of(waiting))


def test_the_states_of_a_slow_node_round_by_round(config: Tiny) -> None:
    """Late, then busy until its answer has come, then asked again: it is late in rounds 1 and 11,
    as its answer comes after ten rounds of the others."""
    result, _ = run_at_speeds(config(rounds=13, close_at=0.8))
    late = [e["round"] for e in rounds_of(result) if "fay" in e.get("late", [])]
    busy = [e["round"] for e in rounds_of(result) if e.get("busy") == ["fay"]]
    assert late == [1, 11]
    assert busy == [*range(2, 11), 12, 13]
    for event in rounds_of(result):
        asked = {*event["ok"], *event.get("late", []), *event.get("busy", [])}
        assert asked == set(NAMES)
        assert event["failed"] == []
        assert "fay" not in event["ok"]


def test_late_replies_are_never_part_of_the_model(config: Tiny, tmp_path: Path) -> None:
    """What a round used is what the history names, to the last bit."""
    cfg = config(rounds=12, close_at=0.8, server_optimizer="adam")
    result, _ = run_at_speeds(cfg, run_dir=tmp_path)
    assert same(replayed(cfg, rounds_of(result)), load_checkpoint(tmp_path / LATEST).params)


def test_resumed_it_continues_from_what_the_history_names(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=9, close_at=0.8)

    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if event["event"] == "round" and event["round"] == 5:
            raise Killed  # after its line, before its checkpoint

    with pytest.raises(Killed):
        run_at_speeds(cfg, run_dir=tmp_path, on_event=die)
    result, _ = run_at_speeds(cfg, run_dir=tmp_path, resume=True)
    assert [e["round"] for e in rounds_of(result)] == list(range(1, 10))
    assert same(replayed(cfg, rounds_of(result)), load_checkpoint(tmp_path / LATEST).params)


def test_a_run_may_begin_to_close_early_when_it_is_resumed(config: Tiny, tmp_path: Path) -> None:
    run_at_speeds(config(rounds=2), run_dir=tmp_path)
    result, _ = run_at_speeds(config(rounds=4, close_at=0.8), run_dir=tmp_path, resume=True)
    assert [len(e["ok"]) for e in rounds_of(result)] == [6, 6, 5, 5]


def test_over_selection_takes_the_first_of_more(config: Tiny) -> None:
    result, transport = run_at_speeds(config(rounds=8, fraction=0.5, over_select=0.34))
    for event in rounds_of(result):
        assert len(event["ok"]) == 3
        assert len(event["ok"]) + len(event.get("late", [])) == 5 or event.get("busy")
        assert "fay" not in event["ok"]
    assert transport.clock == pytest.approx(8.0)


def test_invalid_replies_do_not_close_a_round(config: Tiny) -> None:
    """Enough means enough valid ones: the slow node is waited for when others answer nonsense."""
    cfg = config(rounds=1, close_at=5, aggregation="mean")
    nodes = six_nodes(cfg)
    nodes.distort = lambda asked, reply: (
        [replace(reply, error="out-of-memory")]
        if asked.kind == "train" and asked.node == "ann"
        else [reply]
    )
    result = run_federation(cfg, SimulatedSpeeds(nodes, SLOW), CATALOG, start())
    (event,) = rounds_of(result)
    assert "fay" in event["ok"]
    assert [f["node"] for f in event["failed"]] == ["ann"]


def test_what_late_replies_hold_is_not_logged(
    config: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(rounds=13, close_at=0.8)
    nodes = six_nodes(cfg)

    def spoil(asked: Instruction, reply: Reply) -> list[Reply]:
        if (asked.node, asked.kind) == ("fay", "train"):
            return [replace(reply, metrics={"secret-item-4711": 1}, error="secret-item-4711")]
        return [reply]

    nodes.distort = spoil
    with caplog.at_level(logging.DEBUG):
        result = run_federation(cfg, SimulatedSpeeds(nodes, SLOW), CATALOG, start())
    assert [e["round"] for e in rounds_of(result) if "fay" in e.get("late", [])] == [1, 11]
    assert "4711" not in caplog.text
    assert "4711" not in str(result.events)


def test_the_bytes_of_late_replies_are_counted(config: Tiny) -> None:
    result, _ = run_at_speeds(config(rounds=13, close_at=0.8))
    up = [e["bytes_up"] for e in rounds_of(result)]
    assert up[0] == 5 * 7
    assert sum(up) == 13 * 5 * 7 + 7, "the answer to round 1"


@pytest.mark.parametrize("dp", ["central", "user"])
def test_the_cost_of_late_nodes_in_privacy(config: Tiny, dp: str) -> None:
    """With noise of its own a node pays when it is asked, once. With the server's noise only a
    released model costs anything."""
    cfg = config(rounds=12, close_at=0.8, dp=dp, weighting="uniform", item_rows="all")
    result, _ = run_at_speeds(cfg)
    paid = [e["round"] for e in rounds_of(result) if "fay" in e["privacy"]["nodes"]]
    assert paid == ([] if dp == "central" else [1, 11])
    assert [len(set(e["privacy"]["nodes"]) - {"fay"}) for e in rounds_of(result)] == [5] * 12


def test_evaluations_of_late_nodes_are_not_waited_for_either(config: Tiny) -> None:
    """The slow node does not train in every round, but is asked to evaluate in the others."""
    result, transport = run_at_speeds(config(rounds=6, fraction=0.5, close_at=0.6))
    assert transport.clock <= 8.0
    nodes = [len(e["nodes"]) for e in result.events if e["event"] == "evaluation"]
    assert min(nodes) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"close_at": 2.5}, "close-at = 2.5: expected a share up to 1, or a whole number"),
        ({"close_at": 2, "min_replies": 3, "min_nodes": 3}, "close-at = 2 is below min-replies"),
        ({"over_select": 0.5}, "over-select = 0.5 with fraction = 1"),
        (
            {"close_at": 0.8, "secure_aggregation": True, "min_replies": 3, "min_nodes": 3},
            "secure-aggregation = true needs close-at = 1",
        ),
        (
            {"over_select": 0.5, "fraction": 0.5, "secure_aggregation": True, "min_replies": 3,
             "min_nodes": 3},
            "secure-aggregation = true needs close-at = 1 and over-select = 0",
        ),
    ],
)  # fmt: skip
def test_combinations_that_make_no_sense(
    config: Tiny, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_simulated_shops_have_speeds(tiny: Tiny, toy_catalog: Any, toy_users: Any) -> None:
    cfg = tiny(rounds=3, close_at=2, round_timeout=60.0)
    shops = {name: toy_users(5, seed) for seed, name in enumerate(("a", "b", "c"))}
    result = simulate(cfg, toy_catalog, shops, seconds={"b": 10.0})
    assert [e["ok"] for e in rounds_of(result)] == [["a", "c"]] * 3
    assert all(np.isfinite(array).all() for array in result.params.values())
    for wrong in ({"close_at": 0.5}, {"over_select": 0.5, "fraction": 0.5}):
        with pytest.raises(ConfigError, match="one user each train together"):
            simulate(tiny(**wrong), toy_catalog, shops, clients="users")
    with pytest.raises(ConfigError, match="none has its own speed"):
        simulate(tiny(), toy_catalog, shops, clients="users", seconds={"b": 2.0})


def test_the_status_counts_the_rounds_without_a_node(config: Tiny, tmp_path: Path) -> None:
    run_at_speeds(config(rounds=13, close_at=0.8), run_dir=tmp_path)
    found = {node.name: node for node in status_of(tmp_path).nodes}
    assert {name: node.late for name, node in found.items()} == {
        **dict.fromkeys(NAMES, 0), "fay": 13,
    }  # fmt: skip
    assert all(node.failures == 0 for node in found.values())
    shown = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert " late " in shown.output
    run_at_speeds(config(rounds=1), run_dir=tmp_path / "usual")
    assert " late " not in CliRunner().invoke(app, ["status", str(tmp_path / "usual")]).output
