"""What the supervisors of servers and nodes have in common."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from lumos_core.errors import FederationError


@contextmanager
def alone(state: Path, refusal: str) -> Iterator[None]:
    """Hold a state folder.

    Args:
        state: exists.
        refusal: what to say to a second one.

    Raises:
        FederationError: another process holds the folder.
    """
    try:
        with FileLock(state / ".running").acquire(blocking=False):
            yield
    except Timeout:
        raise FederationError(f"{state}: {refusal}") from None


def say(console: Console, text: str) -> None:
    """A line with the time."""
    console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", highlight=False)
