"""`lumos status` for a series of runs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment.supervision import alone
from lumos_core.runs.series_file import SERIES, Night, SeriesFile

GOOD = Night(
    name="20260310-020000", begun="2026-03-10T02:00:00+00:00", ended="2026-03-10T02:40:00+00:00",
    outcome="completed", rounds=20, best_round=18, before=0.1234, after=0.1567, promoted=True,
)  # fmt: skip
BAD = Night(
    name="20260311-020000", begun="2026-03-11T02:00:00+00:00", ended="2026-03-11T03:00:00+00:00",
    outcome="failed", reason="2 usable nodes after start-timeout = 3600 s",
)  # fmt: skip


def status(folder: Path, *nights: Night, **facts: object) -> tuple[int, str]:
    file = SeriesFile(
        timetable="every day at 02:00", nights=nights, number=len(nights), model=GOOD.name
    )
    file.model_copy(update=facts).write(folder / SERIES)
    found = CliRunner().invoke(app, ["status", str(folder)], env={"COLUMNS": "160"})
    return found.exit_code, found.output


def test_nights_and_the_model_in_use(tmp_path: Path) -> None:
    with alone(tmp_path, "test"):
        code, text = status(tmp_path, GOOD, next="2026-03-11T02:00:00+00:00")
    assert code == 0
    assert "series, every day at 02:00: 1 nights" in text
    assert "the next night begins at 2026-03-11 02:00 UTC" in text
    assert "model in use: that of 20260310-020000" in text
    assert "0.1234" in text
    assert "0.1567" in text


def test_a_failed_night_is_named_with_its_reason(tmp_path: Path) -> None:
    with alone(tmp_path, "test"):
        code, text = status(tmp_path, GOOD, BAD)
    assert code == 1
    assert "20260311-020000 failed: 2 usable nodes after start-timeout = 3600 s" in text


def test_a_series_that_nobody_does_needs_a_look(tmp_path: Path) -> None:
    code, text = status(tmp_path, GOOD)
    assert code == 1
    assert "no server does it at the moment; the same command goes on with it" in text


def test_a_series_that_has_ended_says_why(tmp_path: Path) -> None:
    code, text = status(tmp_path, GOOD, ended="privacy: ε of all nights is 3", epsilon=3.0)
    assert code == 0
    assert "ended: privacy: ε of all nights is 3" in text
    assert "ε of all nights together: 3" in text


def test_as_json(tmp_path: Path) -> None:
    status(tmp_path, GOOD, BAD)
    found = CliRunner().invoke(app, ["status", str(tmp_path), "--json"])
    assert [night["outcome"] for night in json.loads(found.output)["nights"]] == [
        "completed",
        "failed",
    ]


@pytest.mark.parametrize("content", ["{", '{"nights": 3}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / SERIES).write_text(content)
    found = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert found.exit_code != 0
    assert "restore it from a copy" in str(found.exception) + found.output
