"""The job runner: results are kept as they come, and what is kept is not run again."""

import json
import time
from pathlib import Path

import pytest

from lumos_core.config import RunConfig
from lumos_core.data.prepare import prepare
from lumos_core.experiments.comparison.compare import VariantRun
from lumos_core.experiments.jobs import find_results, library_versions, run_job, run_jobs
from lumos_core.experiments.results_file import RESULTS, Result, ResultsFile

CONFIG = RunConfig(rounds=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight users, eight items, two nodes."""
    folder = tmp_path_factory.mktemp("jobs")
    rows = [f"u{u}\ti{(u + t) % 8}\t{t}" for u in range(8) for t in range(6)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing {i}" for i in range(8)]
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(folder, folder / "out", nodes=2, seed=0, k_core=0)
    return folder / "out"


def jobs(data: Path, count: int) -> list[VariantRun]:
    """Quick ones: nothing is trained."""
    return [VariantRun(data, CONFIG.replace(seed=seed), "popularity") for seed in range(count)]


def test_a_result_says_what_it_depends_on(data: Path) -> None:
    (job,) = jobs(data, 1)
    result = run_job(job)
    assert result["versions"] == library_versions()
    assert {"python", "lumos", "torch", "numpy"} <= set(result["versions"])
    assert (result["data"], result["nodes"], result["users"]) == ("out", 2, 8)
    assert result["seconds"] >= 0
    assert result["cpu_seconds"] >= 0
    assert find_results([job], [result]) == [result]


def test_all_runs_are_kept_and_only_missing_ones_are_done(data: Path, tmp_path: Path) -> None:
    file = ResultsFile(tmp_path, CONFIG)
    seen: list[tuple[int, bool]] = []

    def on_result(result: Result, found: bool) -> None:
        seen.append((result["seed"], found))

    planned = jobs(data, 4)
    for job in planned[:2]:
        file.append(run_job(job))
    results = run_jobs(planned, file, 2, on_result)
    assert seen[:2] == [(0, True), (1, True)]
    assert sorted(seen[2:]) == [(2, False), (3, False)]
    assert results == list(file.read().values())


def test_an_interrupted_suite_keeps_what_has_finished(data: Path, tmp_path: Path) -> None:
    file = ResultsFile(tmp_path, CONFIG)
    seen: list[int] = []

    def interrupt(result: Result, found: bool) -> None:
        seen.append(result["seed"])
        time.sleep(1.0)  # meanwhile others finish
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(data, 3000), file, 1, interrupt)
    assert len(seen) == 1
    kept = [result["seed"] for result in file.read().values()]
    assert kept[0] == seen[0]
    assert 1 < len(kept) == len(set(kept)) < 3000


def test_a_folder_of_an_earlier_version_is_resumed(data: Path, tmp_path: Path) -> None:
    planned = jobs(data, 2)
    old = run_job(planned[0])
    path = tmp_path / "runs" / "popularity-seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(old))
    seen: list[bool] = []
    file = ResultsFile(tmp_path, CONFIG)
    results = run_jobs(planned, file, 1, lambda result, found: seen.append(found))
    assert seen == [True, False]
    assert results == list(file.read().values())
    assert results[0] == old
    assert (tmp_path / RESULTS).exists()
    assert not path.exists()
