"""``connection.json`` in a node's state folder: its connection to the server, for health checks.

Other programs can tell from it whether the node takes part, without reading logs: the health check
of its container does (``docker/healthcheck.py``).
"""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from lumos_core.safe_files import JsonFile

CONNECTION = "connection.json"
STARTING, ENDED = "starting", "ended"


class ConnectionFile(JsonFile):
    """The content of ``connection.json``.

    Attributes:
        state: ``starting``, ``connected``, ``silent`` (the server does not answer), ``refused``,
            ``ended`` (it is going to be started again), or gRPC's name of the server's error.
        since: when it began, UTC.
    """

    state: str
    since: str


class ConnectionWriter:
    """Writes the file whenever the state changes.

    Args:
        state_folder: the node's; it exists.
    """

    def __init__(self, state_folder: Path) -> None:
        self._path = state_folder / CONNECTION
        self._last = ""

    def note(self, state: str) -> None:
        """The connection's state now. A disk that is full is no reason to end a node."""
        if state == self._last:
            return
        with suppress(OSError):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            ConnectionFile(state=state, since=now).write(self._path, mode=0o600)
            self._last = state
