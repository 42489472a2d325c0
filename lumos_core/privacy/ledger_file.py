"""The file of a node's ledger: ``<state>/ledger.jsonl``, one JSON object per line.

Its lines are of two kinds. One says what a reply held that left this machine
(:mod:`client_app.ledger`), the other that users were forgotten, without their ids
(:mod:`lumos_core.deployment.forgetting`).

A ledger that would grow beyond 16 MiB is renamed to ``ledger-<UTC time>.jsonl`` and compressed to
``….jsonl.gz``. LUMOS never deletes these: they are the owner's record of what left the machine.
"""

import errno
import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumos_core.errors import DataError, reason_of
from lumos_core.safe_files import exclusive, lock_beside, owner_only, private_folder, replacing

FILE = "ledger.jsonl"
LIMIT_BYTES = 16 * 1024**2
LOCK_SECONDS = 60.0  # other processes of this node need milliseconds, or a second to compress
FORGOTTEN = "forget"
"""The ``message`` of a line about users that were forgotten; all others are Flower's types."""


def write_line(folder: Path, facts: Mapping[str, Any]) -> None:
    """Append a line with the time; it is on disk when this returns.

    Args:
        folder: the node's state folder.
        facts: the other keys of the line.

    Raises:
        OSError: the line could not be written.
    """
    path = folder / FILE
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
    private_folder(folder)
    # One process at a time. If one renamed the ledger between the opening and the writing of
    # another, that line would go into a file that is being compressed. And removing an
    # incomplete line could remove another process's line.
    with exclusive(lock_beside(path), LOCK_SECONDS, mode=0o600):
        _append_or_begin_new(path, json.dumps(line).encode() + b"\n")


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines of a node's ledger, also of the full ones that were put aside; the oldest first.

    Args:
        folder: the node's state folder.

    Raises:
        DataError: a file cannot be read, or a line of it is damaged.
    """
    for path in _files(folder):
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield _parsed(path, number, line)
        except (OSError, EOFError, zlib.error) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise DataError(
                f"{path}: cannot be read: {reason}; expected a part of this node's ledger; restore "
                "it from a copy, or move it away"
            ) from error


def _files(folder: Path) -> list[Path]:
    path = folder / FILE
    found = sorted(folder.glob(f"{path.stem}-*{path.suffix}*"), key=_age)
    # After a crash while it was compressed, a full ledger may be there in both forms.
    whole = [old for old in found if old.suffix != ".gz" or old.with_suffix("") not in found]
    return [*whole, *([path] if path.is_file() else [])]


def _age(path: Path) -> tuple[str, int]:
    """By this the names of full ledgers are in the order of time: the time, and the number after
    it."""
    _, time, *number = path.name.partition(".")[0].split("-")
    return time, int(number[0]) if number and number[0].isdigit() else 1


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(
            f"{path}: line {number}: found {line[:40]!r}, expected a JSON object as LUMOS writes "
            "it; restore the file from a copy, or move it away"
        )
    return found


def _append_or_begin_new(path: Path, line: bytes) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size == 0 or size + len(line) <= LIMIT_BYTES:
        _append(path, line)
        return
    os.rename(path, _free_name(path))
    _append(path, line)
    for old in path.parent.glob(f"{path.stem}-*{path.suffix}"):  # also those that a crash left
        with suppress(OSError):  # e.g. the disk is full: try again next time
            _compress(old)


def _free_name(path: Path) -> Path:
    """A name with the time for a full ledger; also with a number if that name is taken."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    number, tail = 1, ""
    while True:
        name = path.with_name(f"{path.stem}-{time}{tail}{path.suffix}")
        if not name.exists() and not _compressed(name).exists():
            return name
        number += 1
        tail = f"-{number}"


def _compressed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _compress(path: Path) -> None:
    """Replace a file by its compressed form; after a crash at least one of the two is there."""
    with (
        replacing(_compressed(path), 0o600) as temporary,
        path.open("rb") as source,
        gzip.open(temporary, "wb") as target,
    ):
        shutil.copyfileobj(source, target)
    path.unlink()


def _append(path: Path, line: bytes) -> None:
    """Append the whole line or nothing: an incomplete line, left on a full disk, would also damage
    the next one."""
    with open(path, "ab", buffering=0, opener=owner_only) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
