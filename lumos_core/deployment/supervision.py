"""The common part of server and node supervisors: one process per state folder, pauses before a new
start, and lines with the time."""

import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from lumos_core.errors import FederationError
from lumos_core.safe_files import exclusive

RUNNING = ".running"
"""The lock that a server or node holds in its state folder."""
STOP_SECONDS = 15.0  # for a SuperNode to sign off; otherwise its key is refused for a minute
FIRST_SECONDS = 2.0
LONGEST_SECONDS = 15.0


def alone(state: Path, refusal: str) -> AbstractContextManager[None]:
    """Hold a state folder, so that no second process uses it.

    Args:
        state: the folder.
        refusal: the error's text for a second process.

    Raises:
        FederationError: another process holds the folder.
    """
    return exclusive(state / RUNNING, 0, FederationError(f"{state}: {refusal}"))


def say(console: Console, text: str) -> None:
    """Print a line with the time; without it to systemd's journal, which notes the time itself."""
    when = "" if _is_journal(console) else f"{time.strftime('%Y-%m-%d %H:%M:%S')} "
    console.print(when + text, highlight=False)


def _is_journal(console: Console) -> bool:
    """Whether systemd connected the console to its journal and no shell has redirected it since:
    ``$JOURNAL_STREAM`` then holds device and inode of its file."""
    try:
        found = os.fstat(console.file.fileno())
    except (OSError, ValueError):  # a file in memory, or one that is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Backoff:
    """The pause before a process is started again. It doubles each time, up to 15 seconds, and a
    random part of up to a half is taken off; after a success it begins with the shortest again.

    A success is what the process is for, such as a connection or a finished round: that it runs for
    a while is none. The random part keeps nodes that died together from coming back together.

    Args:
        jitter: a factor from 0.5 to 1; replaced in tests.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)) -> None:
        self._jitter = jitter
        self._times = 0

    def reset(self) -> None:
        """The process has succeeded, or it should be started again without growing pauses."""
        self._times = 0

    def pause(self) -> float:
        """Seconds to wait, now that the process has ended."""
        seconds = min(FIRST_SECONDS * 2.0**self._times, LONGEST_SECONDS)
        self._times = min(self._times + 1, 16)  # bounded, so that the power does not overflow
        return float(seconds * self._jitter())
