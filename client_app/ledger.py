"""The node's ledger: every record that leaves this machine, for its owner to read.

One JSON object a line in ``<state>/ledger.jsonl``: when, for which run and round, and for each
record its name, shape, dtype, bytes and (arrays) L2 norm. Values are never written. The line is on
disk before the reply is handed to Flower; if it cannot be written, the reply does not leave.
"""

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client_app.error_codes import LedgerError
from lumos_core.errors import reason_of
from lumos_core.flower.records import from_record, record_bytes
from lumos_core.safe_files import owner_only, private_folder

FILE = "ledger.jsonl"


def append(folder: Path, reply: Message, round_: int) -> None:
    """Note an outbound reply.

    Raises:
        LedgerError: the line could not be written.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": str(reply.metadata.run_id),  # 64 bits: too large for some JSON readers
        "round": round_,
        "message": reply.metadata.message_type,
        "records": describe(reply.content),
    }
    try:
        private_folder(folder)
        _append(folder / FILE, json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise LedgerError(f"{folder / FILE}: cannot be written: {reason_of(error)}") from error


def _append(path: Path, line: bytes) -> None:
    """All of the line or nothing: half of one, on a full disk, would spoil the next as well."""
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
