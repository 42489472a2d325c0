"""Files that are written whole or not at all, by one process at a time, where nobody else reads."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def private_folder(path: Path) -> None:
    """Make a folder that only this user can look into; one that is there and theirs is closed.

    A folder with the sticky bit, such as /tmp, is meant for everybody and stays as it is.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    shared = found.st_mode & stat.S_ISVTX
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not shared:
        path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)


def owner_only(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open`: a file that it makes is for this user alone (mode 0600)."""
    return os.open(path, flags, 0o600)


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write to a temporary file beside ``path``, flush to disk, then rename over it."""
    with (
        replacing(path, mode) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY), "wb") as file,
    ):
        file.write(content)


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """For files that others write: the name of an empty temporary file beside ``path``, which is
    flushed to disk and renamed over it when the block ends well, and removed when it does not.

    Args:
        mode: permissions of the file; until it is complete, it is its owner's alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


class HeldError(TimeoutError):
    """Another process holds a lock file."""


def lock_beside(path: Path) -> Path:
    """The lock file for a file or folder that one process computes while the others wait."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def exclusive(
    lock: Path,
    seconds: float | None = None,
    refusal: Exception | None = None,
    mode: int | None = None,
) -> Iterator[None]:
    """Hold a lock file, made with its folder if need be; the end of the process releases it too.

    Args:
        lock: the file.
        seconds: how long to wait for another process that holds it; None: without end.
        refusal: raised if that one still holds it then; None: a HeldError. What the block itself
            raises passes unchanged.
        mode: permissions of a lock file that is made here; None: as the umask says.

    Raises:
        HeldError: another process held it for all of ``seconds``.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    timeout = -1 if seconds is None else seconds
    file = FileLock(lock, timeout) if mode is None else FileLock(lock, timeout, mode)
    try:
        file.acquire()
    except Timeout as error:
        raise refusal or HeldError(str(error)) from None
    try:
        yield
    finally:
        file.release()
