import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from page_histories import history

from lumos_core.pages.page import render_live
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import HISTORY
from lumos_core.runs.lock import only_server
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.series_file import RUNS, SERIES, Night, SeriesFile
from lumos_core.runs.series_page import FAILED, SHOWN, series_snapshot

NOW = datetime(2026, 3, 12, 2, 10, tzinfo=UTC)
GOOD = Night(
    name="20260310-020000", begun="2026-03-10T02:00:00+00:00", ended="2026-03-10T02:40:00+00:00",
    outcome="completed", rounds=20, best_round=18, before=0.1234, after=0.1567, promoted=True,
)  # fmt: skip
BAD = Night(
    name="20260311-020000", begun="2026-03-11T02:00:00+00:00", ended="2026-03-11T03:00:00+00:00",
    outcome="failed", reason="privacy budget: <b>epsilon</b> is 3",
)  # fmt: skip
TONIGHT = Night(name="20260312-020000", begun="2026-03-12T02:00:00+00:00")


def series(folder: Path, *nights: Night, **facts: object) -> Path:
    file = SeriesFile(
        timetable="every day at 02:00", nights=nights, number=len(nights), model=GOOD.name
    )
    file.model_copy(update=facts).write(folder / SERIES)
    return folder


def blocks(shown, key):
    return next(s.blocks for s in shown.page.sections if s.key == key)


def test_between_nights_it_says_when_the_next_begins(tmp_path: Path) -> None:
    folder = series(tmp_path, GOOD, BAD, next="2026-03-12T02:00:00+00:00", epsilon=3.0)
    shown = series_snapshot(folder, True, NOW)
    assert shown.page.lead == "The next night begins at 2026-03-12 02:00 UTC."
    assert shown.page.tone == "good"
    chart, table = blocks(shown, "nights")
    assert [name for _, name in chart.charts[0].legend] == ["before", "after"]
    assert [row[1] for row in table.rows] == ["failed", "completed"]
    assert table.rows[1][-1] == "in use since then"
    [findings] = blocks(shown, "failed-nights")
    assert findings.items[0].what.startswith("20260311-020000 failed: privacy budget")
    assert "max-epsilon" in findings.items[0].advice
    assert "&lt;b&gt;epsilon" in render_live(shown, "series")


def test_a_series_that_nobody_does_or_that_is_over(tmp_path: Path) -> None:
    shown = series_snapshot(series(tmp_path, GOOD, TONIGHT), False, NOW)
    assert shown.page.lead.startswith("No server does this series at the moment")
    assert shown.page.tone == "bad"
    over = series(tmp_path, GOOD, ended="ε of all nights is 3")
    assert series_snapshot(over, False, NOW).page.lead == (
        "The series is over: ε of all nights is 3."
    )


def test_while_a_night_runs_its_late_node_is_named_first(tmp_path: Path) -> None:
    folder = series(tmp_path, GOOD, TONIGHT)
    assert "A night is running" in series_snapshot(folder, True, NOW).page.lead  # nothing there yet
    night = folder / RUNS / TONIGHT.name
    night.mkdir(parents=True)
    (night / HISTORY).write_text("".join(json.dumps(event) + "\n" for event in history(4)))
    SavedConfig(run={"method": "lumos", "rounds": 20}, nodes={}).write(night / CONFIG)
    Attendance(
        round=5, asked=(NOW - timedelta(seconds=40)).isoformat(),
        closes=(NOW + timedelta(seconds=20)).isoformat(), waiting=["node-2"],
        answered={"node-0": 4.0},
    ).write(night / ATTENDANCE)  # fmt: skip
    with only_server(night):
        shown = series_snapshot(folder, True, NOW)
    tonight = shown.page.sections[0]
    assert tonight.title == "Tonight"
    assert [item.what for item in tonight.blocks[0].items] == [
        "node-2 has been silent for 40 s; the round closes in 20 s."
    ]
    assert "4 of 20 rounds are done" in shown.page.lead
    assert {section.key for section in shown.page.sections} >= {"now", "nights", "curves", "nodes"}
    assert shown.announcement == "The run is running. Late: node-2."


def test_long_series_are_folded_and_counted(tmp_path: Path) -> None:
    many = [BAD.model_copy(update={"name": f"night-{n}"}) for n in range(30)]
    shown = series_snapshot(series(tmp_path, *many), True, NOW)
    first, more = blocks(shown, "nights")  # no chart: no night has a result
    assert (len(first.rows), len(more.rows), more.folded) == (SHOWN, 30 - SHOWN, True)
    [findings] = blocks(shown, "failed-nights")
    assert len(findings.items) == FAILED + 1
    assert findings.items[-1].what == f"And {30 - FAILED} more."
