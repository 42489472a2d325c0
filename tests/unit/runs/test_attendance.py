import time
from datetime import datetime
from pathlib import Path

import pytest

from lumos_core.runs import attendance
from lumos_core.runs.attendance import ATTENDANCE, Attendance, AttendanceBook


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "WRITE_SECONDS", 0.01)


def eventually(path: Path, **facts: object) -> Attendance:
    """The file, as soon as it says this."""
    for _ in range(500):
        found = Attendance.read_if_there(path)
        if found and all(getattr(found, key) == value for key, value in facts.items()):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{found}, expected {facts}")


def test_it_says_who_was_asked_until_when_and_who_has_answered(tmp_path: Path) -> None:
    path = tmp_path / ATTENDANCE
    with AttendanceBook(path).kept() as book:
        book.ask(3, ["node-2", "node-1"], 60.0)
        found = eventually(path, round=3, waiting=["node-1", "node-2"])
        times = [datetime.fromisoformat(text) for text in (found.asked, found.closes)]
        assert (times[1] - times[0]).total_seconds() == 60.0
        book.answer("node-1")
        book.answer("nobody")
        found = eventually(path, waiting=["node-2"])
        assert list(found.answered) == ["node-1"]
        assert found.answered["node-1"] >= 0


def test_the_next_question_begins_anew_and_refusals_stay(tmp_path: Path) -> None:
    path = tmp_path / ATTENDANCE
    with AttendanceBook(path).kept() as book:
        book.refuse({"node-9": "its catalog is another"})
        book.ask(1, ["node-1"], 60.0)
        book.answer("node-1")
        book.ask(2, ["node-1"], 60.0)
        found = eventually(path, round=2, waiting=["node-1"], answered={})
        assert found.refused == {"node-9": "its catalog is another"}
        book.refuse({})
        eventually(path, refused={})


def test_in_the_end_nobody_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ATTENDANCE
    with AttendanceBook(path).kept() as book:
        book.ask(1, ["node-1"], 60.0)
        book.refuse({"node-9": "why"})
    found = Attendance.read(path)
    assert (found.waiting, found.asked, found.refused) == ([], "", {"node-9": "why"})


def test_a_file_that_cannot_be_written_does_not_disturb_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with AttendanceBook(blocked / ATTENDANCE).kept() as book:
        for number in range(5):
            book.ask(number, ["node-1"], 60.0)
            time.sleep(0.02)
    assert len([r for r in caplog.records if "cannot be written" in r.getMessage()]) == 1
