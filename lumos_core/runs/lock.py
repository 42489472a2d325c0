"""One server per run folder, and a way to see whether it lives.

The server holds an operating-system lock on ``<run folder>/server.lock`` for as long as its process
lives, however that ends. A server that was restarted while the old one is still going down waits
for it, so that two never write the same history; ``lumos status`` sees whether anybody holds it.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.safe_files import HeldError, exclusive

LOCK = "server.lock"
WAIT_SECONDS = 30.0


def only_server(run_dir: Path, seconds: float = WAIT_SECONDS) -> AbstractContextManager[None]:
    """Hold the run folder.

    Args:
        run_dir: is made if it is not there.
        seconds: how long to wait for another server to end.

    Raises:
        FederationError: another server still works in the folder.
    """
    refusal = FederationError(
        f"{run_dir}: another server still works in this folder ({LOCK} is held after "
        f"{seconds:g} s); end it, or choose another run-dir"
    )
    return exclusive(run_dir / LOCK, seconds, refusal)


def is_held(run_dir: Path) -> bool | None:
    """Whether a server works in the folder; None if that cannot be told (no permission)."""
    path = run_dir / LOCK
    if not path.exists():
        return False
    try:
        with exclusive(path, 0):
            return False
    except HeldError:
        return True
    except OSError:
        return None
