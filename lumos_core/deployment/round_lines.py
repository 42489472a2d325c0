"""A run's events as lines on a terminal, one line per round.

The metrics of a round's model are measured while the next round trains, so a round's line appears
only when they have arrived.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.status import Status

from lumos_core.runs.history import Event
from lumos_core.terminal.progress import PERCENT, Progress, Task, duration

_WIDTHS = {
    "round": 6, "loss": 8, "HR@20": 8, "NDCG@20": 8, "seconds": 8, "up": 10, "down": 10,
    "nodes": 14,
}  # fmt: skip
"""Widths of a round's columns, in their order."""
_DROPPED = ("up", "down", "nodes", "seconds")
"""Columns that a narrow terminal leaves out, in this order: a number that is cut off reads as
another number."""


class ViewLines:
    """Shows the progress of views, before the first round.

    If the nodes run on this computer, one bar counts the users of all nodes. Otherwise each node
    has a bar, with the progress that it reports.

    Args:
        console: where it is shown.
        local: nodes run on this computer.
    """

    def __init__(self, console: Console, local: bool) -> None:
        self._console, self._local = console, local
        self._progress: Progress | None = None
        self._tasks: dict[str, Task] = {}

    def local(self, done: int, total: int, note: str) -> None:
        """Show the progress that the nodes of this computer wrote in their state folders."""
        if done < total or self._tasks:
            task = self._task("views", total, "users", note)
            task.update(done, total=total, note="" if done == total else note)

    def told(self, event: Event) -> None:
        """Show an event ``views`` of the history."""
        name = f"views of {event['node']}"
        if "failed" in event:
            reason = event["failed"][0]["reason"]
            text = f"{event['node']}: no views for now: {reason}; it joins later"
            self._console.print(f"[yellow]{escape(text)}[/]", highlight=False)
        elif self._local:
            return
        elif not event["done"] or name in self._tasks:
            left = event["seconds_left"]
            note = f"about {duration(left)} left" if left and not event["done"] else ""
            done = 100 if event["done"] else event["percent"]
            self._task(name, 100, PERCENT).update(done, note=note)

    def close(self) -> None:
        """End the bars: the phase is over."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._progress, self._tasks = None, {}

    def _task(self, name: str, total: int, unit: str, note: str = "") -> Task:
        if self._progress is None:
            self._progress = Progress(self._console).__enter__()
        if name not in self._tasks:
            self._tasks[name] = self._progress.task(name, total, unit, note)
        return self._tasks[name]


class RoundLines:
    """Prints events as they come; call it with each.

    Args:
        console: where they are printed.
        rounds: number of rounds.
        local: nodes run on this computer, so the user may see the progress of each one's views.
    """

    def __init__(self, console: Console, rounds: int, local: bool = False) -> None:
        self._console, self._rounds = console, rounds
        width = console.width if console.is_terminal else None
        self._shown = columns_for(width)
        self._waiting: Event | None = None  # a round whose metrics are not there yet
        self._status: Status | None = None
        self._header_shown = False
        self._views = ViewLines(console, local)

    def __call__(self, event: Event) -> None:
        """Take one event of ``history.jsonl`` or of the supervisor."""
        match event["event"]:
            case "views-progress":
                self._pause()
                self._views.local(event["done"], event["total"], event["note"])
            case "views":
                self._pause()
                self._views.told(event)
            case "views-ready":
                self._resume()
            case "round" | "failed-round":
                self._flush()
                self._waiting = event
                if event["event"] == "failed-round":
                    self._flush()
                self._say(f"round {min(event['round'] + 1, self._rounds)} of {self._rounds}")
            case "evaluation" if event["split"] == "validation":
                self._evaluated(event)
            case "evaluation":
                self._flush()
            case "versions" if event["note"]:
                text = f"{event['node']}: {event['note']}"
                self._console.print(f"[yellow]{escape(text)}[/]", highlight=False)
            case "node-lost":
                text = f"{event['node']} has ended; see {event['log']}"
                if event.get("again_in") is not None:
                    text += f"; starting it again in {event['again_in']:.0f} s"
                self._console.print(f"[yellow]{escape(text)}[/]")

    @contextmanager
    def live(self) -> Iterator["RoundLines"]:
        """While it is open, show on terminals what the run is doing."""
        self._say("starting")
        try:
            yield self
            self._flush()
        finally:
            self._views.close()
            self._pause()

    def _evaluated(self, event: Event) -> None:
        if self._waiting is not None and self._waiting["round"] == event["round"]:
            self._print(self._waiting, event)
            self._waiting = None
        elif event["round"] == 0:
            self._print({"round": "start"}, event)
            self._say(f"round 1 of {self._rounds}")

    def _flush(self) -> None:
        if self._waiting is not None:
            self._print(self._waiting, {})
            self._waiting = None

    def _say(self, text: str) -> None:
        """Show the current step. Only a terminal can rewrite the line; elsewhere the rounds' lines
        are enough."""
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def _pause(self) -> None:
        """Remove the status line, to make room for bars."""
        if self._status is not None:
            self._status.stop()
        self._status = None

    def _resume(self) -> None:
        self._views.close()
        self._say(f"round 1 of {self._rounds}")

    def _print(self, round_: Event, metrics: Event) -> None:
        if not self._header_shown:
            header = _aligned({name: name for name in self._shown})
            self._console.print(header, style="bold", highlight=False)
            self._header_shown = True
        cells = _cells(round_, metrics)
        line = _aligned({name: cells[name] for name in self._shown if name in cells})
        self._console.print(line, highlight=False)
        for failure in round_.get("failed", []):
            reason = f"{failure['node']}: {failure['reason']}"
            self._console.print(f"       [yellow]{escape(reason)}[/]", highlight=False)
        if "reason" in round_:
            self._console.print(f"       [red]round failed: {escape(round_['reason'])}[/]")


def columns_for(width: int | None) -> list[str]:
    """The columns of a round that a terminal has room for; all of them if ``width`` is None."""
    shown = list(_WIDTHS)
    for name in _DROPPED:
        if width is not None and sum(_WIDTHS[n] + 1 for n in shown) > width:
            shown.remove(name)
    return shown


def _aligned(cells: Mapping[str, str]) -> str:
    return " ".join(
        f" {text}" if name == "nodes" else f"{text:>{_WIDTHS[name]}}"
        for name, text in cells.items()
    )


def _cells(round_: Event, metrics: Event) -> dict[str, str]:
    """The cells of a round's line; the line of the untrained model has only the metrics."""
    cells = {
        "round": str(round_["round"]),
        "loss": _number(round_.get("loss"), 3),
        "HR@20": _number(metrics.get("hr@20"), 4),
        "NDCG@20": _number(metrics.get("ndcg@20"), 4),
    }
    if "seconds" not in round_:
        return cells
    nodes = f"{round_['nodes_ok']} ok"
    if round_["failed"]:
        nodes += f", {len(round_['failed'])} failed"
    if late := len(round_.get("late", [])) + len(round_.get("busy", [])):
        nodes += f", {late} late"
    if stale := round_.get("staleness"):
        nodes += f", {len(stale)} stale"
    if round_.get("epsilon") is not None:
        nodes += f"  ε {round_['epsilon']:.3g}"
    return cells | {
        "seconds": f"{round_['seconds']:.1f}",
        "up": decimal(round_["bytes_up"]),
        "down": decimal(round_["bytes_down"]),
        "nodes": nodes,
    }


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
