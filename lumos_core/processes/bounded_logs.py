"""Logs of child processes, which do not grow without end although their writers never close them.

A child holds its log open for as long as it runs, so a rename would not end the writing to the old
file. A log that has grown beyond its bound is therefore copied to ``<name>.log.1`` and emptied.
That works because a log is open for appending: every write goes to the end that the file has then.
Whoever reads a log from an offset on has to begin anew when the file is shorter than the offset.
"""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from lumos_core.safe_files import older

LIMIT_BYTES = 64 * 1024**2
LOOK_SECONDS = 10.0
_PIECE_BYTES = 1024**2


def cut_back(log: Path, limit: int = LIMIT_BYTES) -> None:
    """Move what is in a log to its old generation if that is more than the limit.

    The old generation holds the last ``limit`` bytes, from the beginning of a line on, and replaces
    the old generation of before. If it cannot be written, for instance on a full disk, the log is
    emptied all the same. What is written in the instant between copying and emptying is lost.

    Args:
        log: a file, or the name of one that does not exist yet.
        limit: bytes that it may have.
    """
    with suppress(OSError), log.open("r+b") as file:
        found = os.fstat(file.fileno())
        if found.st_size <= limit:
            return
        with suppress(OSError):
            _copy_end(file.fileno(), found.st_size, older(log), limit, stat.S_IMODE(found.st_mode))
        file.truncate(0)


def _copy_end(source: int, size: int, target: Path, limit: int, mode: int) -> None:
    os.lseek(source, size - limit, os.SEEK_SET)
    room = 2 * limit  # the file grows during the copy; one that grows as fast is not copied forever
    at_line = False
    with open(target, "wb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
        while room > 0 and (piece := os.read(source, min(_PIECE_BYTES, room))):
            room -= len(piece)
            if not at_line:
                piece = piece[piece.find(b"\n") + 1 :]
                at_line = True
            file.write(piece)


class BoundedLogs:
    """A thread that looks at logs from time to time and cuts back what is too long.

    Args:
        limit: bytes that a log may have.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._logs: tuple[Path, ...] = ()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, log: Path) -> None:
        """Watch a log until :meth:`stop`; one that is too long already is cut back now."""
        cut_back(log, self._limit)
        if log not in self._logs:
            self._logs = (*self._logs, log)
        if self._thread is None:
            self._end.clear()
            self._thread = threading.Thread(target=self._look, name="bounded-logs", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None
            self._logs = ()

    def _look(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            for log in self._logs:
                cut_back(log, self._limit)
