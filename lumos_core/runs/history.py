"""What happened in a run, one JSON object per line, appended as it happens.

``{"event": "round", "round": r, …}``        training of round r: losses, seconds, bytes, who failed
``{"event": "evaluation", "round": r, …}``   metrics of the model that round r ended with (0: first)
``{"event": "failed-round", "round": r, …}`` too few valid replies; the model stayed as it was
``{"event": "views", "node": n, …}``         before round 1: how far a node is with its views
``{"event": "views-ready", …}``              the end of that: who is done, who is not
``{"event": "asked", "round": r, …}``        with differential privacy: who is about to be asked

Evaluations on the validation targets say by what rounds are compared (``selection``), and which
nodes are out of line with the others (``doubted``). Rounds say which nodes trained without views of
all their users (``views_lacking``: how many, ``views_lacking_nodes``: by name). All say when
(``time``, UTC) and which nodes by name: ``ok`` and ``failed`` in rounds, ``nodes`` in evaluations.
Names are the operators' own; nothing of a user is in here but counts.
"""

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumos_core.errors import DataError
from lumos_core.learning.metrics import SELECTION_METRIC
from lumos_core.safe_files import write_atomically

HISTORY = "history.jsonl"
"""Its name in a run folder."""

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


def utc_now() -> str:
    """The time as events and logs have it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class History:
    """Appends events to ``history.jsonl``; a run without a folder keeps them in memory only.

    Args:
        path: the file.
        on_event: called with every event that is added.
        events: what happened before, in a resumed run; the file is cut back to these.
    """

    def __init__(
        self, path: Path | None, on_event: OnEvent | None = None, events: Iterable[Event] = ()
    ) -> None:
        self.events = list(events)
        self._path, self._on_event = path, on_event
        if path is not None and path.exists():
            write_atomically(path, "".join(map(_line, self.events)).encode())

    def add(self, event: Event) -> None:
        self.events.append(event)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(event))
                file.flush()
                os.fsync(file.fileno())
        if self._on_event is not None:
            self._on_event(event)


def read_history(path: Path) -> list[Event]:
    """Events in order; a last line that a crash cut off is left out. Empty without a file.

    Raises:
        DataError: another line is damaged.
    """
    if not path.exists():
        return []
    events: list[Event] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is cut off
        try:
            event = json.loads(line)
            well_formed = isinstance(event, dict) and "event" in event
        except ValueError:
            well_formed = False
        if not well_formed:
            raise DataError(
                f"{path}: line {number}: found {line[:60]!r}, expected a JSON object with the key "
                "'event'; the file is damaged"
            )
        events.append(event)
    return events


def _line(event: Event) -> str:
    return json.dumps(event) + "\n"


def value_of(event: Event) -> float:
    """By what an "evaluation" event of the history is compared with others."""
    value: float = event["selection"] if "selection" in event else event[SELECTION_METRIC]
    return value
