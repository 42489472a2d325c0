"""The node's ledger: every record that leaves this machine, for its owner to read.

``<state>/ledger.jsonl`` has one JSON object per line: the time, the run and round, the run's
privacy, the bytes of the reply, and for each record its name, bytes and, if it holds arrays, their
shape, dtype and L2 norm. Values are never written. The line is on disk before Flower gets the
reply; if it cannot be written, the reply does not leave. ``lumos node ledger`` tells all of them in
plain words.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client_app.error_codes import LedgerError
from lumos_core.config import RunConfig
from lumos_core.errors import reason_of
from lumos_core.flower.records import from_record, payload_bytes, record_bytes
from lumos_core.privacy.ledger_file import FILE, write_line


def append(folder: Path, reply: Message, round_: int, config: RunConfig | None = None) -> None:
    """Record an outbound reply.

    Args:
        folder: the node's state folder.
        reply: the reply.
        round_: of the instruction that it answers.
        config: the run's, as far as it is known.

    Raises:
        LedgerError: the line could not be written.
    """
    facts = {
        "run": str(reply.metadata.run_id),  # 64 bits: too large for some JSON readers
        "round": round_,
        "message": reply.metadata.message_type,
        **({} if config is None else _protection(config)),
        "bytes": payload_bytes(reply.content),
        "records": describe(reply.content),
    }
    try:
        write_line(folder, facts)
    except OSError as error:
        raise LedgerError(f"{folder / FILE}: cannot be written: {reason_of(error)}") from error


def _protection(config: RunConfig) -> dict[str, Any]:
    """The run's key, by which ``spent.json`` counts its ε, and how the run protects what leaves."""
    from lumos_core.runs.resume import run_key

    return {
        "run_key": run_key(config, ""),
        "privacy": {
            "dp": config.dp,
            "noise": 0.0 if config.dp == "none" else config.dp_noise_multiplier,
            "public_noise": config.dp != "none" and config.dp_noise_seed >= 0,
            "secure_aggregation": config.secure_aggregation,
        },
    }


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
