"""Writing files so that a crash never leaves half of one behind."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush to disk, then rename over it."""
    with replacing(path) as temporary, os.fdopen(os.open(temporary, os.O_WRONLY), "wb") as file:
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
