"""Going on with the run in a folder: what may differ, what is refused, and what stays untouched."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.deployment import admission, folders, local, server_supervisor
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.local import LocalNode
from lumos_core.errors import ConfigError, DataError, FederationError, ModelError
from lumos_core.federation.warm_start import START_FACTS, StartFacts, digest
from lumos_core.learning.model import get_params, new_model
from lumos_core.recommend.model_files import ModelCard, save_model
from lumos_core.runs.checkpoint import LATEST, Checkpoint, RunProgress, save_checkpoint
from lumos_core.runs.folder import read_config, write_config
from lumos_core.runs.saved_config import CONFIG
from lumos_core.runs.summary import RunSummary

Tiny = Callable[..., RunConfig]
DONE = {"outcome": "completed", "reason": "", "rounds": 3, "best_round": 2, "test": {"hr@20": 0.5}}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "catalog.tsv").write_text("item_id\ttitle\n" + "".join(
        f"i{n}\ttoy number {n}\n" for n in range(1, 9)))  # fmt: skip
    return folder / "catalog.tsv"


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["10.0.0.1"], ["a", "b", "c"], 9092, 30)
    return tmp_path / "deployment"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What ``lumos deploy server`` would have started, without a process."""
    found: list[RunConfig] = []

    class Generation:
        served = True

        def __init__(self, options: Any, config: RunConfig, *_: Any) -> None:
            found.append(config)

        def run(self) -> RunSummary:
            return RunSummary.model_validate(DONE)

    monkeypatch.setattr(server_supervisor, "_Generation", Generation)
    return found


def _run(deployment: Path, catalog: Path, *options: str) -> Any:
    arguments = ["deploy", "server", str(deployment / "server"), "--catalog", str(catalog)]
    return CliRunner().invoke(app, [*arguments, "--method", "fedavg", *options])


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_server_says_what_the_items_are(
    deployment: Path, catalog: Path, served: list[RunConfig], tmp_path: Path
) -> None:
    assert _run(deployment, catalog, "--domain", "games").exit_code == 0
    assert served[-1].llm_noun == "games played by a player"
    assert _run(deployment, catalog).exit_code == 0  # as the run was begun
    assert served[-1].llm_noun == "games played by a player"
    twice = _run(deployment, catalog, "--domain", "games", "-c", "llm-noun=poems")
    assert "given twice, as --domain and with -c" in str(twice.exception)


def test_the_server_starts_from_a_model_and_goes_on_with_it(
    deployment: Path, catalog: Path, served: list[RunConfig], tmp_path: Path
) -> None:
    public = Catalog.read(catalog)
    config = RunConfig(method="fedavg", dim=8)
    place, run_dir = tmp_path / "kept.safetensors", deployment / "server" / "run"
    params = get_params(new_model(config, len(public)))
    save_model(place, params, ModelCard.of(config, len(public), public.fingerprint, 7, True))
    small = ("-c", "dim=8", "--from", str(place))
    refused = _run(deployment, catalog, "--from", str(place))
    assert "its model has dim = 8, the run has 64; give -c dim=8" in str(refused.exception)
    assert not run_dir.exists()
    done = _run(deployment, catalog, *small)
    assert done.exit_code == 0
    assert "starts from the best model of a finished run" in done.output
    began = served[-1].start_model
    assert began == digest(params)
    assert StartFacts.read(run_dir / START_FACTS).source == str(place)
    place.unlink()  # what it began with is in its folder
    for same in (small, small[:2]):
        assert _run(deployment, catalog, *same, "--rounds", "9").exit_code == 0
        assert served[-1].start_model == began
    other = tmp_path / "other.safetensors"
    save_model(
        other, {n: a + 1 for n, a in params.items()},
        ModelCard.of(config, len(public), public.fingerprint, 7, True),
    )  # fmt: skip
    refused = _run(deployment, catalog, "-c", "dim=8", "--from", str(other))
    assert "began with the best model of a finished run" in str(refused.exception)


# ---------------------------------------------------------------- more nodes, fewer nodes
def test_the_same_command_goes_on_with_another_number_of_nodes(
    deployment: Path, catalog: Path, served: list[RunConfig]
) -> None:
    def go_on(*options: str) -> tuple[int, int]:
        result = _run(deployment, catalog, *options)
        assert result.exit_code == 0, result.exception
        return served[-1].min_nodes, served[-1].min_replies

    assert go_on() == (3, 2)
    admission.add_node(deployment, "d")
    assert go_on() == (3, 2), "it waits for as many as it was begun with"
    admission.remove_node(deployment, "a")
    admission.remove_node(deployment, "b")
    assert go_on() == (2, 2)
    admission.remove_node(deployment, "c")
    assert go_on() == (1, 1)
    admission.add_node(deployment, "e")
    assert go_on("-c", "min-nodes=2") == (2, 1)
    assert read_config(deployment / "server" / "run") == served[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "dp=distributed", "-c", "weighting=uniform"], "nodes compute their noise from it"),
        (["-c", "secure-aggregation=true"], "each node knows the other's part"),
    ],
)
def test_too_few_nodes_for_what_the_run_promises(
    options: list[str], message: str, deployment: Path, catalog: Path, served: list[RunConfig]
) -> None:
    options = [*options, "-c", "min-replies=3"]
    admission.add_node(deployment, "d")
    assert _run(deployment, catalog, *options).exit_code == 0
    admission.remove_node(deployment, "d")
    options = options[:-2]
    assert _run(deployment, catalog, *options).exit_code == 0
    assert (served[-1].min_nodes, served[-1].min_replies) == (3, 3)
    before = _contents(deployment / "server" / "run")
    admission.remove_node(deployment, "a")
    result = _run(deployment, catalog, *options)
    assert isinstance(result.exception, ConfigError)
    assert "2 nodes are registered" in str(result.exception)
    assert message in str(result.exception)
    assert _contents(deployment / "server" / "run") == before


def test_secure_sums_go_on_with_fewer_replies_than_before_down_to_three(
    deployment: Path, catalog: Path, served: list[RunConfig]
) -> None:
    admission.add_node(deployment, "d")
    secure = ["-c", "secure-aggregation=true"]
    assert _run(deployment, catalog, *secure, "-c", "min-replies=4").exit_code == 0
    admission.remove_node(deployment, "d")
    assert _run(deployment, catalog, *secure).exit_code == 0
    assert (served[-1].min_nodes, served[-1].min_replies) == (3, 3)


# ---------------------------------------------------------------- a run that has completed
@pytest.fixture
def completed(deployment: Path, tiny: Tiny, tmp_path: Path) -> Callable[..., Any]:
    """``completed(summary, worse)(config)``: serve on a run of three rounds that has ended."""
    run_dir = tmp_path / "run"

    def make(summary: dict[str, Any], worse: int = 0, **changes: Any) -> Any:
        begun = tiny(catalog="catalog.tsv", run_dir=str(run_dir)).replace(**changes)
        write_config(run_dir, begun, {})
        (run_dir / "summary.json").write_text(json.dumps(summary))
        progress = RunProgress(3, 2, 0.5, worse, "c", "s", begun.to_flat())
        save_checkpoint(run_dir / LATEST, Checkpoint({"a": np.zeros(1)}, {}, progress))

        def serve(**more: Any) -> tuple[RunSummary, str]:
            console = Console(file=io.StringIO(), width=500)
            state = tmp_path / "state"
            options = server_supervisor.ServerOptions(
                ServerKit.read(deployment / "server"),
                begun.replace(**more),
                run_dir,
                state,
                "::",
                0,
            )
            summary = server_supervisor.serve(options, console)
            return summary, console.file.getvalue()  # type: ignore[attr-defined]

        return serve

    return make


BUDGET = "privacy budget: epsilon is 3"


@pytest.mark.parametrize(
    ("summary", "worse", "begun", "asked", "message"),
    [
        ({}, 0, {}, {}, "3 rounds are done, requested are 3"),
        ({}, 0, {}, {"rounds": 2}, "3 rounds are done, requested are 2"),
        ({}, 2, {"patience": 2}, {"rounds": 9}, "out of patience after 3 rounds"),
        ({}, 2, {"rounds": 9, "patience": 2}, {}, "out of patience after 3 rounds"),
        ({"reason": BUDGET}, 0, {"rounds": 9}, {}, BUDGET),
        ({"reason": BUDGET}, 0, {"max_epsilon": 3.0}, {"rounds": 9}, BUDGET),
        ({"reason": BUDGET}, 0, {"max_epsilon": 3.0}, {"rounds": 9, "max_epsilon": 2.0}, BUDGET),
    ],
)
def test_nothing_to_do_is_said_and_changes_nothing(
    completed: Any, served: list[RunConfig], tmp_path: Path,
    summary: Any, worse: int, begun: Any, asked: Any, message: str,
) -> None:  # fmt: skip
    if "max_epsilon" in begun:
        begun = {**begun, "dp": "central", "weighting": "uniform"}
    serve = completed(DONE | summary, worse, **begun)
    before = _contents(tmp_path / "run")
    result, said = serve(**asked)
    assert result == RunSummary.model_validate(DONE | summary)
    assert message in said
    assert "to continue" in said
    assert served == []
    assert _contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("summary", "worse", "begun", "asked"),
    [
        ({}, 0, {}, {"rounds": 9}),
        ({}, 1, {"patience": 2}, {"rounds": 9}),
        ({}, 2, {"rounds": 9, "patience": 2}, {"patience": 3}),
        ({}, 2, {"rounds": 9, "patience": 2}, {"patience": 0}),
        ({"reason": BUDGET}, 0, {"max_epsilon": 3.0, "rounds": 9}, {"max_epsilon": 4.0}),
        ({"reason": BUDGET}, 0, {"max_epsilon": 3.0, "rounds": 9}, {"max_epsilon": 0.0}),
        ({"outcome": "failed", "reason": "no node"}, 0, {}, {}),
    ],
)
def test_a_run_that_may_have_more_rounds_goes_on(
    completed: Any, served: list[RunConfig], tmp_path: Path,
    summary: Any, worse: int, begun: Any, asked: Any,
) -> None:  # fmt: skip
    if "max_epsilon" in begun:
        begun = {**begun, "dp": "central", "weighting": "uniform"}
    completed(DONE | summary, worse, **begun)(**asked)
    [config] = served
    assert read_config(tmp_path / "run") == config
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_server_with_another_configuration_is_refused(completed: Any, tmp_path: Path) -> None:
    serve = completed(DONE)
    before = _contents(tmp_path / "run")
    with pytest.raises(ConfigError, match="has dim = 8, found 16"):
        serve(dim=16, rounds=9)
    assert _contents(tmp_path / "run") == before


def test_without_a_checkpoint_the_summary_stays(completed: Any, tmp_path: Path) -> None:
    serve = completed(DONE)
    (tmp_path / "run" / LATEST).unlink()
    with pytest.raises(ModelError, match="no checkpoint here"):
        serve(rounds=9)
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_second_server_leaves_the_first_ones_files_alone(completed: Any, tmp_path: Path) -> None:
    serve = completed(DONE)
    (tmp_path / "state").mkdir()
    before = _contents(tmp_path / "run")
    with (
        server_supervisor.alone(tmp_path / "state", "x"),
        pytest.raises(FederationError, match="runs al"),
    ):
        serve(rounds=9)
    assert _contents(tmp_path / "run") == before


# ---------------------------------------------------------------- lumos run --resume
@pytest.mark.parametrize("command", ["run", "simulate"])
def test_a_refused_resume_touches_nothing(
    command: str, completed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumos_core.data.prepare import prepare
    from lumos_core.data.sample import bundled_sample

    prepare(bundled_sample(), tmp_path / "prepared", nodes=2, seed=0)
    completed(DONE, catalog=str(tmp_path / "prepared" / "catalog.tsv"))
    before = _contents(tmp_path / "run")
    arguments = [command, "--resume", "--run-dir", str(tmp_path / "run"), "-c", "dim=16"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "the run there has dim = 8, found 16" in str(result.exception)
    assert _contents(tmp_path / "run") == before
    same_keys = CliRunner().invoke(app, arguments[:-2])  # but the model is of the catalog "c"
    assert isinstance(same_keys.exception, ConfigError)
    assert "was begun with c…" in str(same_keys.exception)
    assert _contents(tmp_path / "run") == before


def test_a_server_refuses_another_catalog_before_it_writes(
    deployment: Path, catalog: Path, completed: Any, served: list[RunConfig], tmp_path: Path
) -> None:
    completed(DONE)
    before = _contents(tmp_path / "run")
    result = _run(deployment, catalog, "--run-dir", str(tmp_path / "run"))
    assert isinstance(result.exception, ConfigError)
    assert "was begun with c…" in str(result.exception)
    assert _contents(tmp_path / "run") == before
    assert not served


def test_deploying_on_another_run_touches_nothing(
    completed: Any, tiny: Tiny, tmp_path: Path
) -> None:
    completed(DONE)
    before = _contents(tmp_path / "run")
    with pytest.raises(ConfigError, match="has dim = 8, found 16"):
        local.deploy(tiny(dim=16), [LocalNode("a", tmp_path)], tmp_path / "run", print, resume=True)
    assert _contents(tmp_path / "run") == before


# ---------------------------------------------------------------- damaged files
def _without(key: str) -> Any:
    return lambda run: {"run": {k: v for k, v in run.items() if k != key}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: {"run": 3}, "found 3, expected a JSON object whose key 'run'"),
        (lambda run: [], "found [], expected a JSON object"),
        (lambda run: {}, "found null, expected a JSON object"),
        (lambda run: {"run": {}}, "key 'method' of 'run' is missing"),
        (_without("catalog"), "key 'catalog' of 'run' is missing"),
        (_without("min-nodes"), "key 'min-nodes' of 'run' is missing"),
        (lambda run: {"run": {**run, "dim": "x"}}, "key 'dim': found 'x'"),
        (lambda run: {"run": {**run, "dimm": 8}}, "unknown key 'dimm'"),
        (None, "is not JSON"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "server"])
def test_a_damaged_configuration_is_named(
    command: str, damage: Any, message: str, tiny: Tiny, deployment: Path, catalog: Path,
    served: list[RunConfig],
) -> None:  # fmt: skip
    run_dir = deployment / "server" / "run"
    run_dir.mkdir()
    whole = tiny(catalog=str(catalog)).to_flat()
    (run_dir / CONFIG).write_text(json.dumps(damage(whole)) if damage else '{"run": {"me')
    before = _contents(run_dir)
    if command == "server":
        result = _run(deployment, catalog)
    else:
        result = CliRunner().invoke(app, ["run", "--resume", "--run-dir", str(run_dir)])
    assert isinstance(result.exception, ConfigError), result.exception
    assert str(run_dir / CONFIG) in str(result.exception)
    assert message in str(result.exception)
    assert served == []
    assert _contents(run_dir) == before


def test_a_key_that_is_newer_than_the_run_has_its_default(tiny: Tiny, tmp_path: Path) -> None:
    begun = tiny(catalog="c")
    flat = {k: v for k, v in begun.to_flat().items() if k != "max-weight-ratio"}
    (tmp_path / CONFIG).write_text(json.dumps({"run": flat}))
    assert read_config(tmp_path) == begun


@pytest.mark.parametrize("text", ["{", "3", "{}", '{"outcome": "completed", "reason": ""}'])
def test_a_damaged_summary_is_named(text: str, completed: Any, tmp_path: Path) -> None:
    serve = completed(DONE)
    (tmp_path / "run" / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary\.json: .* damaged"):
        serve(rounds=9)


def test_a_server_without_nodes_says_how_to_admit_one(tmp_path: Path, catalog: Path) -> None:
    folders.create(tmp_path / "new", ["10.0.0.1"], [], 9092, 30)
    result = _run(tmp_path / "new", catalog)
    assert isinstance(result.exception, ConfigError)
    assert "no node is registered yet" in str(result.exception)
    assert "lumos deploy add-node" in str(result.exception)
    assert not (tmp_path / "new" / "server" / "run").exists()
