"""A federation in this process, as a function and as a command."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flower_in_process import write_nodes
from typer.testing import CliRunner

from lumos_core import Catalog, RunConfig, simulate
from lumos_core.cli.app import app
from lumos_core.data import Sequences
from lumos_core.errors import ConfigError, DataError, FederationError
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.open_questions import OpenQuestions
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import LATEST, load_checkpoint

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


def test_it_is_the_round_loop_over_nodes(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    config = tiny(rounds=3)
    shops = {"a": toy_users(6, 0), "b": toy_users(5, 1)}
    found = simulate(config, toy_catalog, shops)
    nodes = [Node(name, toy_catalog, users, config) for name, users in shops.items()]
    expected = run_federation(
        config, InProcessTransport(nodes), toy_catalog.fingerprint,
        initial_params(config, toy_catalog),
    )  # fmt: skip
    assert found.test == expected.test
    for name, array in expected.params.items():
        np.testing.assert_array_equal(found.params[name], array)


def test_fewer_nodes_than_the_defaults_ask_for(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    assert simulate(tiny(rounds=1), toy_catalog, [toy_users(6)]).outcome == "completed"
    with pytest.raises(ConfigError, match="at least one node"):
        simulate(tiny(), toy_catalog, [])
    with pytest.raises(DataError, match="node 'b': has no users"):
        simulate(tiny(), toy_catalog, {"a": toy_users(6), "b": Sequences.from_lists([], [])})


def test_nobody_is_waited_for_who_cannot_come(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    began = time.monotonic()
    with pytest.raises(FederationError, match=r"or change nodes = 'north'"):
        simulate(tiny(nodes="north", start_timeout=600.0), toy_catalog, [toy_users(6)] * 2)
    assert time.monotonic() - began < 60


def test_views_are_written_once_for_all_runs_of_a_state_folder(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config = tiny(method="lumos", views="tfidf", rounds=1)
    events: list[dict[str, object]] = []
    simulate(config, toy_catalog, [toy_users(6)], state=tmp_path, on_event=events.append)
    assert any(event["event"] == "views-ready" for event in events)
    before = (tmp_path / "node-0" / "views.sqlite").stat().st_mtime_ns
    simulate(config, toy_catalog, [toy_users(6)], state=tmp_path)
    assert (tmp_path / "node-0" / "views.sqlite").stat().st_mtime_ns == before


def test_each_user_can_be_a_client(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config = tiny(method="lumos", views="tfidf", rounds=2, fraction=0.5, min_nodes=2)
    shops = {"b": toy_users(5, 1), "a": toy_users(6, 0)}
    found = simulate(config, toy_catalog, shops, clients="users", state=tmp_path)
    assert found.outcome == "completed"
    trained = [event for event in found.events if event["event"] == "round"]
    assert [len(event["ok"]) for event in trained] == [6, 6], "half of eleven clients, rounded up"
    assert [path.name for path in tmp_path.rglob("views.sqlite")] == ["views.sqlite"]
    assert not any(event["event"] == "views" for event in found.events)
    again = simulate(config, toy_catalog, [*shops.values()], clients="users", state=tmp_path)
    for name, array in again.params.items():
        np.testing.assert_array_equal(found.params[name], array)
    with pytest.raises(ConfigError, match="method = confedsrs"):
        simulate(tiny(method="confedsrs"), toy_catalog, shops, clients="users")


def test_a_round_looks_for_open_questions_as_often_whatever_the_number_of_clients(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    busy = OpenQuestions.busy

    def counted(self: OpenQuestions) -> set[str]:
        looks[-1] += 1
        return busy(self)

    monkeypatch.setattr(OpenQuestions, "busy", counted)
    for users in (6, 24):
        looks.append(0)
        simulate(tiny(rounds=2), toy_catalog, [toy_users(users)], clients="users")
    assert looks[0] == looks[1] > 0, "a look for each client makes rounds quadratic"


FEEDBACK = {"delta_codec": "top-rows", "top_rows_share": 0.2, "error_feedback": True}


def test_with_error_feedback_a_run_is_resumed_to_the_bit(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config, shops = tiny(rounds=4, **FEEDBACK), [toy_users(8), toy_users(8, 1)]
    straight = simulate(config, toy_catalog, shops)
    there = {"run_dir": tmp_path / "run", "state": tmp_path / "state"}
    simulate(config.replace(rounds=2), toy_catalog, shops, **there)
    resumed = simulate(config, toy_catalog, shops, resume=True, **there)
    for name, array in straight.params.items():
        np.testing.assert_array_equal(resumed.params[name], array)


def test_what_nodes_owe_must_outlive_a_run_that_is_to_be_resumed(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config, shops = tiny(rounds=1, **FEEDBACK), [toy_users(8)]
    there = {"run_dir": tmp_path / "run", "resume": True}
    for refused, message in (
        ({}, "error-feedback = true and delta-codec = top-rows: .*; give its folder as `state`"),
        ({"state": tmp_path / "state", "clients": "users"}, "one user each keep .* in memory"),
    ):
        with pytest.raises(ConfigError, match=message):
            simulate(config, toy_catalog, shops, **refused, **there)
    assert not (tmp_path / "run").exists()
    for lossless in ({"delta_codec": "float32"}, {"error_feedback": False}):
        simulate(config.replace(**lossless), toy_catalog, shops, resume=True)


def test_threads_are_as_they_were(tiny: Tiny, toy_catalog: Catalog, toy_users: Users) -> None:
    torch.set_num_threads(2)
    try:
        simulate(tiny(rounds=1), toy_catalog, [toy_users(6)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_command_leaves_a_run_folder_that_can_be_resumed(tmp_path: Path) -> None:
    data = write_nodes(tmp_path / "data")
    (data / "dataset.json").write_text(
        json.dumps({"name": "d", "nodes": 2, "seed": 0, "partition": "uniform"})
    )
    run = tmp_path / "run"
    words = [
        "simulate", "--engine", "in-process", "--run-dir", str(run), "--no-baselines",
        "--method", "fedavg", "-c", "semantic-start=none", "-c", "dim=8",
    ]  # fmt: skip
    first = CliRunner().invoke(app, [*words, "--data", str(data), "--rounds", "1"])
    assert first.exit_code == 0, first.output
    assert "federated fedavg" in first.output
    again = CliRunner().invoke(app, [*words, "--data", str(data), "--rounds", "1"])
    assert again.exit_code != 0
    assert "already holds a run" in str(again.exception)
    more = CliRunner().invoke(app, [*words, "--resume", "--rounds", "2"])
    assert more.exit_code == 0, more.output
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
    shown = CliRunner().invoke(app, ["status", str(run)])
    assert "completed" in shown.output


def test_the_command_keeps_what_nodes_owe_in_the_run_folder(tmp_path: Path) -> None:
    data = write_nodes(tmp_path / "data")
    (data / "dataset.json").write_text(
        json.dumps({"name": "d", "nodes": 2, "seed": 0, "partition": "uniform"})
    )

    def run(name: str, *more: str) -> Any:
        settings = [
            "--method", "fedavg", "-c", "semantic-start=none", "-c", "dim=8",
            "-c", "delta-codec=top-rows", "-c", "error-feedback=true", "--data", str(data),
        ]  # fmt: skip
        words = ["simulate", "--engine", "in-process", "--no-baselines", *more]
        return CliRunner().invoke(app, [*words, "--run-dir", str(tmp_path / name), *settings])

    for name, *more in (
        ("a", "--rounds", "4"), ("b", "--rounds", "2"), ("b", "--resume", "--rounds", "4"),
        ("users", "--clients", "users", "--rounds", "1"),
    ):  # fmt: skip
        found = run(name, *more)
        assert found.exit_code == 0, (found.output, found.exception)
    straight, resumed = (load_checkpoint(tmp_path / name / LATEST).params for name in "ab")
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array)
    before = (tmp_path / "users" / "summary.json").read_bytes()
    refused = run("users", "--clients", "users", "--resume", "--rounds", "2")
    assert "one user each keep" in str(refused.exception)
    assert (tmp_path / "users" / "summary.json").read_bytes() == before


def test_the_command_takes_each_user_for_a_client(tmp_path: Path) -> None:
    data = write_nodes(tmp_path / "data")
    (data / "dataset.json").write_text(
        json.dumps({"name": "d", "nodes": 2, "seed": 0, "partition": "uniform"})
    )
    run = tmp_path / "run"
    here = ["--engine", "in-process", "--run-dir", str(run), "--no-baselines"]
    users = ["simulate", "--clients", "users"]
    settings = [
        "--data", str(data), "--method", "lumos", "-c", "views=tfidf", "-c", "semantic-start=none",
        "-c", "dim=8", "-c", "fraction=0.3", "--rounds", "1",
    ]  # fmt: skip
    virtual = CliRunner().invoke(app, [*users, *settings, "--run-dir", str(run)])
    assert "--engine in-process" in str(virtual.exception)
    unable = CliRunner().invoke(app, [*users, *here, *settings, "-c", "dp=user"])
    assert "dp = user" in str(unable.exception)
    assert not run.exists()
    first = CliRunner().invoke(app, [*users, *here, *settings])
    assert first.exit_code == 0, first.output
    assert "one user a client" in first.output
    assert "0 reused" in first.output
    assert "missing" not in first.output
    other = CliRunner().invoke(app, ["simulate", *here, "--resume", "--rounds", "2"])
    assert "--clients users, found --clients nodes" in str(other.exception)
    more = CliRunner().invoke(app, [*users, *here, "--resume", "--rounds", "2"])
    assert more.exit_code == 0, more.output
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
