"""A run that starts from a trained model: the same parameters, recorded, and resumed as begun."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_in_process import write_nodes
from typer.testing import CliRunner

from lumos_core import Catalog, RunConfig, simulate
from lumos_core.cli.app import app
from lumos_core.data import Sequences
from lumos_core.errors import ConfigError, ModelError
from lumos_core.federation import round_loop
from lumos_core.federation.round_loop import FederationResult
from lumos_core.federation.warm_start import (
    START_MODEL,
    Start,
    digest,
    first_params,
    with_start,
)
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.recommend.export import export_model
from lumos_core.recommend.model_files import read_model
from lumos_core.runs.checkpoint import BEST
from lumos_core.runs.history import read_history
from lumos_core.runs.report import federated_row, write_report
from lumos_core.runs.resume import run_key
from lumos_core.runs.summary import RunSummary

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


@pytest.fixture
def shops(toy_users: Users) -> dict[str, Sequences]:
    return {"a": toy_users(9, 0), "b": toy_users(8, 1)}


@pytest.fixture
def trained(tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, shops: Any) -> Path:
    """The folder of a run whose best round is its last."""
    run = tmp_path / "trained"
    result = simulate(tiny(rounds=4, local_epochs=3), toy_catalog, shops, run_dir=run)
    assert result.best_round > 0
    return run


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], array) for name, array in other.items()
    )


def evaluations(result: FederationResult) -> dict[int, dict[str, Any]]:
    """Of the validation targets, by round, without what differs between two runs."""
    found = (e for e in result.events if e["event"] == "evaluation" and e["split"] == "validation")
    return {e["round"]: {k: v for k, v in e.items() if "@" in k or k == "users"} for e in found}


def test_round_0_is_the_model_that_was_trained(
    tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path
) -> None:
    cold = simulate(tiny(rounds=1), toy_catalog, shops)
    warm = simulate(tiny(rounds=1), toy_catalog, shops, start=trained)
    best, card = read_model(trained / BEST)
    began = evaluations(simulate(tiny(rounds=4, local_epochs=3), toy_catalog, shops))[card.round]
    assert evaluations(warm)[0] == began
    assert evaluations(cold)[0] != began
    [event] = [e for e in warm.events if e["event"] == "warm-start"]
    assert (event["from"], event["of_round"]) == (str(trained), card.round)
    assert event["model"] == digest(best)
    assert not any(e["event"] == "warm-start" for e in cold.events)


def test_it_needs_fewer_rounds(tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path) -> None:
    """After a round it is at least where the run before had got to; a cold start is not."""
    goal = max(e["ndcg@20"] for e in evaluations(_again(tiny, toy_catalog, shops)).values())
    warm = simulate(tiny(rounds=1), toy_catalog, shops, start=trained)
    cold = simulate(tiny(rounds=1), toy_catalog, shops)
    assert warm.validation["ndcg@20"] >= goal > cold.validation["ndcg@20"]


def _again(tiny: Tiny, catalog: Catalog, shops: Any) -> FederationResult:
    return simulate(tiny(rounds=4, local_epochs=3), catalog, shops)


def test_wherever_the_model_is_it_is_the_same_start(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, trained: Path
) -> None:
    export_model(trained, tmp_path / "exported")
    places = (trained, trained / BEST, tmp_path / "exported",
              tmp_path / "exported" / "model.safetensors")  # fmt: skip
    found = [Start.read(place, tiny(), toy_catalog) for place in places]
    assert len({start.facts.digest for start in found}) == 1
    assert all(same(start.params, found[0].params) for start in found)
    assert [start.facts.source for start in found] == [str(place) for place in places]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 16}, "dim = 8, the run has 16; give -c dim=8"),
        ({"layers": 2}, "layers = 1, the run has 2; give -c layers=1"),
        ({"max_len": 12}, "max-len = 10, the run has 12; give -c max-len=10"),
        ({"encoder": "ligr"}, "encoder = sasrec, the run has ligr; give -c encoder=sasrec"),
        ({"item_bias": "learned"}, "item-bias = false, the run has true; give -c item-bias=none"),
    ],
)
def test_another_shape_is_refused_by_its_key(
    tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path, changes: Any, message: str
) -> None:
    run = trained.parent / "run"
    with pytest.raises(ConfigError, match=rf"--from {trained}: its model has {message}"):
        simulate(tiny(**changes), toy_catalog, shops, start=trained, run_dir=run)
    assert not run.exists()


def test_another_catalog_or_no_model_is_refused(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, trained: Path
) -> None:
    other = Catalog(toy_catalog.item_ids, ("another", *toy_catalog.titles[1:]))
    with pytest.raises(ModelError, match="was made for another catalog"):
        Start.read(trained, tiny(), other)
    with pytest.raises(ModelError, match="no model here"):
        Start.read(tmp_path, tiny(), toy_catalog)


def test_it_is_another_run_for_everybody(tiny: Tiny, toy_catalog: Catalog, trained: Path) -> None:
    config = tiny()
    warm = Start.read(trained, config, toy_catalog).applied(config)
    keys = {run_key(c, toy_catalog.fingerprint) for c in (config, warm)}
    assert len(keys) == 2
    assert RunConfig.from_flat(warm.to_flat()) == warm


def test_a_stopped_run_goes_on_as_it_began_without_the_source(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path, monkeypatch
) -> None:
    config = tiny(rounds=3)
    whole = simulate(config, toy_catalog, shops, start=trained, run_dir=tmp_path / "whole")
    for stop in (0, 1, 2):  # before the first round, and after some
        run = tmp_path / f"run-{stop}"
        start = Start.read(trained, config, toy_catalog)
        start.keep(run)
        with monkeypatch.context() as patch:
            patch.setattr(round_loop.Federation, "_round", _until(stop))
            with pytest.raises(KeyboardInterrupt):
                simulate(config, toy_catalog, shops, start=run / START_MODEL, run_dir=run)
        shutil.move(trained, tmp_path / "moved")
        resumed = simulate(
            config, toy_catalog, shops, start=run / START_MODEL, run_dir=run, resume=True
        )
        shutil.move(tmp_path / "moved", trained)
        assert same(resumed.params, whole.params)
        assert evaluations(resumed) == evaluations(whole)
        events = [e for e in read_history(run / "history.jsonl") if e["event"] == "warm-start"]
        assert [event["from"] for event in events] == [str(trained)]


def _until(stop: int) -> Any:
    real = round_loop.Federation._round

    def limited(self: Any, number: int) -> Any:
        if number > stop:
            raise KeyboardInterrupt
        return real(self, number)

    return limited


def test_what_may_be_named_for_a_run_that_has_begun(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path
) -> None:
    run, config = tmp_path / "run", tiny()
    warm, start = with_start(config, toy_catalog, run, trained, None)
    assert start is not None
    start.keep(run)
    assert with_start(warm, toy_catalog, run, None, warm) == (warm, None)
    assert with_start(config, toy_catalog, run, trained, warm) == (warm, None)
    export_model(trained, tmp_path / "exported")  # the same parameters
    assert with_start(config, toy_catalog, run, tmp_path / "exported", warm) == (warm, None)
    other = tmp_path / "other"
    simulate(tiny(rounds=1, seed=5), toy_catalog, shops, run_dir=other)
    with pytest.raises(ConfigError, match=rf"--from {other}: the run in .* began with .*{trained}"):
        with_start(config, toy_catalog, run, other, warm)
    with pytest.raises(ConfigError, match="began with a new model; resume it without --from"):
        with_start(config, toy_catalog, run, trained, config)
    with pytest.raises(ConfigError, match="give --from instead"):
        with_start(config.replace(start_model="0" * 16), toy_catalog, run, None, None)
    # the source has changed since: it is still the run that was begun from it
    shutil.rmtree(trained)
    simulate(tiny(rounds=1, seed=6), toy_catalog, shops, run_dir=trained)
    assert with_start(config, toy_catalog, run, trained, warm) == (warm, None)


def test_the_first_parameters_are_those_of_the_folder_and_no_others(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path
) -> None:
    config, run = tiny(), tmp_path / "run"
    params, facts = first_params(config, toy_catalog, run)
    assert same(params, initial_params(config, toy_catalog))
    assert facts is None
    start = Start.read(trained, config, toy_catalog)
    warm = start.applied(config)
    with pytest.raises(ModelError, match="no such file"):
        first_params(warm, toy_catalog, run)
    start.keep(run)
    params, facts = first_params(warm, toy_catalog, run)
    assert same(params, start.params)
    assert facts == start.facts
    simulate(tiny(rounds=1, seed=5), toy_catalog, shops, run_dir=tmp_path / "other")
    shutil.copy(tmp_path / "other" / BEST, run / START_MODEL)
    with pytest.raises(ModelError, match=f"but the run began with {start.facts.digest}"):
        first_params(warm, toy_catalog, run)


def test_the_report_says_so(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, shops: Any, trained: Path
) -> None:
    run = tmp_path / "run"
    found = simulate(tiny(rounds=1), toy_catalog, shops, start=trained, run_dir=run)
    summary = RunSummary(outcome="completed", test=found.test, method="fedavg")
    text = write_report(run, summary, [federated_row(summary)]).read_text()
    assert f"It began with the model of round {_round(trained)} of {trained} (digest " in text
    cold = write_report(trained, summary, [federated_row(summary)]).read_text()
    assert "It began with" not in cold


def _round(run: Path) -> int:
    return read_model(run / BEST)[1].round


def test_the_command_starts_from_a_run_and_resumes(tmp_path: Path) -> None:
    data = write_nodes(tmp_path / "data")
    facts = {"name": "d", "nodes": 2, "seed": 0, "partition": "uniform"}
    (data / "dataset.json").write_text(json.dumps(facts))

    def run(name: str, *options: str) -> Any:
        words = [
            "simulate", "--engine", "in-process", "--run-dir", str(tmp_path / name),
            "--no-baselines", "--data", str(data), "--method", "fedavg", "-c", "dim=8",
            "-c", "semantic-start=none", *options,
        ]  # fmt: skip
        return CliRunner().invoke(app, words)

    first = ["--from", str(tmp_path / "first")]
    assert run("first", "--rounds", "1").exit_code == 0
    refused = run("second", *first, "-c", "layers=1")
    assert "layers = 2, the run has 1" in str(refused.exception)
    assert not (tmp_path / "second").exists()
    by_hand = run("second", "-c", "start-model=0123456789abcdef")
    assert "give --from instead" in str(by_hand.exception)
    second = run("second", *first, "--rounds", "1")
    assert second.exit_code == 0, second.exception
    assert f"starts from the model of a run ({tmp_path / 'first'}, round 1, " in second.output
    assert "It began with the model of round 1" in (tmp_path / "second" / "report.md").read_text()
    shutil.rmtree(tmp_path / "first")
    for more, options in ((2, []), (3, first)):
        again = run("second", "--resume", "--rounds", str(more), *options)
        assert again.exit_code == 0, again.exception
        summary = json.loads((tmp_path / "second" / "summary.json").read_text())
        assert (summary["outcome"], summary["rounds"]) == ("completed", more)
