"""A SuperNode's connection to its server, as the SuperNode's log tells it.

Three kinds of lines are read: those of Flower, those that
:mod:`lumos_core.flower.steady_connection` adds where it knows more, and those of
:mod:`lumos_core.flower.app_gate` about runs that the node does not work for.
"""

import math
import os
import re
from pathlib import Path

from rich.markup import escape

_ACTIVE = re.compile(r"SuperNode ID: (\d+)")
_AGAIN = re.compile(r"Connection successful after")
_FAILED = re.compile(r"connection: ([A-Z_]+); next attempt in ([\d.]+) s")
_FLOWERS_FAILED = re.compile(r"Connection attempt failed, retrying in ([\d.]+) seconds")
_REFUSED_RUN = re.compile(r"(foreign-app|storage-failed|bad-configuration): run \d+ is refused: .*")
_OTHER_RELEASE = re.compile(r"run \d+ is of a server with LUMOS .*")
_SILENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
REFUSED = (
    "the server refuses this node's key: it is not registered there, or the node was connected "
    "less than a minute ago, or the key is in use elsewhere"
)
KEPT_LINES = 400


class ConnectionLog:
    """Reads what is appended to a SuperNode's log, and tells what has changed.

    Args:
        path: the log.
        begin: offset at which the SuperNode's own output begins.

    Attributes:
        connected: whether the node has been connected at least once.
        lines: the last complete lines.
    """

    def __init__(self, path: Path, begin: int) -> None:
        self._path, self._offset = path, begin
        self._state = ""
        self.connected = False
        self.lines: list[str] = []

    @property
    def state(self) -> str:
        """``connected``, ``silent``, ``refused``, a status of gRPC; empty before the first line."""
        return self._state

    def changes(self) -> list[str]:
        """A text for every change of state, and every refused run, since the last call (rich
        markup)."""
        new = self._new_lines()
        self.lines = [*self.lines, *new][-KEPT_LINES:]
        return [text for line in new if (text := self._change(line))]

    def _new_lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # a long log was emptied
                    self._offset = 0
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.decode(errors="replace").splitlines()

    def _change(self, line: str) -> str:
        """What a line changes; empty if nothing."""
        if found := _ACTIVE.search(line):
            self.connected = True
            return self._become("connected", f"[green]connected[/] as node {found.group(1)}")
        if _AGAIN.search(line):
            # before the node is active, one request was answered, and the next may be refused
            again = "[green]connected[/] again" if self.connected else ""
            return self._become("connected", again) if again else ""
        if found := _FAILED.search(line):
            status, seconds = found.groups()
            return self._failed(status, float(seconds))
        if (found := _FLOWERS_FAILED.search(line)) and self._state in ("", "connected"):
            return self._failed(_SILENT[0], float(found.group(1)))
        if found := _REFUSED_RUN.search(line):
            return f"[red]{escape(found.group())}[/]"
        if found := _OTHER_RELEASE.search(line):
            return f"[yellow]{escape(found.group())}[/]"
        return ""

    def _failed(self, status: str, seconds: float) -> str:
        pause = f"trying again in {max(1, math.ceil(seconds))} s"
        if status in _SILENT:
            return self._become("silent", f"[yellow]server does not answer[/]; {pause}")
        if status == "REFUSED":
            until = "trying again until it is accepted"
            return self._become("refused", f"[yellow]refused: {REFUSED}[/]; {until}")
        return self._become(status, f"[yellow]server answers with an error ({status})[/]; {pause}")

    def _become(self, state: str, text: str) -> str:
        before, self._state = self._state, state
        return text if state != before else ""
