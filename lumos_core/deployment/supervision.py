"""The common part of server and node supervisors: one process per state folder, pauses before a new
start, and lines with the time."""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from lumos_core.errors import FederationError
from lumos_core.safe_files import exclusive

STOP_SECONDS = 15.0  # for a SuperNode to sign off; otherwise its key is refused for a minute
FIRST_SECONDS = 2.0
LONGEST_SECONDS = 60.0
STEADY_SECONDS = 120.0


def alone(state: Path, refusal: str) -> AbstractContextManager[None]:
    """Hold a state folder, so that no second process uses it.

    Args:
        state: the folder.
        refusal: the error's text for a second process.

    Raises:
        FederationError: another process holds the folder.
    """
    return exclusive(state / ".running", 0, FederationError(f"{state}: {refusal}"))


def say(console: Console, text: str) -> None:
    """Print a line with the time."""
    console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", highlight=False)


class Backoff:
    """The pause before a process is started again. It doubles each time, up to a minute, and varies
    by a quarter; after a process has run for two minutes, it begins with the shortest again.

    Flower refuses a node that died, or whose connection broke, for about a minute after its last
    heartbeat. The random part keeps nodes that died together from coming back at the same moment.

    Args:
        clock: seconds; replaced in tests.
        jitter: a factor around 1; replaced in tests.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._times = 0
        self._started = clock()

    def started(self) -> None:
        """A process starts now."""
        self._started = self._clock()

    def pause(self) -> float:
        """Seconds to wait, now that the process has ended."""
        if self._clock() - self._started >= STEADY_SECONDS:
            self._times = 0
        seconds = min(FIRST_SECONDS * 2.0**self._times, LONGEST_SECONDS)
        self._times = min(self._times + 1, 16)  # bounded, so that the power does not overflow
        return float(seconds * self._jitter())
