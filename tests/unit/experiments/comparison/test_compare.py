"""Comparisons: planning, resuming, tables."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.data.prepare import prepare
from lumos_core.errors import ConfigError
from lumos_core.experiments import jobs
from lumos_core.experiments.comparison import (
    compare,
    comparison_table,
    curves_picture,
    tuning,
    variants,
)
from lumos_core.experiments.jobs import data_facts, find_results, run_job, run_jobs
from lumos_core.experiments.results_file import Result, ResultsFile

SMALL = RunConfig(rounds=1, local_epochs=1, dim=8, semantic_start="tfidf", views="tfidf")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve users, ten items, two nodes."""
    folder = tmp_path_factory.mktemp("compare")
    rows = [f"u{u}\ti{(u * 3 + t * (1 + u % 3)) % 10}\t{t}" for u in range(12) for t in range(6)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing number {i} of {'paper' if i % 2 else 'tin'}" for i in range(10)]
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(folder, folder / "out", nodes=2, seed=0, k_core=0)
    return folder / "out"


def test_every_variant_is_a_valid_configuration() -> None:
    for name in variants.VARIANTS:
        assert isinstance(variants.variant_config(name, RunConfig()), RunConfig)


def test_an_unknown_variant_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fedvag.*known are.*fedavg"):
        compare.plan_comparison(tmp_path, ["fedvag"], [0], RunConfig())


def test_a_reference_that_is_not_compared_is_named_before_anything_runs(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["compare", str(data), "--out", str(out), "--variants", "popularity,fedavg"]
    with pytest.raises(ConfigError, match=r"--reference .*: expected one .*popularity, fedavg"):
        CliRunner().invoke(app, [*arguments, "--reference", "nonsense"], catch_exceptions=False)
    assert not out.exists()


def test_without_confedsrs_the_first_variant_is_the_reference(data: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(data), "--out", str(tmp_path / "out"), "--variants", "popularity"]
    result = CliRunner().invoke(app, [*arguments, "--seeds", "0"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "vs popularity" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("name", ["popularity", "centralised", "local", "fedavg", "confedsrs"])
def test_a_run_leaves_its_result_and_configuration(data: Path, tmp_path: Path, name: str) -> None:
    (job,) = compare.plan_comparison(data, [name], [3], SMALL)
    result = run_job(job)
    file = ResultsFile(tmp_path, SMALL)
    file.append(result)
    assert list(file.read().values()) == [json.loads(json.dumps(result))]
    assert result["seed"] == 3
    assert result["config"]["seed"] == 3
    assert all(0 <= value <= 1 for value in result["test"].values())


def test_the_same_job_gives_the_same_result_and_is_not_run_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = SMALL.replace(semantic_start="none")
    (job,) = compare.plan_comparison(data, ["lumos-tfidf-views"], [0], base)
    first = run_job(job)
    assert run_job(job)["test"] == first["test"]
    file = ResultsFile(tmp_path, base)
    file.append(first)
    monkeypatch.setattr(jobs, "run_job", None)  # calling it again would fail
    seen: list[bool] = []
    (kept,) = run_jobs([job], file, 1, lambda result, found: seen.append(found))
    assert seen == [True]
    assert kept["test"] == first["test"]


def _is_kept(job: compare.VariantRun, file: ResultsFile) -> bool:
    return find_results([job], file.read().values()) != [None]


def test_another_configuration_is_another_run(data: Path, tmp_path: Path) -> None:
    (job,) = compare.plan_comparison(data, ["popularity"], [0], SMALL)
    file = ResultsFile(tmp_path, SMALL)
    file.append(run_job(job))
    (other,) = compare.plan_comparison(data, ["popularity"], [0], SMALL.replace(rounds=2))
    assert _is_kept(job, file)
    assert not _is_kept(other, file)


def test_results_of_other_data_are_not_taken_for_these(data: Path, tmp_path: Path) -> None:
    (job,) = compare.plan_comparison(data, ["popularity"], [0], SMALL)
    file = ResultsFile(tmp_path, SMALL)
    file.append(run_job(job))
    prepare(data.parent, tmp_path / "other", nodes=2, seed=1, k_core=0)  # users dealt out anew
    (other,) = compare.plan_comparison(tmp_path / "other", ["popularity"], [0], SMALL)
    assert (other.names(), other.config) == (job.names(), job.config)
    assert _is_kept(job, file)
    assert not _is_kept(other, file)


def _result(variant: str, seed: int, hr: float) -> Result:
    return {"variant": variant, "seed": seed, "test": {"hr@20": hr, "ndcg@20": hr / 2}}


def test_differences_are_paired_by_seed() -> None:
    ours = [_result("lumos", 0, 0.3), _result("lumos", 1, 0.2), _result("lumos", 9, 0.9)]
    base = [_result("confedsrs", 1, 0.1), _result("confedsrs", 0, 0.2)]
    differences = comparison_table.relative_differences(ours, base, "hr@20")
    assert differences == pytest.approx([0.5, 1.0])


def test_a_reference_of_zero_gives_no_number() -> None:
    differences = comparison_table.relative_differences(
        [_result("a", 0, 0.1)], [_result("b", 0, 0.0)], "hr@20"
    )
    assert math.isnan(differences[0])


def test_the_table_has_a_row_a_variant_and_means_over_seeds() -> None:
    results = [_result("a", s, 0.1 + s / 10) for s in range(3)] + [_result("b", 0, 0.4)]
    lines = comparison_table.comparison_table(results, "b").splitlines()
    assert len(lines) == 4
    assert "0.2000 ± 0.1000" in lines[2]
    assert "-75.0%" in lines[2]


def test_the_picture_is_drawn(data: Path, tmp_path: Path) -> None:
    planned = compare.plan_comparison(data, ["popularity", "fedavg"], [0, 1], SMALL)
    results = [run_job(job) for job in planned]
    curves_picture.plot_curves(results, tmp_path / "curves.png", "test")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_at_most_ten_variants_those_with_most_seeds_first() -> None:
    def of(variant: str, seed: int, value: float) -> Result:
        metrics = {"hr@20": value, "ndcg@20": value}
        return {"variant": variant, "seed": seed, "validation": metrics, "curve": []}

    many = [of(f"one-{n}", 0, 0.5 + n / 100) for n in range(12)]
    two = [of("two", seed, 0.1) for seed in (0, 1)]
    drawn = curves_picture._drawn([*many, *two])
    assert list(drawn) == [*(f"one-{n}" for n in range(3, 12)), "two"]


QUICK = tuple(
    text
    for key in ("semantic-start=none", "dim=8", "local-epochs=1", "rounds=1")
    for text in ("-c", key)
)


def compared(data: Path, out: Path, variants: str, *more: str) -> str:
    arguments = ["compare", str(data), "--out", str(out), "--variants", variants, "--seeds", "0"]
    result = CliRunner().invoke(app, [*arguments, *QUICK, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "How good they are" in (out / "report.html").read_text()
    return (out / "table.md").read_text()


class Kept:
    """Leaves results in a folder as this version does, or as earlier ones did."""

    def __init__(self, old: bool) -> None:
        self.old = old

    def __call__(self, job: compare.VariantRun, out: Path, **changes: object) -> None:
        """One run more; ``changes`` are what its configuration has and the job's has not."""
        result = {
            "variant": job.variant, "seed": job.config.seed, **data_facts(job.data),
            "config": {**job.config.without_paths(), **changes}, "seconds": 1.0,
            "test": {"hr@20": 0.5, "ndcg@20": 0.25}, "curve": [],
        }  # fmt: skip
        if self.old:
            path = out / "runs" / f"{job.variant}-seed{job.config.seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result))
        else:
            ResultsFile(out, SMALL).append(result)

    @property
    def first(self) -> str:
        """Where fedavg with seed 0 is, if it is the only run."""
        return "fedavg-seed0.json" if self.old else "line 2 of results.jsonl"


@pytest.fixture(params=["results.jsonl", "a file a run"])
def keep(request: pytest.FixtureRequest) -> Kept:
    return Kept(old=request.param == "a file a run")


def check(out: Path, data: Path) -> list[Result]:
    return compare.check_kept(ResultsFile(out, SMALL).read(), out, data, SMALL)


def test_a_folder_keeps_all_its_variants_in_the_table(
    data: Path, tmp_path: Path, keep: Kept
) -> None:
    out = tmp_path / "out"
    config = SMALL.replace(semantic_start="none", views=RunConfig().views)
    for job in compare.plan_comparison(data, ["confedsrs", "fedavg"], [0, 7], config):
        keep(job, out)
    table = compared(data, out, "popularity")
    first = table.partition("\n\n")[0]
    assert [line.split("|")[1:3] for line in first.splitlines()[2:]] == [
        [" fedavg ", " 2 "], [" confedsrs ", " 2 "], [" popularity ", " 1 "],
    ]  # fmt: skip
    assert "HR@20 vs confedsrs" in table
    assert "HR@20 vs fedavg" in compared(data, out, "popularity", "--reference", "fedavg")
    results = ResultsFile(out, config).read().values()
    assert len({(r["variant"], r["seed"]) for r in results}) == len(results) == 5
    assert not (out / "runs").exists()


def test_a_table_of_earlier_results_says_whom_they_serve_when_it_is_made_again(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    table = compared(data, out, "popularity,fedavg")
    assert "length of the history" in table
    assert "nodes: mean" in table
    file = ResultsFile(out, SMALL)
    facts = ("target_uses", "history_lengths", "owners")
    file.change(lambda result: {k: v for k, v in result.items() if k not in facts})
    assert not any(fact in result for result in file.read().values() for fact in facts)
    assert compared(data, out, "popularity,fedavg") == table


@pytest.mark.parametrize("tune", [[], ["--tune"]])
def test_ablations_are_run_with_the_first_seed_only(
    data: Path, tmp_path: Path, tune: list[str]
) -> None:
    """A variant that is named twice has all seeds."""
    more = ["--ablations", "fedavg-start,popularity", "--seeds", "2,1", *tune]
    compared(data, tmp_path, "popularity,markov-1", *more)
    rows = [r for r in ResultsFile(tmp_path, SMALL).read().values() if "tuning" not in r]
    assert sorted((row["variant"], row["seed"]) for row in rows) == [
        ("fedavg-start", 2), ("markov-1", 1), ("markov-1", 2), ("popularity", 1), ("popularity", 2)
    ]  # fmt: skip
    assert ("tuned" in next(r for r in rows if r["variant"] == "fedavg-start")) == bool(tune)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rounds": 2}, r"was run with rounds = 2, .* has rounds = 1;"),
        ({"new-key": 1}, r"new-key = 1, this comparison has no key 'new-key'"),
    ],
)
def test_another_base_configuration_is_refused_by_name(
    data: Path, tmp_path: Path, keep: Kept, changes: dict[str, object], named: str
) -> None:
    (job,) = compare.plan_comparison(data, ["fedavg"], [0], SMALL)
    keep(job, tmp_path / "other", **changes)
    with pytest.raises(ConfigError, match=named) as refused:
        check(tmp_path / "other", data)
    assert f"--out {tmp_path / 'other'}: {keep.first} was run with" in str(refused.value)
    keep(job, tmp_path)
    assert len(check(tmp_path, data)) == 1


def test_results_of_a_lumos_without_a_later_key_are_gone_on_with(
    data: Path, tmp_path: Path, keep: Kept
) -> None:
    (job,) = compare.plan_comparison(data, ["fedavg"], [0], SMALL)
    keep(job, tmp_path)
    file = ResultsFile(tmp_path, SMALL)
    file.convert_old()

    def earlier(result: Result) -> Result:
        config = {k: v for k, v in result["config"].items() if k != "close-at"}
        return {**result, "config": config}

    file.change(earlier)
    assert all("close-at" not in result["config"] for result in file.read().values())
    assert len(check(tmp_path, data)) == 1
    assert find_results([job], file.read().values()) != [None]


def test_an_automatic_bias_is_what_it_means_for_the_method(
    data: Path, tmp_path: Path, keep: Kept
) -> None:
    """It means no bias for fedavg, a learned one for fedavg-plus; SMALL has none."""
    plain, plus, of_bag = compare.plan_comparison(
        data, ["fedavg", "fedavg-plus", "bag"], [0], SMALL
    )
    keep(plain, tmp_path, **{"item-bias": "auto"})
    keep(of_bag, tmp_path, **{"item-bias": "auto"})
    assert len(check(tmp_path, data)) == 2
    file = ResultsFile(tmp_path, SMALL)
    file.convert_old()
    assert None not in find_results([plain, of_bag], file.read().values())
    keep(plus, tmp_path / "other", **{"item-bias": "auto"})
    with pytest.raises(ConfigError, match=r"item-bias = 'learned', .* has item-bias = 'none'"):
        check(tmp_path / "other", data)


def test_a_seed_and_what_a_variant_sets_are_not_another_base(
    data: Path, tmp_path: Path, keep: Kept
) -> None:
    for job in compare.plan_comparison(data, list(variants.VARIANTS), [0, 5], SMALL):
        keep(job, tmp_path)
    found = check(tmp_path, data)
    assert len(found) == 2 * len(variants.VARIANTS)


def test_other_data_is_refused(data: Path, tmp_path: Path, keep: Kept) -> None:
    (job,) = compare.plan_comparison(data, ["fedavg"], [0], SMALL)
    keep(job, tmp_path)
    prepare(data.parent, tmp_path / "other", nodes=2, seed=1, k_core=0)
    with pytest.raises(ConfigError, match=r"is of other data than .*interactions") as refused:
        check(tmp_path, tmp_path / "other")
    assert f"--out {tmp_path}: {keep.first} is of other data" in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"variant": "x", "config": {}, "test": 1}'])
def test_what_is_no_result_is_not_in_the_table(data: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fedavg-seed0.json").write_text(text)
    assert check(tmp_path, data) == []


def test_a_line_of_no_variant_is_not_in_the_table(data: Path, tmp_path: Path) -> None:
    file = ResultsFile(tmp_path, SMALL)
    file.append({"variant": "x", "seed": 0, "config": {}, "test": 1})
    file.append({"variant": "fedavg", "seed": 0, "config": {}})
    assert check(tmp_path, data) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
@pytest.mark.parametrize("seconds", [1.5, 6.0])
def test_ctrl_c_ends_the_workers_too_and_is_one_line(
    data: Path, tmp_path: Path, seconds: float
) -> None:
    """As a terminal sends it: to the command and to its workers, while they load or train."""
    endless = ("semantic-start=none", "rounds=1000000")
    settings = [text for key in endless for text in ("-c", key)]
    command = ["compare", str(data), "--out", str(tmp_path), "--variants", "fedavg", *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "lumos_core", *command, "--jobs", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")
    until = time.monotonic() + 10
    while _is_alive(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _is_alive(process.pid)


def _is_alive(group: int) -> bool:
    """Whether a process of the group runs; one that has ended may wait long for init to see it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


# ---------------------------------------------------------------- partition and tuning
def test_runs_of_both_partitions_cannot_be_in_one_table(data: Path, tmp_path: Path) -> None:
    file = ResultsFile(tmp_path, SMALL)
    (job,) = compare.plan_comparison(data, ["popularity"], [0], SMALL, "drawn")
    file.append(run_job(job))
    with pytest.raises(ConfigError, match=r"with --partition drawn, this .* --partition stored"):
        check(tmp_path, data)
    assert len(compare.check_kept(file.read(), tmp_path, data, SMALL, "drawn")) == 1


def test_a_seed_draws_a_partition_from_the_command_line(data: Path, tmp_path: Path) -> None:
    table = compared(data, tmp_path / "out", "popularity", "--partition", "drawn")
    assert table.startswith("| variant |")
    (result,) = ResultsFile(tmp_path / "out", SMALL).read().values()
    assert result["partition"] == "drawn"


# ---------------------------------------------------------------- one user a client
def test_one_user_a_client_from_the_command_line(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compared(data, out, "fedavg-plus,popularity,centralised", "--clients", "users")
    results = list(ResultsFile(out, SMALL).read().values())
    assert [(r["partition"], r["nodes"], r["users"]) for r in results] == [("users", 12, 12)] * 3
    with pytest.raises(ConfigError, match=r"with --clients users, this .* --partition stored"):
        check(out, data)


def test_a_user_who_is_a_client_is_not_dealt_out(data: Path, tmp_path: Path) -> None:
    words = ["compare", str(data), "--out", str(tmp_path / "out"), "--clients", "users"]
    with pytest.raises(ConfigError, match=r"--partition drawn .* leave one of them out"):
        CliRunner().invoke(app, [*words, "--partition", "drawn"], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_variants_that_need_other_users_are_refused_before_anything_runs(data: Path) -> None:
    for name in variants.VARIANTS.keys() - variants.NEED_OTHER_USERS:
        assert compare.plan_comparison(data, [name], [0], RunConfig(), "users")
    for name in variants.NEED_OTHER_USERS:
        with pytest.raises(ConfigError, match=rf"variant '{name}' with --clients users"):
            compare.plan_comparison(data, [name], [0], RunConfig(), "users")
    with pytest.raises(ConfigError, match=r"variant 'lumos' .* dp = user"):
        compare.plan_comparison(data, ["lumos"], [0], RunConfig(dp="user"), "users")


@pytest.fixture(scope="module")
def tuned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --out of a tuned comparison."""
    out = tmp_path_factory.mktemp("tuned") / "out"
    compared(data, out, "popularity,fedavg,fedavg-start", "--tune", "--reference", "popularity")
    return out


def test_a_family_is_tuned_on_its_representative_and_uses_the_choice(tuned: Path) -> None:
    results = list(ResultsFile(tuned, SMALL).read().values())
    grid = {r["tuning"]: r for r in results if "tuning" in r}
    assert grid.keys() == tuning.GRID.keys()
    assert {r["variant"] for r in grid.values()} == {"fedavg"}
    best = max(tuning.GRID, key=lambda point: grid[point]["validation"]["ndcg@20"])
    rows = {r["variant"]: r for r in results if "tuning" not in r}
    assert set(rows) == {"popularity", "fedavg-start"}  # fedavg itself is a point of the grid
    assert rows["fedavg-start"]["tuned"] == best
    assert "tuned" not in rows["popularity"]
    for key in tuning.GRID["slower-wider"]:
        assert rows["fedavg-start"]["config"][key] == grid[best]["config"][key]
    names = [
        line.split("|")[1].split()[0]
        for line in (tuned / "table.md").read_text().partition("\n\n")[0].splitlines()[2:]
    ]
    assert names == ["fedavg-start", "fedavg", "popularity"]


def test_a_tuned_comparison_is_resumed(
    data: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tuned / "table.md").read_text()
    monkeypatch.setattr(jobs, "run_job", None)  # calling it again would fail
    arguments = ("popularity,fedavg,fedavg-start", "--tune", "--reference", "popularity")
    assert compared(data, tuned, *arguments) == before


def test_the_runs_after_the_grid_have_a_progress_of_their_own(
    data: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take most of the time: without one nobody knew how far they were."""
    monkeypatch.setattr(jobs, "run_job", None)  # all results are there
    arguments = ("popularity,fedavg,fedavg-start", "--tune", "--reference", "popularity")
    words = [
        "compare", str(data), "--out", str(tuned), "--variants", *arguments, "--seeds", "0",
        *QUICK,
    ]  # fmt: skip
    lines = CliRunner().invoke(app, words, catch_exceptions=False).output.splitlines()
    told = [line for line in lines if " runs" in line]
    assert [line.partition(", after")[0] for line in told] == [
        "out: 0 %, 0 of 3 runs", "out: 100 %, 3 of 3 runs",
        "out: 0 %, 0 of 2 runs", "out: 100 %, 2 of 2 runs",
    ]  # fmt: skip


def test_tuned_and_untuned_runs_cannot_be_in_one_table(
    data: Path, tuned: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"was run with --tune, this comparison is without it"):
        compared(data, tuned, "popularity")
    compared(data, tmp_path / "out", "fedavg")
    with pytest.raises(ConfigError, match=r"was run without --tune, this comparison is with it"):
        compared(data, tmp_path / "out", "fedavg", "--tune")


def test_a_table_is_tuned_on_one_seed(data: Path, tuned: Path) -> None:
    kept = ResultsFile(tuned, SMALL).read()
    base = SMALL.replace(semantic_start="none", views=RunConfig().views)
    assert compare.check_kept(kept, tuned, data, base, tuning_seed=0)
    with pytest.raises(ConfigError, match=r"was tuned on seed 0, .* begins with seed 1"):
        compare.check_kept(kept, tuned, data, base, tuning_seed=1)
