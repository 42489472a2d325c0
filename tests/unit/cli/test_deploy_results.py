"""How ``lumos deploy server`` ends."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lumos_core.cli import deploy
from lumos_core.cli.app import app
from lumos_core.runs.summary import RunSummary


@pytest.mark.parametrize(
    "words", [["--nights", "3"], ["--keep", "2"], ["--series", "s"], ["--series-epsilon", "8"]]
)
def test_options_of_a_series_need_a_timetable(tmp_path: Path, words: list[str]) -> None:
    server = ["deploy", "server", str(tmp_path), "--catalog", str(tmp_path / "catalog.tsv")]
    found = CliRunner().invoke(app, [*server, *words])
    assert f"{words[0]}: is of a series of runs; add --every or --at" in str(found.exception)


METRICS = {"hr@10": 0.1, "hr@20": 0.2, "ndcg@20": 0.05, "mrr": 0.04}


@pytest.mark.parametrize("reason", ["", "the budget is spent"])
def test_a_run_ends_with_its_results_and_a_report(tmp_path: Path, reason: str) -> None:
    summary = RunSummary(
        outcome="completed", reason=reason, rounds=3, best_round=2, method="fedavg", test=METRICS
    )
    (tmp_path / "history.jsonl").touch()
    console = Console(file=io.StringIO(), soft_wrap=True, width=100)
    deploy._print_results(console, tmp_path, summary)
    lines = console.file.getvalue().splitlines()
    [row] = [line for line in lines if "federated fedavg" in line]
    for value in METRICS.values():
        assert f"{value:.4f}" in row
    assert "centralised" not in "".join(lines)  # nobody has all data
    assert lines[-1].startswith("completed; round 2 is best, test HR@20 0.2000")
    assert any("ended early" in line for line in lines) == bool(reason)
    assert "federated fedavg" in (tmp_path / "report.md").read_text()
