"""Progress of long work: bars on a terminal, a line every few seconds in a file.

    with Progress(console) as progress:
        task = progress.task("views of node-0", total=708, unit="users", note="loading the model")
        for batch in batches:
            ...
            task.advance(len(batch))

A terminal shows one moving line per task. Anything else – a file, a pipe, the log of a CI job –
gets whole lines: one when a task begins, one every few seconds while it runs, one when it is done.
A thread prints the lines, so that they appear even during a step that takes a minute.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lumos_core.terminal import interrupts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, TaskID

LINE_SECONDS = 5.0
"""Seconds between two lines about a task that advances."""
STILL_SECONDS = 20.0
"""Seconds between two lines about a task that does not advance."""
PERCENT = "%"
"""The unit of work whose progress is known only as a share."""
_WINDOW = 60.0  # seconds of the past that an estimate uses: work may get slower or faster
_BAR_WIDTH = 20
_NARROW = 70  # a terminal with fewer columns has no room for bars beside the text


class Task:
    """One piece of work; made by :meth:`Progress.task`. May be updated from any thread."""

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        note: str,
        on_update: Callable[["Task"], None],
        clock: Callable[[], float],
    ) -> None:
        self.name, self.total, self.unit, self.note = name, total, unit, note
        self.done = 0
        self._on_update, self._clock = on_update, clock
        self._began = clock()
        self._ended: float | None = None
        self._seen: deque[tuple[float, int]] = deque()

    def update(
        self, done: int | None = None, *, total: int | None = None, note: str | None = None
    ) -> None:
        """Set the state of the work; arguments that are left out do not change it.

        Args:
            done: units finished, including those of an earlier call of the program.
            total: units in all, once they are known.
            note: the current step, such as "loading the model".
        """
        if total is not None:
            self.total = total
        if note is not None:
            self.note = note
        if done is not None and done != self.done:
            self.done = done
            self._remember()
        if self.finished and self._ended is None:
            self._ended = self._clock()
        self._on_update(self)

    def advance(self, units: int = 1) -> None:
        """Add finished units."""
        self.update(self.done + units)

    @property
    def finished(self) -> bool:
        """Whether the total is known and all of it is done."""
        return self.total is not None and self.done >= self.total

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace of the last minute; None while there is no estimate.

        There is none for percentages, which are too coarse. The pace is measured from the first
        finished units on, so that neither the time to load a model nor units that were done before
        distort it.
        """
        if self.total is None or len(self._seen) < 2 or self.finished or self.unit == PERCENT:
            return None
        (first_time, first_done), (last_time, last_done) = self._seen[0], self._seen[-1]
        if last_done <= first_done or last_time <= first_time:
            return None
        pace = (last_done - first_done) / (last_time - first_time)
        return max(0.0, (self.total - last_done) / pace - (self._clock() - last_time))

    def told(self) -> str:
        """``42 %, 300 of 708 users, 1 min 20 s left, loading``: all but the name."""
        passed = (self._clock() if self._ended is None else self._ended) - self._began
        parts = []
        if self.total:
            parts.append(f"{int(100 * self.done / self.total)} %")
        if self.total and self.unit != PERCENT:
            parts.append(f"{self.done:,} of {self.total:,} {self.unit}".rstrip())
        elif self.done and not self.total:
            parts.append(f"{self.done:,} {self.unit}".rstrip())
        left = self.seconds_left
        if left is not None:
            parts.append(f"{duration(left)} left")
        elif self.finished:
            parts.append(f"after {duration(passed)}")
        elif passed >= 1:
            parts.append(f"for {duration(passed)}")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _remember(self) -> None:
        now = self._clock()
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and self._seen[0][0] < now - _WINDOW:
            self._seen.popleft()


class Progress:
    """Shows tasks while it is entered; see the module's example.

    Args:
        console: where tasks are shown; standard output by default. Other lines may be printed to it
            at the same time.
        live: whether the console is a terminal on which lines can be rewritten; detected by
            default.
        line_seconds: seconds between two lines about a task, if it is not such a terminal.
        clock: replaced in tests.
    """

    def __init__(
        self,
        console: "Console | None" = None,
        *,
        live: bool | None = None,
        line_seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        console = console or Console()
        self._clock = clock
        # with FORCE_COLOR, rich treats a file as a terminal; bars make no sense in a file
        self.live = console.is_interactive and console.file.isatty() if live is None else live
        self._display = _Bars(console) if self.live else _Lines(console, line_seconds, clock)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._display)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def task(self, name: str, total: int | None = None, unit: str = "", note: str = "") -> Task:
        """Begin a task.

        Args:
            name: shown first.
            total: units of work, None if that is not known yet.
            unit: the unit in the plural: "users", "rows".
            note: the current step.
        """
        task = Task(name, total, unit, note, self._display.updated, self._clock)
        self._display.add(task)
        return task


class _Bars:
    """On a terminal: one moving line per task."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        name = TextColumn("{task.description}", markup=False)
        bar = [BarColumn(_BAR_WIDTH)] if console.width >= _NARROW else []
        self._bars = Bars(name, *bar, _text_column(), console=console)
        self._ids: dict[Task, TaskID] = {}

    def __enter__(self) -> Self:
        with interrupts.held():
            self._bars.start()  # a thread
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def add(self, task: Task) -> None:
        """Show the task below the others."""
        self._ids[task] = self._bars.add_task(task.name, total=task.total, source=task)

    def updated(self, task: Task) -> None:
        """Move the task's bar; its text is computed at each refresh."""
        self._bars.update(self._ids[task], total=task.total, completed=task.done)


def _text_column() -> "ProgressColumn":
    from rich.progress import ProgressColumn
    from rich.progress import Task as Bar
    from rich.table import Column
    from rich.text import Text

    class TaskText(ProgressColumn):
        """The text of :meth:`Task.told`, so that terminals and files show the same."""

        def render(self, task: Bar) -> Text:
            return Text(task.fields["source"].told())

    return TaskText(table_column=Column(no_wrap=True, overflow="ellipsis"))


class _Lines:
    """Elsewhere: whole lines, printed by a thread."""

    def __init__(self, console: "Console", seconds: float, clock: Callable[[], float]) -> None:
        self._console, self._seconds, self._clock = console, seconds, clock
        self._tasks: dict[Task, tuple[float, int, str]] = {}  # time and state of the last line
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        with interrupts.held():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            for task in list(self._tasks):
                if self._changed(task):
                    self._say(task)

    def add(self, task: Task) -> None:
        """Print that the task begins."""
        with self._lock:
            self._say(task)

    def updated(self, task: Task) -> None:
        """Print a line if one is due: at once if the task is done, else every few seconds."""
        with self._lock:
            if task not in self._tasks:  # its last line has been printed
                return
            if task.finished or self._due(task, self._seconds):
                self._say(task)

    def _tick(self) -> None:
        while not self._over.wait(self._seconds / 5):
            with self._lock:
                for task in list(self._tasks):
                    wait = self._seconds if self._changed(task) else STILL_SECONDS
                    if self._due(task, wait):
                        self._say(task)

    def _due(self, task: Task, seconds: float) -> bool:
        return self._clock() - self._tasks[task][0] >= seconds

    def _changed(self, task: Task) -> bool:
        return self._tasks[task][1:] != (task.done, task.note)

    def _say(self, task: Task) -> None:
        told = task.told()
        line = f"{task.name}: {told}" if told else task.name
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._tasks[task] = (self._clock(), task.done, task.note)
        if task.finished:
            del self._tasks[task]


def duration(seconds: float) -> str:
    """``45 s``, ``1 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
