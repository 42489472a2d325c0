"""One server per run folder, and a way to see whether it lives.

The server holds an operating-system lock on ``<run folder>/server.lock`` for as long as its process
lives, however that ends. A server that was restarted while the old one is still going down waits
for it, so that two never write the same history; ``lumos status`` sees whether anybody holds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lumos_core.errors import FederationError

LOCK = "server.lock"
WAIT_SECONDS = 30.0


@contextmanager
def only_server(run_dir: Path, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the run folder.

    Args:
        run_dir: is made if it is not there.
        seconds: how long to wait for another server to end.

    Raises:
        FederationError: another server still works in the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / LOCK, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise FederationError(
            f"{run_dir}: another server still works in this folder ({LOCK} is held after "
            f"{seconds:g} s); end it, or choose another run-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(run_dir: Path) -> bool | None:
    """Whether a server works in the folder; None if that cannot be told (no permission)."""
    path = run_dir / LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return None
