"""The history of a run: one JSON object per line for each event, appended as it happens.

``{"event": "round", "round": r, …}``        training of round r: losses, seconds, bytes, who failed
``{"event": "evaluation", "round": r, …}``   metrics of the model after round r (0: the initial one)
``{"event": "failed-round", "round": r, …}`` too few valid replies; the model stayed as it was
``{"event": "views", "node": n, …}``         before round 1: how far a node is with its views
``{"event": "views-ready", …}``              the end of this phase: which nodes are done or not done
``{"event": "warm-start", …}``              the run began with a trained model, and with which
``{"event": "versions", "node": n, …}``      a node's LUMOS, Flower … differ from the server's
``{"event": "asked", "round": r, …}``        with differential privacy: nodes about to be asked

Evaluations on the validation targets hold the value by which rounds are compared (``selection``),
and the nodes that are out of line with the others (``doubted``). Rounds say which nodes trained
without views of all their users (``views_lacking``: how many, ``views_lacking_nodes``: by name).
Events hold the time (``time``, UTC) and names of nodes: ``ok`` and ``failed`` in rounds, ``nodes``
in evaluations (``nodes_unnamed``: how many of a large population that is evaluated at once are not
named). Operators choose the names of nodes; about users there are only counts in here. The
evaluation on the test targets holds metrics of each node with enough users
(:mod:`lumos_core.runs.node_metrics`).
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

WARM_START = "warm-start"
"""Event: the run began with a model that was trained before."""
VERSIONS = "versions"
"""Event: the versions of a node that differ from the server's, or that no longer do."""
Event = dict[str, Any]
OnEvent = Callable[[Event], None]


def utc_now() -> str:
    """The time in the form that events use: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class History:
    """Appends events to ``history.jsonl``; a run without a folder keeps them in memory only.

    Args:
        path: the file.
        on_event: called with every event that is added.
        events: those of a resumed run that stay valid; the file is cut back to these.
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
    """Events in order; empty without a file. A last line that a crash has cut off is left out.

    Raises:
        DataError: another line is damaged.
    """
    if not path.exists():
        return []
    events: list[Event] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(
        lines[:-1], start=1
    ):  # after the last line end: nothing, or a cut-off line
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
    """The value by which an "evaluation" event of the history is compared with others."""
    value: float = event["selection"] if "selection" in event else event[SELECTION_METRIC]
    return value
