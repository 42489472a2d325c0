"""The lock of a run folder: one server at a time, and a way to see whether one is running.

The server holds an operating-system lock on ``<run folder>/server.lock`` for as long as its process
lives; it is released however the process ends. A restarted server waits while the old one is still
shutting down, so that two never write the same history. ``lumos status`` sees whether the lock is
held.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.safe_files import HeldError, exclusive

LOCK = "server.lock"
WAIT_SECONDS = 30.0


def only_server(run_dir: Path, seconds: float = WAIT_SECONDS) -> AbstractContextManager[None]:
    """Hold the lock of a run folder.

    Args:
        run_dir: the folder; made if it is not there.
        seconds: how long to wait for another server to end.

    Raises:
        FederationError: another server still works in the folder.
    """
    refusal = FederationError(
        f"{run_dir}: another server still works in this folder ({LOCK} is held after "
        f"{seconds:g} s); end it, or choose another run-dir"
    )
    return exclusive(run_dir / LOCK, seconds, refusal)


def is_held(run_dir: Path, lock: str = LOCK) -> bool | None:
    """Whether a server works in the folder; None if this process has no permission to see it."""
    path = run_dir / lock
    if not path.exists():
        return False
    try:
        with exclusive(path, 0):
            return False
    except HeldError:
        return True
    except OSError:
        return None
