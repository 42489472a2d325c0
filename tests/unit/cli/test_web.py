"""``lumos status --web``, as a process: it prints its address, answers there and ends on Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from page_histories import history
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.cli.web import watching
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import HISTORY
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.series_file import SERIES, SeriesFile

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / HISTORY).write_text("".join(json.dumps(event) + "\n" for event in history(4)))
    SavedConfig(run={"method": "lumos", "rounds": 20}, nodes={}).write(tmp_path / CONFIG)
    return tmp_path


def text_at(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as response:
        return str(response.read().decode())


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lumos_core", "status", *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()[0]
    finally:
        process.kill()
        process.wait()


def test_it_prints_its_address_answers_there_and_ends_on_ctrl_c(run_dir: Path) -> None:
    with started(str(run_dir), "--web", "--port", "0") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert "lumos, round 4 of 20" in text_at(address)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_what_is_no_run_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["status", str(tmp_path), "--web", "--port", "0"])
    assert found.exit_code == 1
    assert "expected the folder of a run" in str(found.exception)


def test_the_terminal_names_refused_nodes_as_well(run_dir: Path) -> None:
    Attendance(refused={"node-9": "error 'bad-data'"}).write(run_dir / ATTENDANCE)
    shown = CliRunner().invoke(app, ["status", str(run_dir)], env={"COLUMNS": "160"}).output
    assert "node-9" in shown
    assert "lumos node check" in shown
    told = json.loads(CliRunner().invoke(app, ["status", str(run_dir), "--json"]).output)
    assert told["refused"] == {"node-9": "error 'bad-data'"}


def test_a_run_that_has_not_begun_fills_its_page_later(run_dir: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    with watching(later, "127.0.0.1", 0) as address:
        assert "The run is starting" in text_at(address)
    (run_dir / HISTORY).rename(run_dir / "kept")
    with watching(run_dir, "127.0.0.1", 0) as address:
        assert "round 0 of 20" in text_at(address)
    (run_dir / "kept").rename(run_dir / HISTORY)
    with watching(run_dir, "127.0.0.1", 0) as address:
        assert "round 4 of 20" in text_at(address)


def test_a_series_is_shown_as_well(tmp_path: Path) -> None:
    SeriesFile(timetable="every day at 02:00").write(tmp_path / SERIES)
    with watching(tmp_path, "127.0.0.1", 0) as address:
        assert "every day at 02:00" in text_at(address)
