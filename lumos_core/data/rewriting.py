"""Writing a node's file of interactions anew: in one step, with the same mode and owner, and never
by two processes at once."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lumos_core.errors import DataError, reason_of
from lumos_core.safe_files import exclusive, private_folder

_LOCK = ".data.lock"
_WAIT_SECONDS = 600.0  # for another process that writes the same file


@contextmanager
def changing_data(state: Path) -> Iterator[None]:
    """Hold a node's data: no other command changes them from reading them to writing them. A node
    that runs only reads them, and is not held up.

    Args:
        state: the node's state folder.

    Raises:
        DataError: another command holds them for ten minutes.
    """
    busy = DataError(
        f"{state}: another 'lumos node ingest' or 'lumos node forget' changes this node's data; "
        "try again when that has ended"
    )
    private_folder(state)
    with exclusive(state / _LOCK, _WAIT_SECONDS, busy, mode=0o600):
        yield


@contextmanager
def rewritten(path: Path) -> Iterator[Path]:
    """Write a file anew: yields the place for the new one, which replaces the old one in one step
    when the block ends without an exception.

    Raises:
        DataError: the disk refuses it.
    """
    try:
        before = path.stat()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix(path)) as at:
            fresh = Path(at) / path.name  # the suffix says how it is read
            yield fresh
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            take_over(before, fresh)
            os.replace(fresh, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {reason_of(error)}") from error


def prefix(path: Path) -> str:
    """How names of temporary files and folders beside a file begin."""
    return f".{path.name}."  # also that of safe_files.replacing


def take_over(before: os.stat_result, path: Path) -> None:
    """Give a file the mode and the owner of the one that it replaces."""
    os.chmod(path, before.st_mode & 0o7777)
    if (path.stat().st_uid, path.stat().st_gid) != (before.st_uid, before.st_gid):
        with suppress(PermissionError):  # only root may give files away
            os.chown(path, before.st_uid, before.st_gid)
