"""The bench: scenarios, defences, one run from start to end, resuming, table and heat map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lumos_core.config import RunConfig
from lumos_core.data.prepare import prepare
from lumos_core.errors import ConfigError
from lumos_core.experiments.jobs import data_facts, find_results, run_job, run_jobs
from lumos_core.experiments.poisoning import attack_table, bench, suite
from lumos_core.experiments.poisoning.defences import DEFENCES, method_config
from lumos_core.experiments.poisoning.scenarios import SUITES, Scenario, of_users
from lumos_core.experiments.results_file import ResultsFile
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.runs.checkpoint import load_checkpoint

SMALL = RunConfig(
    local_epochs=1, dim=8, layers=1, semantic_start="tfidf", views="tfidf", max_len=10
)
ROUNDS = (1, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 users, 10 items."""
    folder = tmp_path_factory.mktemp("attack")
    rows = [f"u{u}\ti{(u * 3 + t * (1 + u % 3)) % 10}\t{t}" for u in range(16) for t in range(6)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing number {i} of {'paper' if i % 2 else 'tin'}" for i in range(10)]
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(folder, folder / "out", nodes=2, seed=0, k_core=0)
    return folder / "out"


def _job(data: Path, out: Path, method: str, scenario: Scenario, seed: int = 0) -> suite.AttackRun:
    (job,) = suite.plan_attacks(data, out, [method], [scenario], [seed], SMALL, ROUNDS)
    return job


@pytest.mark.parametrize(
    ("rho", "nodes", "malicious"), [(0.05, 19, 1), (0.1, 19, 2), (0.2, 19, 5), (0.01, 99, 1)]
)
def test_the_share_of_malicious_nodes_is_that_of_all_nodes(
    rho: float, nodes: int, malicious: int
) -> None:
    assert Scenario("nan", rho, nodes=nodes).malicious == malicious
    assert malicious / (malicious + nodes) == pytest.approx(rho, abs=0.01)
    assert Scenario(nodes=nodes).malicious == 0


def test_names_of_scenarios_tell_them_apart() -> None:
    for scenarios in SUITES.values():
        assert len({s.name for s in scenarios}) == len(scenarios)


def test_nodes_of_very_different_size_are_a_federation_of_their_own(
    data: Path, tmp_path: Path
) -> None:
    even, skewed = Scenario(nodes=3), Scenario(nodes=3, partition="skewed")
    results = [run_job(_job(data, tmp_path, "fedavg", s)) for s in (even, skewed)]
    assert results[0]["ndcg@20"] != results[1]["ndcg@20"]
    assert len(list((tmp_path / "clean").glob("*.safetensors"))) == 2
    scenario = Scenario("nan", 0.3, nodes=3, partition="skewed")
    attacked = {**results[1], "scenario": scenario.to_dict()}
    assert attack_table.without_attack([*results, attacked], attacked) is results[1]
    assert attack_table.scenario_label(attacked["scenario"]) == "nan, 1 of 4 skewed nodes, ξ = 0"


def test_malicious_clients_among_clients_with_one_user_each(data: Path, tmp_path: Path) -> None:
    """They promote the target, in the same model as without them; both runs are of all users."""
    calm, attacked = of_users([Scenario(), Scenario("align-users", 0.2, 0.9)], 16)
    assert attacked.malicious == 4
    jobs = [_job(data, tmp_path, "fedavg-plus", s) for s in (calm, attacked)]
    results = [run_job(job) for job in jobs]
    assert results[0]["users"] == results[1]["users"] == 16
    assert results[1]["rejected"] == {"honest": 0, "malicious": 0}
    assert results[1]["target-rank"] < results[0]["target-rank"]
    assert attack_table.without_attack(results, results[1]) is results[0]
    assert attack_table.scenario_label(attacked.to_dict()).startswith("align-users, 4 of 20 users")
    assert len(list((tmp_path / "clean").glob("*users16*.safetensors"))) == 1
    with pytest.raises(ConfigError, match="pieck and union are for nodes of many"):
        run_job(_job(data, tmp_path, "fedavg:pieck", calm))


def test_unknown_names_are_refused_before_anything_runs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown attack 'theft'; known are: sign-flip"):
        Scenario("theft")
    with pytest.raises(ConfigError, match=r"'lumos:wall': unknown defence 'wall'"):
        suite.plan_attacks(data, tmp_path, ["lumos:wall"], [Scenario()], [0], SMALL, ROUNDS)
    with pytest.raises(ConfigError, match="method"):
        suite.plan_attacks(data, tmp_path, ["lumens"], [Scenario()], [0], SMALL, ROUNDS)


def test_a_method_without_defence_has_none_and_default_is_what_runs_do() -> None:
    for name in DEFENCES:
        assert isinstance(method_config(f"lumos:{name}", RunConfig()), RunConfig)
    bare, default = (method_config(m, RunConfig()) for m in ("lumos", "lumos:default"))
    assert (bare.aggregation, bare.clipping) == ("mean", "none")
    assert default == RunConfig()
    assert method_config("fedavg", RunConfig()).semantic_start == "none"


def test_a_run_is_kept_repeats_and_starts_from_the_common_clean_model(
    data: Path, tmp_path: Path
) -> None:
    first = run_job(_job(data, tmp_path, "lumos", Scenario("align-users", 0.3, 0.9, nodes=3)))
    (clean,) = (tmp_path / "clean").glob("*.safetensors")
    before = clean.read_bytes()
    again = _job(data, tmp_path / "again", "lumos", Scenario("align-users", 0.3, 0.9, nodes=3))
    assert run_job(again)["hr@20"] == first["hr@20"]
    calm = run_job(_job(data, tmp_path, "lumos", Scenario(nodes=3)))
    assert clean.read_bytes() == before
    assert calm["config"] == first["config"]
    for result in (first, calm):
        assert 0 <= result["er@10"] <= 1
        assert 0 < result["target-rank"] <= 1
        assert result["rejected"] == {"honest": 0, "malicious": 0}


def test_refused_replies_are_counted_and_leave_the_model_as_it_is(
    data: Path, tmp_path: Path
) -> None:
    calm = run_job(_job(data, tmp_path, "fedavg", Scenario(nodes=3)))
    attacked = run_job(_job(data, tmp_path, "fedavg", Scenario("nan", 0.3, nodes=3)))
    assert attacked["rejected"] == {"honest": 0, "malicious": 1}
    metrics = ("hr@20", "ndcg@20", "er@10", "target-rank")
    assert all(attacked[m] == calm[m] for m in metrics)


def test_noise_changes_the_model_and_the_true_histories_measure_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Params] = []
    histories: list[list[int]] = []
    measure = bench.measure_honest_users

    def measured(params: Params, config: RunConfig, ground: bench.Ground) -> dict[str, float]:
        models.append(params)
        histories.append(ground.users.items.tolist())
        return measure(params, config, ground)

    monkeypatch.setattr(bench, "measure_honest_users", measured)
    run_job(_job(data, tmp_path, "lumos", Scenario(nodes=3)))
    noisy = run_job(_job(data, tmp_path, "lumos", Scenario(noise=0.9, nodes=3)))
    assert noisy["views"] == "tfidf"
    assert (models[0][ITEM_TABLE] != models[1][ITEM_TABLE]).mean() > 0.5
    assert histories[0] == histories[1]


def test_what_has_been_run_is_not_run_again(data: Path, tmp_path: Path) -> None:
    job = _job(data, tmp_path, "fedavg", Scenario(nodes=3))
    result = run_job(job)
    file = ResultsFile(tmp_path, SMALL)
    file.append(result)
    seen: list[bool] = []
    (kept,) = run_jobs([job], file, 1, lambda r, found: seen.append(found))
    assert seen == [True]
    assert kept == json.loads(json.dumps(result))
    other = _job(data, tmp_path, "fedavg", Scenario(nodes=3), seed=1)
    assert find_results([job, other], file.read().values()) == [kept, None]
    longer = suite.plan_attacks(data, tmp_path, ["fedavg"], [Scenario(nodes=3)], [0], SMALL, (1, 2))
    assert find_results(longer, file.read().values()) == [None]


def test_runs_on_other_data_are_neither_kept_nor_begun_from(data: Path, tmp_path: Path) -> None:
    job = _job(data, tmp_path, "fedavg", Scenario(nodes=3))
    results = [run_job(job)]
    prepare(data.parent, tmp_path / data.name, nodes=2, seed=1, k_core=0)  # users dealt out anew
    other = _job(tmp_path / data.name, tmp_path, "fedavg", Scenario(nodes=3))
    assert (other.names(), other.config) == (job.names(), job.config)
    assert find_results([job], results) == results
    assert find_results([other], results) == [None]
    assert other.clean != job.clean
    assert job.clean.exists()
    assert not other.clean.exists()


def _result(method: str, attack: str, seed: int, hr: float, er: float) -> dict[str, Any]:
    scenario = Scenario(attack, 0.05, 0.9) if attack != "none" else Scenario()
    return {
        "method": method, "scenario": scenario.to_dict(), "seed": seed, "views": "none",
        "hr@20": hr, "ndcg@20": hr / 2, "er@10": er, "target-rank": 0.5,
        "rejected": {"honest": 0, "malicious": 2},
    }  # fmt: skip


def test_losses_are_paired_by_method_and_seed(tmp_path: Path) -> None:
    results = [
        _result("lumos", "none", 0, 0.30, 0.0), _result("lumos", "none", 1, 0.20, 0.0),
        _result("lumos", "nan", 0, 0.25, 0.4), _result("lumos", "nan", 1, 0.20, 0.2),
        _result("fedavg", "none", 0, 0.9, 0.0),
    ]  # fmt: skip
    assert attack_table.lost(results, results[2:4], "hr@20") == pytest.approx([0.05, 0.0])
    lines = attack_table.attack_table(results).splitlines()
    assert len(lines) == 2 + 3
    (attacked,) = [line for line in lines if "nan" in line]
    assert "0.2250 ± 0.0354" in attacked
    assert "+0.0250" in attacked
    assert "0.3000 ± 0.1414" in attacked
    assert attacked.endswith("| 4 |")
    attack_table.plot_heat_map(results, tmp_path / "map.png", "test")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_what_is_there(data: Path, tmp_path: Path) -> None:
    from lumos_core.cli.app import app

    runner = CliRunner()
    argv = ["attack", str(data), "--out", str(tmp_path), "--suite", "smoke", "--seeds", "0",
            "--methods", "fedavg", "--clean-rounds", "1", "--attack-rounds", "1",
            "-c", "local-epochs=1", "-c", "dim=8", "-c", "layers=1", "-c", "max-len=10",
            "-c", "views=tfidf", "-c", "semantic-start=tfidf"]  # fmt: skip
    empty = runner.invoke(app, [*argv, "--report-only"])
    assert "holds no finished run" in str(empty.exception)
    assert runner.invoke(app, [*argv[:5], "nothing"]).exception is not None
    jobs = suite.plan_attacks(data, tmp_path, ["fedavg"], SUITES["smoke"], [0], SMALL, ROUNDS)
    for job, hr in zip(jobs, (0.3, 0.25), strict=False):
        leave_as_earlier_versions_did(job, hr)
    reported = runner.invoke(app, [*argv, "--report-only"], catch_exceptions=False)
    written = f"written: {tmp_path / 'results.jsonl'}, table.md, heat-map.png, report.html"
    assert " ".join(reported.output.split()).endswith(written)
    *runs, missing = find_results(jobs, ResultsFile(tmp_path, SMALL).read().values())
    assert [run["hr@20"] for run in runs if run] == [0.3, 0.25]
    assert missing is None
    assert "| fedavg | no attack (19 nodes) | 1 | 0.3000 |" in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "runs").exists()


def leave_as_earlier_versions_did(job: suite.AttackRun, hr: float) -> None:
    result = {
        **_result("fedavg", "none", 0, hr, 0.1), **job.names(), **data_facts(job.data),
        "data": job.data.name, "config": job.config.without_paths(),
    }  # fmt: skip
    path = job.out / "runs" / f"{job.method}-{job.scenario.name}-seed{job.config.seed}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))


def test_a_defence_spells_out_what_the_defaults_are() -> None:
    spelled_out, default = (
        method_config(f"lumos:{d}", RunConfig()) for d in ("median-encoder", "default")
    )
    assert spelled_out.clipping == default.clipping == "norm+rows"
    assert spelled_out.rule == default.rule == "median-encoder"
    assert spelled_out.replace(clip="auto", aggregation="auto") == default


@pytest.mark.parametrize("defence", ["pieck", "union"])
def test_a_guard_changes_the_run_and_has_a_clean_model_of_its_own(
    data: Path, tmp_path: Path, defence: str
) -> None:
    scenario = Scenario("cluster", 0.3, 0.9, nodes=4)
    methods = ["fedavg", f"fedavg:{defence}"]
    jobs = suite.plan_attacks(data, tmp_path, methods, [scenario], [0], SMALL, (3, 1))
    results = [run_job(job) for job in jobs]
    assert [result["method"] for result in results] == methods
    plain, guarded = (load_checkpoint(job.clean).params for job in jobs)
    assert not np.array_equal(plain["items.weight"], guarded["items.weight"])
