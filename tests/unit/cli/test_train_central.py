"""``lumos train-central``: which start the training has is what was asked for."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.prepare import prepare
from lumos_core.data.sample import bundled_sample
from lumos_core.errors import ConfigError
from lumos_core.learning import baselines, title_start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare(bundled_sample(), tmp_path / "data", nodes=1)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ([], "none"),
        (["--semantic-start"], "llm"),
        (["-c", "semantic-start=llm"], "llm"),
        (["-c", "semantic-start=tfidf"], "tfidf"),
        (["--semantic-start", "-c", "semantic-start=tfidf"], "tfidf"),
        (["--no-semantic-start", "-c", "semantic-start=none"], "none"),
    ],
)
def test_the_start_that_is_named_is_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], start: str
) -> None:
    class StartedError(Exception):
        pass

    def seen(config: Any, *_: Any) -> Any:
        raise StartedError(config.semantic_start)

    monkeypatch.setattr(title_start, "initial_params", seen)
    monkeypatch.setattr(baselines, "train_centralised", seen)
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["train-central", str(data), "--out", out, *options])
    assert isinstance(result.exception, StartedError), result.output
    assert str(result.exception) == start


@pytest.mark.parametrize(
    "options",
    [
        ["--semantic-start", "-c", "semantic-start=none"],
        ["--no-semantic-start", "-c", "semantic-start=llm"],
    ],
)
def test_contradictions_are_refused(data: Path, tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["train-central", str(data), "--out", str(out), *options])
    assert isinstance(result.exception, ConfigError)
    assert "contradict each other" in str(result.exception)
    assert not out.exists()
