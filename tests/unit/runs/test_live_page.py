import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from page_histories import history

from lumos_core.errors import DataError
from lumos_core.pages.page import render_live
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import HISTORY
from lumos_core.runs.live_page import live_snapshot
from lumos_core.runs.lock import only_server
from lumos_core.runs.saved_config import CONFIG, SavedConfig

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    write(tmp_path, history(4))
    SavedConfig(run={"method": "lumos", "rounds": 20}, nodes={}).write(tmp_path / CONFIG)
    Attendance(
        round=5, asked=(NOW - timedelta(seconds=40)).isoformat(),
        closes=(NOW + timedelta(seconds=20)).isoformat(), waiting=["node-2"],
        answered={"node-0": 4.0, "node-1": 5.0}, refused={"node-3": "error 'bad-data'"},
    ).write(tmp_path / ATTENDANCE)  # fmt: skip
    return tmp_path


def write(folder: Path, events: list[dict[str, object]]) -> None:
    (folder / HISTORY).write_text("".join(json.dumps(event) + "\n" for event in events))


def now_of(folder: Path) -> list[str]:
    section = next(s for s in live_snapshot(folder, NOW).page.sections if s.key == "now")
    return [item.what for item in section.blocks[0].items]


def test_a_running_run_names_the_late_and_the_refused(run_dir: Path) -> None:
    with only_server(run_dir):
        assert now_of(run_dir) == [
            "node-2 has been silent for 40 s; the round closes in 20 s.",
            "node-3 was refused: error 'bad-data'.",
        ]
        shown = live_snapshot(run_dir, NOW)
    page = shown.page
    assert page.title == "lumos, round 4 of 20"
    assert page.lead.startswith("The run is going on: 4 of 20 rounds are done. About 40 s are left")
    text = render_live(shown, "run")
    assert "node-2 has been silent for 40 s; the round closes in 20 s." in text


def test_a_stopped_run_waits_for_nobody(run_dir: Path) -> None:
    assert now_of(run_dir) == ["The server has stopped, and the run is not complete."]
    assert live_snapshot(run_dir, NOW).announcement == "The run is stopped."


def test_the_announcement_has_no_seconds(run_dir: Path) -> None:
    with only_server(run_dir):
        assert live_snapshot(run_dir, NOW).announcement == "The run is running. Late: node-2."


def test_where_each_client_is_one_user_nobody_is_named(run_dir: Path) -> None:
    events = history(4)
    for event in events:
        event["users"] = event.get("nodes_ok", 3)
    write(run_dir, events)
    with only_server(run_dir):
        assert "node-" not in render_live(live_snapshot(run_dir, NOW), "run")


def test_a_run_without_the_file_is_shown_as_well(run_dir: Path) -> None:
    (run_dir / ATTENDANCE).unlink()
    with only_server(run_dir):
        assert now_of(run_dir) == ["All is well: nobody is late, and nobody is refused."]
    (run_dir / ATTENDANCE).write_text("{ damaged")
    assert now_of(run_dir) == ["The server has stopped, and the run is not complete."]


def test_views_before_the_first_round(run_dir: Path) -> None:
    told = {"event": "views", "round": 0, "time": "", "seconds_left": 80.0, "complete": False}
    write(run_dir, [{**told, "node": "node-0", "percent": 45, "done": False}])
    page = live_snapshot(run_dir, NOW).page
    [table] = next(s for s in page.sections if s.key == "preparing").blocks
    assert [cell if isinstance(cell, str) else cell.text for cell in table.rows[0]] == [
        "node-0", "45 %", "1 min 20 s",
    ]  # fmt: skip


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of a run"):
        live_snapshot(tmp_path)
