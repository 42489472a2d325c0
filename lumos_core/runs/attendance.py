"""``attendance.json``: whom the server waits for at this moment, and whom it refuses.

The history says what has happened; this file says what has not happened yet: which nodes were
asked, since when, until when the round waits for them, and who has answered. It is replaced all the
time and lost without harm. It holds names of nodes, times and reasons, and nothing about a user.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field

from lumos_core.errors import reason_of
from lumos_core.safe_files import JsonFile

log = logging.getLogger(__name__)

ATTENDANCE = "attendance.json"
"""Its name in a run folder."""
WRITE_SECONDS = 0.5
"""The file is at most so much older than what it says."""


class Attendance(JsonFile):
    """The content of the file.

    Attributes:
        round: the round that goes on.
        asked: when its nodes were asked: ISO 8601, UTC; empty before any round.
        closes: until when the server waits for their answers.
        waiting: names of those that have not answered, sorted.
        answered: by name, after how many seconds a node has answered.
        refused: by name, why a node may not take part.
    """

    round: int = 0
    asked: str = ""
    closes: str = ""
    waiting: list[str] = Field(default_factory=list)
    answered: dict[str, float] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)


class AttendanceBook:
    """Keeps the file up to date, in a thread of its own: a slow or full disk does not hold up the
    run, which needs the file for nothing.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = Attendance()
        self._lock = threading.Lock()
        self._changed, self._end = threading.Event(), threading.Event()

    @contextmanager
    def kept(self) -> Iterator["AttendanceBook"]:
        """While it is open, the file is written; in the end nobody is waited for."""
        thread = threading.Thread(target=self._write, name="attendance", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._change(waiting=[], answered={}, asked="", closes="")
            self._end.set()
            self._changed.set()
            thread.join()

    def ask(self, round_: int, nodes: list[str], seconds: float) -> None:
        """Nodes have been asked, and are waited for so many seconds."""
        now = datetime.now(UTC)
        self._change(
            round=round_, asked=_text(now), closes=_text(now + timedelta(seconds=seconds)),
            waiting=sorted(nodes), answered={},
        )  # fmt: skip

    def answer(self, node: str) -> None:
        """A node has answered."""
        with self._lock:
            now = self._now
        if node not in now.waiting:
            return
        seconds = (datetime.now(UTC) - datetime.fromisoformat(now.asked)).total_seconds()
        self._change(
            waiting=[name for name in now.waiting if name != node],
            answered={**now.answered, node: round(seconds, 1)},
        )

    def refuse(self, refused: Mapping[str, str]) -> None:
        """These nodes are refused at the moment, and no others."""
        self._change(refused=dict(refused))

    def _change(self, **changes: object) -> None:
        with self._lock:
            self._now = self._now.model_copy(update=changes)
        self._changed.set()

    def _write(self) -> None:
        failed = False
        while True:
            self._changed.wait()
            last = self._end.is_set()
            self._changed.clear()
            with self._lock:
                now = self._now
            try:
                now.write(self._path)
            except OSError as error:
                if not failed:
                    log.warning("%s cannot be written (%s)", self._path, reason_of(error))
                failed = True
            if last:
                return
            self._end.wait(WRITE_SECONDS)


def _text(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")
