"""``lumos llm check``: the model is loaded, timed and asked for one customer's views."""

from pathlib import Path

import pytest
from tiny_llm import save_tiny_llm
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.views.llm.find import folder_size
from lumos_core.views.llm_check import check_llm, example


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))


def test_the_example_is_a_history_in_a_small_part_of_the_sample() -> None:
    catalog, history = example()
    assert 160 <= len(catalog) < 200
    assert len(history) == 8
    assert all(1 <= item <= len(catalog) for item in history)


def test_the_report_is_about_the_model_that_was_asked_for(folder: Path) -> None:
    report = check_llm(RunConfig(llm=str(folder)))
    assert report.parameters == folder_size(folder)
    assert report.weight_bytes >= 2 * report.parameters
    assert report.tokens_per_second > 0
    assert report.mode == "score"  # a small model judges items, it does not write
    for view in report.views:
        assert view
        assert all(1 <= item <= len(report.catalog) for item in view)


def test_the_command_shows_speed_and_all_three_views(folder: Path) -> None:
    result = CliRunner().invoke(app, ["llm", "check", "--llm", str(folder)])
    assert result.exit_code == 0, result.output
    for word in ("tokens", "history", "future", "paraphrase", "counterfactual"):
        assert word in result.output
