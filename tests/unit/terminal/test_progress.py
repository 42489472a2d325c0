"""Progress: bars where lines can be rewritten, whole lines with the same words elsewhere."""

import io
import re
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from lumos_core.terminal.progress import STILL_SECONDS, Progress, Task, duration


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_task(clock: Clock, total: int | None = 100) -> Task:
    return Task("views", total, "users", "", lambda task: None, clock)


def lines_of(file: io.StringIO) -> list[str]:
    return file.getvalue().splitlines()


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


class TestTask:
    def test_the_pace_counts_from_the_first_units_on(self) -> None:
        clock = Clock()
        task = make_task(clock)
        clock.now += 1000  # loading
        task.update(20)
        assert task.seconds_left is None  # nothing to tell a pace from
        clock.now += 10
        task.update(30)
        assert task.seconds_left == pytest.approx(70)

    def test_the_estimate_goes_down_between_updates(self) -> None:
        clock = Clock()
        task = make_task(clock)
        task.update(10)
        clock.now += 10
        task.update(20)
        clock.now += 30
        assert task.seconds_left == pytest.approx(50)
        clock.now += 1000
        assert task.seconds_left == 0

    def test_the_estimate_follows_a_change_of_pace(self) -> None:
        clock = Clock()
        task = make_task(clock, total=10_000)
        for done in range(100, 1100, 100):  # 100 a second
            clock.now += 1
            task.update(done)
        for done in range(1001, 1200):  # 1 a second, for long
            clock.now += 1
            task.update(done)
        assert task.seconds_left == pytest.approx(10_000 - 1199, rel=0.05)

    def test_what_was_found_done_is_no_pace(self) -> None:
        task = make_task(Clock())
        task.update(90)
        task.update(91)
        assert task.seconds_left is None

    @pytest.mark.parametrize(
        ("total", "done", "told"),
        [
            (None, 0, ""),
            (None, 1234, "1,234 users"),
            (3000, 0, "0 %, 0 of 3,000 users"),
            (3000, 2999, "99 %, 2,999 of 3,000 users"),
            (0, 0, "after 0 s"),
        ],
    )
    def test_what_is_told(self, total: int | None, done: int, told: str) -> None:
        task = make_task(Clock(), total)
        task.update(done)
        assert task.told() == told

    def test_the_time_of_a_finished_task_stands_still(self) -> None:
        clock = Clock()
        task = make_task(clock)
        clock.now += 65
        task.update(100, note="708 written")
        clock.now += 100
        assert task.told() == "100 %, 100 of 100 users, after 1 min 05 s, 708 written"


class TestLines:
    def test_a_file_gets_whole_lines_without_control_characters(self, file: io.StringIO) -> None:
        with Progress(Console(file=file, width=20)) as progress:
            task = progress.task("views of [node-0]", total=2, unit="users", note="loading")
            task.advance(2)
        assert lines_of(file)[0] == "views of [node-0]: 0 %, 0 of 2 users, loading"
        assert lines_of(file)[1].startswith("views of [node-0]: 100 %, 2 of 2 users, after 0 s")
        assert len(lines_of(file)) == 2
        assert "\x1b" not in file.getvalue()

    def test_forced_colours_do_not_bring_bars_into_a_file(
        self, file: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert not Progress(Console(file=file)).live

    def test_no_more_than_a_line_every_few_seconds(self, file: io.StringIO) -> None:
        clock = Clock()
        with Progress(Console(file=file), line_seconds=1000, clock=clock) as progress:
            task = progress.task("rows", total=5000)
            for _ in range(4999):
                task.advance()
                clock.now += 1
            task.advance()
        assert len(lines_of(file)) == 1 + 4 + 1

    def test_a_task_that_stands_still_is_told_of(self, file: io.StringIO) -> None:
        clock = Clock()
        with Progress(Console(file=file), line_seconds=0.01, clock=clock) as progress:
            progress.task("model", note="loading")
            clock.now += STILL_SECONDS
            wait_for(lambda: len(lines_of(file)) > 1)
        assert lines_of(file) == ["model: loading", "model: for 20 s, loading"]

    def test_an_end_before_the_end_leaves_the_last_state(self, file: io.StringIO) -> None:
        def interrupted() -> None:
            with Progress(Console(file=file), line_seconds=1000) as progress:
                progress.task("rows", total=10).update(7)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert lines_of(file)[-1] == "rows: 70 %, 7 of 10"
        assert "progress" not in [thread.name for thread in threading.enumerate()]

    def test_updates_after_the_end_say_nothing(self, file: io.StringIO) -> None:
        with Progress(Console(file=file)) as progress:
            task = progress.task("rows", total=1)
            task.update(1)
            task.update(1, note="again")
        assert len(lines_of(file)) == 2


class TestBars:
    @pytest.mark.parametrize("width", [40, 80])
    def test_a_terminal_says_the_same_in_one_line_a_task(
        self, file: io.StringIO, width: int
    ) -> None:
        console = Console(file=file, width=width, force_terminal=True)
        with Progress(console, live=True) as progress:
            task = progress.task("[node-0]", unit="users", note="loading")
            task.update(7, total=10)
        last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).splitlines()[-1]
        assert last.startswith("[node-0]")
        assert "70 %" in last
        assert len(last) <= width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.7, "1 min 00 s"), (80, "1 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
