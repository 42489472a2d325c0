"""Production runs: everything is trained on, and nobody evaluates (``evaluation = none``)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, only, start
from flower_in_process import node_context, tiny_config, write_nodes
from typer.testing import CliRunner

from lumos_core import Catalog, RunConfig, simulate
from lumos_core.cli.app import app
from lumos_core.data import Sequences
from lumos_core.data.splits import AllTrain, LeaveOneOut, least_history, split_of
from lumos_core.errors import ConfigError, DataError
from lumos_core.federation import membership
from lumos_core.federation.node import Node
from lumos_core.federation.one_user_clients import check_one_user_clients
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.recommend.model_files import read_model
from lumos_core.runs.checkpoint import BEST, LATEST, load_checkpoint
from lumos_core.runs.history import Event
from lumos_core.wire.messages import Instruction, Reply

Tiny = Callable[..., RunConfig]
NAMES = ("ann", "bob", "cy")
SHORT = Sequences.from_lists([[1, 2, 3, 4], [5, 6], [7]])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        quick = {"dim": 4, "start_timeout": 1.0, "max_failed_rounds": 0, "evaluation": "none"}
        return tiny(**{**quick, **changes})

    return make


def _run(
    config: RunConfig, run_dir: Path, **options: Any
) -> tuple[FederationResult, FakeTransport]:
    transport = FakeTransport([FakeNode(name, config) for name in NAMES])
    result = run_federation(config, transport, CATALOG, start(), run_dir=run_dir, **options)
    return result, transport


def _without_result(transport: FakeTransport) -> list[Instruction]:
    """All instructions but the last to each node, which brings the result."""
    return transport.asked[: -len(NAMES)]


def _same(a: Params, b: Params) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


# ---------------------------------------------------------------- the split
def test_everything_trains() -> None:
    split = split_of(RunConfig(evaluation="none", title_weight=0.0), SHORT)
    assert isinstance(split, AllTrain)
    assert [h.tolist() for h in split.train()] == [[1, 2, 3, 4], [5, 6], [7]]
    for targets in (split.validation, split.test):
        with pytest.raises(DataError, match="evaluation = none"):
            targets()
    assert least_history("none") == 1


def test_by_default_two_items_are_held_out() -> None:
    assert least_history("leave-one-out") == 3
    assert isinstance(split_of(RunConfig(), SHORT.subset([0])), LeaveOneOut)
    with pytest.raises(DataError, match="expected at least 3"):
        split_of(RunConfig(), SHORT)


# ---------------------------------------------------------------- a node
def test_users_with_one_or_two_items_train_as_far_as_they_can(
    tiny: Tiny, toy_catalog: Catalog
) -> None:
    cfg = tiny(evaluation="none", dropout=0.0)
    params = initial_params(cfg, toy_catalog)
    _, metrics = Node("a", toy_catalog, SHORT, cfg).train(params, 1)
    assert metrics["users"] == 3
    assert metrics["examples"] == 3 + 1, "an item that follows another is an example"
    alone, metrics = Node("a", toy_catalog, SHORT.subset([2]), cfg).train(params, 1)
    assert (metrics["users"], metrics["examples"]) == (1, 0)
    assert all(np.isfinite(array).all() for array in alone.values())


def test_the_last_items_are_trained_on(tiny: Tiny, toy_catalog: Catalog) -> None:
    """A history whose last two items are others gives another delta, and only then."""
    params = initial_params(tiny(), toy_catalog)
    one, other = Sequences.from_lists([[1, 2, 3, 4]]), Sequences.from_lists([[1, 2, 8, 9]])
    for evaluation, differ in (("none", True), ("leave-one-out", False)):
        cfg = tiny(evaluation=evaluation, dropout=0.0)
        deltas = [Node("a", toy_catalog, h, cfg).train(params, 1)[0] for h in (one, other)]
        assert _same(*deltas) is not differ


def test_a_deployed_node_has_its_short_users(tmp_path: Path) -> None:
    from client_app.open_node import open_node
    from lumos_core.config import NodeConfig

    folder = write_nodes(tmp_path, nodes=1)
    with (folder / "node-0" / "interactions.tsv").open("a") as file:
        file.write("new\ti1\t1\n")
    for evaluation, users in (("leave-one-out", 6), ("none", 7), ("leave-one-out", 6)):
        cfg = tiny_config(folder, evaluation=evaluation)
        settings = NodeConfig.from_flat(dict(node_context(cfg, 0).node_config))
        opened = open_node(cfg, settings)
        assert int(opened.describe()["users"]) == users


# ---------------------------------------------------------------- a run
def test_the_last_model_is_the_result(config: Tiny, tmp_path: Path) -> None:
    result, transport = _run(config(rounds=4), tmp_path)
    assert (result.outcome, result.reason, result.best_round) == ("completed", "", 4)
    assert result.validation == result.test == {}
    assert not [e for e in result.events if e["event"] == "evaluation"]
    assert all(i.kind != "evaluate" and not i.evaluate for i in _without_result(transport))
    latest, best = load_checkpoint(tmp_path / LATEST), load_checkpoint(tmp_path / BEST)
    assert latest.progress.round == best.progress.best_round == 4
    assert _same(latest.params, best.params)
    assert _same(latest.params, result.params)


def test_all_nodes_get_the_result_in_the_end(config: Tiny, tmp_path: Path) -> None:
    """Also those that are not asked to train in the last round."""
    cfg = config(rounds=3, fraction=0.5, method="fedavg-plus", title_weight=0.4)
    result, transport = _run(cfg, tmp_path)
    last = transport.asked[-len(NAMES) :]
    assert [(i.node, i.kind, i.round, i.evaluate) for i in last] == [
        (name, "evaluate", 3, "test") for name in NAMES
    ]
    assert {i.title_weight for i in last} == {0.4}
    assert all(i.params is not None and _same(i.params, result.params) for i in last)


@pytest.mark.parametrize("answer", [[], [Reply("bob", "evaluate", error="data-failed")]])
def test_a_node_that_does_not_get_it_does_not_fail_the_run(
    config: Tiny, answer: list[Reply], caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one of an earlier 0.2, which evaluates or fails."""
    cfg = config(rounds=1)
    transport = FakeTransport(
        [FakeNode(name, cfg) for name in NAMES], only("bob", "evaluate", lambda reply: answer)
    )
    result = run_federation(cfg, transport, CATALOG, start())
    assert result.outcome == "completed"
    warned = [r.getMessage() for r in caplog.records if "result" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("node bob: ")


def test_it_is_that_of_a_run_that_evaluates(config: Tiny, tmp_path: Path) -> None:
    """Evaluations change nothing but the choice of the round."""
    _run(config(rounds=4), tmp_path / "a")
    _run(config(rounds=4, evaluation="leave-one-out"), tmp_path / "b")
    a, b = (load_checkpoint(tmp_path / name / LATEST) for name in "ab")
    assert _same(a.params, b.params)


@pytest.mark.parametrize("killed_in", [1, 3])
def test_a_server_that_dies_leaves_the_newest_model(
    config: Tiny, tmp_path: Path, killed_in: int
) -> None:
    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if event["event"] == "round" and event["round"] == killed_in + 1:
            raise Killed

    with pytest.raises(Killed):
        _run(config(rounds=5), tmp_path / "a", on_event=die)
    best = load_checkpoint(tmp_path / "a" / BEST)
    assert _same(best.params, load_checkpoint(tmp_path / "a" / LATEST).params)
    assert best.progress.round == best.progress.best_round == killed_in
    resumed, _ = _run(config(rounds=5), tmp_path / "a", resume=True)
    expected, _ = _run(config(rounds=5), tmp_path / "b")
    assert _same(resumed.params, expected.params)
    longer, _ = _run(config(rounds=7), tmp_path / "a", resume=True)
    assert longer.best_round == 7


def test_the_newest_model_is_in_use_from_the_first_round_on(
    tiny: Tiny, toy_catalog: Catalog, tmp_path: Path
) -> None:
    """Also while a resumed run has not finished another round."""
    config = tiny(rounds=3, evaluation="none", round_timeout=60.0)
    found: list[int] = []

    def look(event: Event) -> None:
        if event["event"] == "round" and event["round"] > 1:
            found.append(read_model(tmp_path / BEST)[1].round)

    options: dict[str, Any] = {"run_dir": tmp_path, "on_event": look, "resume": True}
    simulate(config, toy_catalog, {"a": SHORT, "b": SHORT}, **options)
    assert found == [1, 2]
    simulate(config.replace(rounds=4), toy_catalog, {"a": SHORT, "b": SHORT}, **options)
    assert found == [1, 2, 3]


def test_it_goes_together_with_late_replies(config: Tiny, tmp_path: Path) -> None:
    result, transport = _run(config(rounds=4, mode="async", min_replies=2), tmp_path)
    assert result.best_round == 4
    assert all(i.kind != "evaluate" and not i.evaluate for i in _without_result(transport))


# ---------------------------------------------------------------- what makes no sense
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 2}, "evaluation = none with patience = 2: .*; choose patience = 0"),
        ({"method": "lumos", "views": "tfidf"}, "with title-weight = -1: it is chosen on"),
        ({"evaluation": "some"}, "key 'evaluation'"),
    ],
)  # fmt: skip
def test_refused_by_name(config: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_a_given_title_weight_is_enough(config: Tiny) -> None:
    assert config(method="lumos", views="tfidf", title_weight=0.2).title_weights == (0.2,)


def test_one_user_clients_are_refused(config: Tiny) -> None:
    with pytest.raises(ConfigError, match="evaluation = none is for nodes that serve"):
        check_one_user_clients(config())


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "{data}", "--out", "{out}"],
        ["attack", "{data}", "--out", "{out}"],
        ["audit", "{data}", "--out", "{out}"],
        ["train-central", "{data}", "--out", "{out}"],
    ],
)
def test_commands_that_measure_refuse_it(tmp_path: Path, words: list[str]) -> None:
    data, out = write_nodes(tmp_path / "data"), tmp_path / "out"
    (data / "dataset.json").write_text(json.dumps({"name": "d", "nodes": 2}))
    words = [word.format(data=data, out=out) for word in words]
    settings = ["-c", "evaluation=none", "-c", "title-weight=0.2"]
    found = CliRunner().invoke(app, [*words, *settings])
    assert "this command measures models" in str(found.exception)
    assert not out.exists()


def test_a_series_refuses_it(tmp_path: Path) -> None:
    words = ["deploy", "server", str(tmp_path), "--catalog", str(tmp_path / "catalog.tsv")]
    found = CliRunner().invoke(app, [*words, "--every", "1d", "-c", "evaluation=none"])
    assert "only if it is better on the validation targets" in str(found.exception)


# ---------------------------------------------------------------- what is shown
def test_the_command_says_that_nothing_was_measured(tmp_path: Path) -> None:
    data, run = write_nodes(tmp_path / "data"), tmp_path / "run"
    (data / "dataset.json").write_text(json.dumps({"name": "d", "nodes": 2}))
    words = [
        "simulate", "--engine", "in-process", "--run-dir", str(run), "--data", str(data),
        "--method", "fedavg", "-c", "semantic-start=none", "-c", "dim=8", "--rounds", "2",
        "-c", "evaluation=none",
    ]  # fmt: skip
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "evaluation = none holds nothing out" in found.output
    report = (run / "report.md").read_text()
    assert "the last model is the result" in report
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["outcome"], summary["best_round"], summary["test"]) == ("completed", 2, {})
    shown = CliRunner().invoke(app, ["status", str(run)])
    assert shown.exit_code == 0, shown.output
    assert "completed" in shown.output


def test_simulated_shops_with_short_histories(tiny: Tiny, toy_catalog: Catalog) -> None:
    cfg = tiny(rounds=2, evaluation="none", round_timeout=60.0)
    result = simulate(cfg, toy_catalog, {"a": SHORT, "b": SHORT})
    assert (result.outcome, result.best_round, result.test) == ("completed", 2, {})
