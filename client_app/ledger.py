"""The node's ledger: every record that leaves this machine, for its owner to read.

``<state>/ledger.jsonl`` has one JSON object per line: the time, the run and round, and for each
record its name, bytes and, if it holds arrays, their shape, dtype and L2 norm. Values are never
written. The line is on disk before Flower gets the reply; if it cannot be written, the reply does
not leave.

A ledger that would grow beyond 16 MiB is renamed to ``ledger-<UTC time>.jsonl`` and compressed to
``….jsonl.gz``. LUMOS never deletes these: they are the owner's record of what left the machine.
"""

import errno
import gzip
import json
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client_app.error_codes import LedgerError
from lumos_core.errors import reason_of
from lumos_core.flower.records import from_record, record_bytes
from lumos_core.safe_files import exclusive, lock_beside, owner_only, private_folder, replacing

FILE = "ledger.jsonl"
LIMIT_BYTES = 16 * 1024**2
LOCK_SECONDS = 60.0  # other ClientApps of this node need milliseconds, or a second to compress


def append(folder: Path, reply: Message, round_: int) -> None:
    """Record an outbound reply.

    Raises:
        LedgerError: the line could not be written.
    """
    path = folder / FILE
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": str(reply.metadata.run_id),  # 64 bits: too large for some JSON readers
        "round": round_,
        "message": reply.metadata.message_type,
        "records": describe(reply.content),
    }
    try:
        private_folder(folder)
        # One process at a time. If one renamed the ledger between the opening and the writing of
        # another, that line would go into a file that is being compressed. And removing an
        # incomplete line could remove another process's line.
        with exclusive(lock_beside(path), LOCK_SECONDS, mode=0o600):
            _append_or_begin_new(path, json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written: {reason_of(error)}") from error


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


def describe(content: RecordDict) -> list[dict[str, Any]]:
    """Names, shapes, dtypes, bytes and norms of everything in ``content``."""
    entries: list[dict[str, Any]] = []
    for record_name, record in content.items():
        if isinstance(record, ArrayRecord):
            entries += [
                {
                    "record": record_name,
                    "array": name,
                    "shape": list(array.shape),
                    "dtype": str(array.dtype),
                    "bytes": array.nbytes,
                    "norm": float(np.linalg.norm(array.astype(np.float64))),
                }
                for name, array in from_record(record).items()
            ]
        elif isinstance(record, MetricRecord | ConfigRecord):
            entry = {"record": record_name, "names": sorted(record), "bytes": record_bytes(record)}
            entries.append(entry)
    return entries
