"""Parameters as they are stored, sent and added up: numpy arrays by name. Needs no torch."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from lumos_core.config import SASREC, ModelKeys

Params = dict[str, np.ndarray]
"""Names and float32 arrays of a model, in the order of ``SASRec.state_dict()``."""

ITEM_TABLE = "items.weight"
"""Name of the item embeddings, float32 [N + 1, D]; row 0 is padding and stays zero."""


@dataclass(frozen=True)
class ModelShape:
    """Everything that determines the names and shapes of the parameters."""

    num_items: int
    dim: int
    layers: int
    heads: int
    max_len: int
    encoder: str = SASREC

    @classmethod
    def of(cls, config: ModelKeys, num_items: int) -> "ModelShape":
        return cls(
            num_items, config.dim, config.layers, config.heads, config.max_len, config.encoder
        )

    def to_dict(self) -> dict[str, int | str]:
        """The fields as they are stored and hashed. ``encoder`` is left out if it is SASRec: older
        versions had no other encoder and did not write the field."""
        found = asdict(self)
        return {k: v for k, v in found.items() if k != "encoder" or v != SASREC}

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex digest; equal on two machines exactly when their models fit each other."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
