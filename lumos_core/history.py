"""What happened in a run, one JSON object per line, appended as it happens.

``{"event": "round", "round": r, …}``        training of round r: losses, seconds, bytes, who failed
``{"event": "evaluation", "round": r, …}``   metrics of the model that round r ended with (0: initial)
``{"event": "failed-round", "round": r, …}`` too few valid replies; the model stayed as it was
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class History:
    """Appends events to ``history.jsonl``; a run without a folder keeps them in memory only."""

    def __init__(self, path: Path | None, on_event: OnEvent | None = None) -> None:
        self.events: list[Event] = []
        self._path, self._on_event = path, on_event

    def add(self, event: Event) -> None:
        self.events.append(event)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if self._on_event is not None:
            self._on_event(event)


def read_history(path: Path) -> Iterator[Event]:
    """Events in order; a last line that a crash cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
