"""Checkpoints of a run: model, server optimiser, round number. Written after every round.

All parts of a state are in one file, so that a crash can never leave a new model beside an old
optimiser state::

    checkpoint/latest.safetensors   global model + server optimiser + metadata (round, best, …)
    checkpoint/best.safetensors     global model of the best validation NDCG@20 + metadata
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lumos_core.errors import ModelError
from lumos_core.learning.parameters import Params
from lumos_core.safe_files import refuse_newer, write_atomically

LATEST, BEST = "checkpoint/latest.safetensors", "checkpoint/best.safetensors"
"""Their paths in a run folder."""
OptimizerState = dict[str, np.ndarray]
"""The state of a server optimiser: a flat mapping of named arrays."""
_MODEL, _OPTIMIZER = "model/", "optimizer/"
_VERSION = 2
"""Version of the metadata's schema; 2 added ``title_weight``. Version 1 is not written into the
file; only later ones are, as the key "schema_version", and only where the key is not 0. An older
LUMOS refuses keys that it does not know, so these would stop it from resuming a run of version 1. A
second entry of metadata is no alternative: the order of two entries would differ from file to
file."""


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class RunProgress:
    """How far a run has come; stored as JSON in the file's metadata."""

    round: int  # rounds finished
    best_round: int  # evaluated round with the best validation NDCG@20; -1 before any
    best_ndcg: float  # NDCG@20 of that round, see lumos_core.federation.best_round
    evaluations_since_best: int
    catalog: str  # fingerprint
    shape: str  # fingerprint of the model's shape
    config: dict[str, str | int | float | bool]
    title_weight: float = 0.0  # of the titles' nearness, for rankings by the best round's model

    def after_evaluation(
        self, of_round: int, metric: float, title_weight: float = 0.0
    ) -> "RunProgress":
        """The progress after the model of a round was evaluated on the validation targets."""
        if self.best_round < 0 or metric > self.best_ndcg:
            return replace(
                self, best_round=of_round, best_ndcg=metric, evaluations_since_best=0,
                title_weight=title_weight,
            )  # fmt: skip
        return replace(self, evaluations_since_best=self.evaluations_since_best + 1)


@dataclass(frozen=True)
class Checkpoint:
    params: Params
    optimizer: OptimizerState
    progress: RunProgress


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: an older file at ``path`` stays intact until the new one is complete."""
    arrays = {_MODEL + n: np.ascontiguousarray(a) for n, a in checkpoint.params.items()}
    arrays |= {_OPTIMIZER + n: np.ascontiguousarray(a) for n, a in checkpoint.optimizer.items()}
    facts = asdict(checkpoint.progress)
    if checkpoint.progress.title_weight:
        facts |= {"schema_version": _VERSION}
    else:
        del facts["title_weight"]
    metadata = {"progress": json.dumps(facts)}
    write_atomically(path, save(arrays, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        ModelError: there is no such file, or it is not a LUMOS checkpoint.
        NewerFileError: a newer LUMOS wrote it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = _progress(path, json.loads(metadata["progress"]))
    except FileNotFoundError:
        raise ModelError(f"{path}: no checkpoint here; is this the folder of a run?") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: not a readable LUMOS checkpoint ({type(error).__name__})"
        ) from None
    return Checkpoint(
        params=_under(_MODEL, arrays), optimizer=_under(_OPTIMIZER, arrays), progress=progress
    )


def _progress(path: Path, found: dict[str, Any]) -> RunProgress:
    """Raises TypeError or ValueError if it is damaged."""
    facts = dict(found)
    refuse_newer(path, int(facts.pop("schema_version", _VERSION)), _VERSION)
    return RunProgress(**facts)


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
