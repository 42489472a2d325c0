"""Following a run from another process: its events, and how it ends.

A supervisor learns what happens from the run folder: events from ``history.jsonl``, the outcome
from ``summary.json``. The status that Flower reports for the run is not used.
"""

import json
import os
import time
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.processes.children import Child
from lumos_core.runs.folder import read_summary
from lumos_core.runs.history import OnEvent
from lumos_core.runs.summary import RunSummary

SUMMARY_SECONDS = 3.0  # to wait for the summary of a run that has ended
FOLLOW_SECONDS = 0.2  # between two looks at the run folder


class RunLostError(FederationError):
    """A run ended without a result."""


class Watch:
    """What a supervisor does while it looks for the summary; supervisors differ only in this.

    Args:
        on_event: called with every event of the history.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self.on_event = on_event

    def before(self) -> None:
        """Called before every look for the summary; if it raises, the summary is not read."""

    def without_summary(self) -> None:
        """Called after every look that found no summary; if it raises, :func:`follow` ends."""

    def summary_seconds(self) -> float:
        """Seconds to wait for the summary of a run that has ended."""
        return SUMMARY_SECONDS

    def has_ended(self, run: Child) -> bool:
        """Whether the run has ended, so that its summary is due.

        Args:
            run: the command that submitted it and streams its log.
        """
        return run.exit_code is not None


def follow(run_dir: Path, run: Child, events: "Tail", watch: Watch) -> RunSummary:
    """Report events until the summary is there.

    Args:
        run_dir: the run's folder.
        run: the command that submitted the run.
        events: the history, from before the run was submitted.
        watch: what is done while waiting.

    Returns:
        The run's summary.

    Raises:
        RunLostError: the run has ended, and there is no summary.
        FederationError: raised by the watch, with the reason why the run cannot continue.
        DataError: the summary is damaged.
    """
    due: float | None = None
    while True:
        watch.before()
        summary = read_summary(run_dir)
        events.report()  # after reading the summary: no event of a finished run is missed
        if summary is not None:
            return summary
        watch.without_summary()
        if not watch.has_ended(run):
            due = None
        elif due is None:
            due = time.monotonic() + watch.summary_seconds()
        elif time.monotonic() > due:
            raise RunLostError(
                f"the run ended without a result; the end of {run.log}:\n{run.last_lines(25)}"
            )
        time.sleep(FOLLOW_SECONDS)


class Tail:
    """Calls back with each complete line of a JSONL file that is written from now on.

    A resumed run first writes its history again, as another file; the old file has nothing new.
    """

    def __init__(self, path: Path, callback: OnEvent) -> None:
        self._path, self._callback, self._offset = path, callback, 0
        self._old = path.stat().st_ino if path.exists() else None

    def report(self) -> None:
        """Pass on the lines that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino == self._old:
                return
            file.seek(self._offset)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            self._callback(json.loads(line))


def ended(child: Child) -> FederationError:
    """The error for a child that ended although it should not have."""
    return FederationError(
        f"{child.name} ended with exit code {child.exit_code}; the end of "
        f"{child.log}:\n{child.last_lines()}"
    )
