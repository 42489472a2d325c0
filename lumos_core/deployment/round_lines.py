"""A run's events as lines on a terminal, one a round.

The metrics of a round's model are measured while the next round trains, so a round's line appears
when they are there.
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
"""Of the columns of a round, in their order."""
_DROPPED = ("up", "down", "nodes", "seconds")
"""What a narrow terminal goes without, first to last: a number that is broken is another number."""


class ViewLines:
    """Shows how far the views are, before the first round.

    Where nodes run on this computer, all their users are one task; elsewhere each node is one, as
    far as it tells.

    Args:
        console: where to.
        local: nodes run on this computer.
    """

    def __init__(self, console: Console, local: bool) -> None:
        self._console, self._local = console, local
        self._progress: Progress | None = None
        self._tasks: dict[str, Task] = {}

    def local(self, done: int, total: int, note: str) -> None:
        """Take what the nodes of this computer have written for their owners."""
        if done < total or self._tasks:
            task = self._task("views", total, "users", note)
            task.update(done, total=total, note="" if done == total else note)

    def told(self, event: Event) -> None:
        """Take an event ``views`` of the history."""
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
        """The phase is over."""
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
        console: where to.
        rounds: how many there will be.
        local: nodes run on this computer, so that how far they are is known to the user.
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
            case "node-lost":
                self._console.print(
                    f"[yellow]{escape(event['node'])} has ended; see {escape(event['log'])}[/]"
                )

    @contextmanager
    def live(self) -> Iterator["RoundLines"]:
        """Show what is being waited for, on terminals."""
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
        """Show what is going on now; where lines cannot be rewritten, rounds speak for
        themselves."""
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def _pause(self) -> None:
        """Make room for bars."""
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
    """The columns of a round that a terminal has room for; all where width is None."""
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
    """A round's line; the untrained model's ends with its metrics."""
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
