"""One line a run: nothing of a run is lost, whoever is killed, and old folders are read on."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lumos_core.config import RunConfig
from lumos_core.errors import DataError
from lumos_core.experiments.comparison.comparison_table import comparison_table
from lumos_core.experiments.comparison.packed_ranks import unpack_ranks
from lumos_core.experiments.poisoning.attack_table import attack_table
from lumos_core.experiments.results_file import RESULTS, Result, ResultsFile, old_results
from lumos_core.learning.metrics import ranking_sums

BASE = RunConfig(rounds=3)
FACTS: dict[str, Any] = {"data": "d", "catalog": "c", "interactions": "i", "versions": {"a": "1"}}


def run(variant: str, seed: int = 0, **changes: Any) -> Result:
    config = {**BASE.without_paths(), "seed": seed, **changes}
    return {"variant": variant, "seed": seed, **FACTS, "config": config, "test": {"hr@20": 0.1},
            "curve": [], "epsilon": None}  # fmt: skip


def kept(folder: Path) -> list[Result]:
    return list(ResultsFile(folder, BASE).read().values())


def lines(folder: Path) -> list[Result]:
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def without(result: Result, *keys: str) -> Result:
    return {key: value for key, value in result.items() if key not in keys}


def test_every_run_comes_back_whole(tmp_path: Path) -> None:
    plain = run("b")
    runs = [
        run("a"),
        run("b", 7, method="fedavg", rounds=5),
        {**run("c"), "versions": {"a": "2"}, "data": "renamed"},
        without(run("d"), "versions", "interactions"),  # of an earlier LUMOS
        {**plain, "config": without(plain["config"], "rounds")},
        run("e", **{"key-of-another-lumos": 1.5}),
        {**plain, "config": {**plain["config"], "seed": 4}},
        {"variant": "f", "config": {}},
    ]
    file = ResultsFile(tmp_path, BASE)
    for result in runs:
        file.append(result)
    assert kept(tmp_path) == runs
    assert list(file.read())[:2] == [f"line 2 of {RESULTS}", f"line 3 of {RESULTS}"]


def test_a_line_holds_only_what_is_the_runs_own(tmp_path: Path) -> None:
    for result in (run("a"), run("b", 7, rounds=5)):
        ResultsFile(tmp_path, BASE).append(result)
    common, first, second = lines(tmp_path)
    assert common == {"schema": 1, **FACTS, "config": without(BASE.without_paths(), "seed")}
    assert first == {"variant": "a", "seed": 0, "overrides": {}, "test": {"hr@20": 0.1},
                     "curve": [], "epsilon": None}  # fmt: skip
    assert (second["seed"], second["overrides"]) == (7, {"rounds": 5})


def test_nothing_is_written_by_reading(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "new", BASE)
    assert file.read() == {}
    file.convert_old()
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what a kill leaves
@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_that_was_cut_off_is_left_out_and_overwritten(tmp_path: Path, cut: int) -> None:
    file = ResultsFile(tmp_path, BASE)
    file.append(run("a"))
    whole = (tmp_path / RESULTS).read_bytes()
    file.append(run("b"))
    both = (tmp_path / RESULTS).read_bytes()
    (tmp_path / RESULTS).write_bytes(both[:-cut])
    assert kept(tmp_path) == [run("a")]
    file.append(run("c"))
    assert kept(tmp_path) == [run("a"), run("c")]
    assert (tmp_path / RESULTS).read_bytes().startswith(whole)


WRITER = """
import sys
from pathlib import Path
from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.comparison_table import comparison_table
from lumos_core.experiments.poisoning.attack_table import attack_table
from lumos_core.experiments.results_file import ResultsFile
file = ResultsFile(Path(sys.argv[1]), RunConfig())
for number in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}-{number}"
    file.append({"variant": name, "seed": 0, "config": {"rounds": number}, "curve": [0.5] * 2000})
    print(name, flush=True)
"""


def _writer(folder: Path, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    written: list[str] = []
    for attempt in range(3):
        process = _writer(tmp_path, str(attempt), 10**6)
        assert process.stdout is not None
        written += [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        written += process.stdout.read().split()
        process.wait()
    names = [result["variant"] for result in kept(tmp_path)]
    assert len(set(names)) == len(names)
    assert set(written) <= set(names)
    assert len(names) <= len(written) + 3  # written, but killed before it said so


def test_two_processes_append_to_one_file(tmp_path: Path) -> None:
    processes = [_writer(tmp_path, name, 40) for name in "ab"]
    for process in processes:
        assert process.communicate()[0].count("\n") == 40
    found = kept(tmp_path)
    assert {r["variant"] for r in found} == {f"{n}-{i}" for n in "ab" for i in range(40)}
    assert len(found) == 80
    assert sum("schema" in line for line in lines(tmp_path)) == 1


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (2, "{", r"line 2: found '\{', expected a JSON object; the file is damaged"),
        (3, "[]", r"line 3: found '\[\]', expected a JSON object"),
        (1, "\x00", "line 1: found .* expected a JSON object"),
        (1, '{"schema": 2, "config": {}}', "line 1: found schema 2, expected 1 .*Update LUMOS"),
        (1, '{"schema": 1}', "line 1: found schema 1, expected 1 and the key 'config'"),
    ],
)
def test_damage_is_named_by_line(tmp_path: Path, number: int, text: str, message: str) -> None:
    for name in "ab":
        ResultsFile(tmp_path, BASE).append(run(name))
    content = (tmp_path / RESULTS).read_text().splitlines()
    content[number - 1] = text
    (tmp_path / RESULTS).write_text("\n".join(content) + "\n")
    with pytest.raises(DataError, match=message):
        kept(tmp_path)
    if number == 1:
        with pytest.raises(DataError, match=message):
            ResultsFile(tmp_path, BASE).append(run("c"))


# ---------------------------------------------------------------- earlier versions
RUNS = [run("a"), run("b", 1, rounds=5), without(run("c", 2), "interactions")]


def leave_old(folder: Path, *, files: bool, table: list[Any] | None = None) -> None:
    (folder / "runs").mkdir(parents=True)
    for result in RUNS if files else []:
        path = folder / "runs" / f"{result['variant']}-seed{result['seed']}.json"
        path.write_text(json.dumps(result, indent=2))
    if table is not None:
        (folder / "results.json").write_text(json.dumps(table, indent=2))


@pytest.mark.parametrize("files", [True, False])
def test_results_of_earlier_versions_are_read_and_taken_over(tmp_path: Path, files: bool) -> None:
    leave_old(tmp_path, files=files, table=RUNS)
    file = ResultsFile(tmp_path, BASE)
    names = ["a-seed0.json", "b-seed1.json", "c-seed2.json"]
    if not files:
        names = [f"run {number} of results.json" for number in (1, 2, 3)]
    assert list(file.read()) == names
    assert kept(tmp_path) == RUNS
    assert not file.path.exists()
    file.convert_old()
    assert kept(tmp_path) == RUNS
    assert old_results(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == [RESULTS]
    content = file.path.read_bytes()
    file.convert_old()
    assert file.path.read_bytes() == content


def test_what_is_common_is_what_most_runs_have(tmp_path: Path) -> None:
    table = [{**run("a"), "data": "renamed"}, run("b"), run("c")]
    leave_old(tmp_path, files=False, table=table)
    ResultsFile(tmp_path, BASE).convert_old()
    assert [line.get("data") for line in lines(tmp_path)] == ["d", "renamed", None, None]
    assert kept(tmp_path) == table


def test_files_that_hold_more_than_was_taken_over_stay(tmp_path: Path) -> None:
    leave_old(tmp_path, files=True, table=[*RUNS, run("only here")])
    (tmp_path / "runs" / "d-seed0.json").write_text("{")
    ResultsFile(tmp_path, BASE).convert_old()
    assert kept(tmp_path) == RUNS
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["d-seed0.json"]
    assert len(json.loads((tmp_path / "results.json").read_text())) == 4


def test_a_run_that_is_added_first_does_not_hide_old_ones(tmp_path: Path) -> None:
    leave_old(tmp_path, files=True)
    ResultsFile(tmp_path, BASE).append(run("new"))
    assert kept(tmp_path) == [*RUNS, run("new")]


def test_what_a_killed_conversion_left_is_not_read_twice(tmp_path: Path) -> None:
    leave_old(tmp_path, files=True)
    ResultsFile(tmp_path, BASE).convert_old()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a-seed0.json").write_text(json.dumps(RUNS[0]))
    ResultsFile(tmp_path, BASE).append(run("new"))
    assert kept(tmp_path) == [*RUNS, run("new")]


# ---------------------------------------------------------------- what is published
ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs" / "results"
FOLDERS = sorted(path.parent.name for path in PUBLISHED.glob("*/table.md"))
only_published = pytest.mark.skipif(not FOLDERS, reason="a source distribution has no results")


@pytest.mark.parametrize("folder", FOLDERS)
def test_published_tables_follow_from_published_runs(folder: str) -> None:
    runs = kept(PUBLISHED / folder)
    table = (PUBLISHED / folder / "table.md").read_text()
    if "variant" in runs[0]:
        reference = table.partition("HR@20 vs ")[2].partition(" |")[0]
        assert comparison_table(runs, reference) == table
    else:
        assert attack_table(runs) == table


@only_published
def test_every_published_suite_has_its_table() -> None:
    assert sorted(path.parent.name for path in PUBLISHED.glob(f"*/{RESULTS}")) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_published_metrics_follow_from_published_ranks(folder: str) -> None:
    for result in kept(PUBLISHED / folder):
        for split, packed in result.get("ranks", {}).items():
            sums = ranking_sums(unpack_ranks(packed))
            for metric in sums.keys() - {"users", "mrr"}:
                assert result[split][metric] == pytest.approx(sums[metric] / sums["users"])


def tables_of(text: str) -> list[list[str]]:
    """The Markdown tables of a text that `lumos compare` writes, as lines."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ours = re.compile(r"\| (variant \| seeds|part \| of|HR@20 (by|of) [a-z ]+|cost of a run) \|")
    return [block.splitlines() for block in blocks if ours.match(block)]


def strangers(text: str, *, whole: bool) -> list[list[str]]:
    """Tables of a document that no committed table.md has.

    Args:
        whole: all rows are asked for, in their order; otherwise a part of them will do.
    """
    texts = [(PUBLISHED / folder / "table.md").read_text() for folder in FOLDERS]
    committed = [table for text_of_folder in texts for table in tables_of(text_of_folder)]

    def known(table: list[str]) -> bool:
        if whole:
            return table in committed
        return any(table[:2] == other[:2] and set(table) <= set(other) for other in committed)

    return [table for table in tables_of(text) if not known(table)]


@only_published
@pytest.mark.parametrize(("name", "whole"), [("docs/results.md", True), ("README.md", False)])
def test_tables_in_documents_are_those_of_committed_runs(name: str, whole: bool) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert strangers(text, whole=whole) == []


@only_published
@pytest.mark.parametrize("whole", [True, False])
def test_a_number_that_no_run_gave_is_found(whole: bool) -> None:
    text = (PUBLISHED / "office" / "table.md").read_text()
    assert tables_of(text)
    assert strangers(text, whole=whole) == []
    row = text.splitlines()[2]
    forged = text.replace(row, row.replace(" 0.", " 0.9"))
    assert len(strangers(forged, whole=whole)) == 1
    assert bool(strangers(text.replace(row + "\n", ""), whole=whole)) == whole
