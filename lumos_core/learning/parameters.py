"""Parameters as they are stored, sent and added up: numpy arrays by name. Needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from lumos_core.config import SASREC, RunConfig

Params = dict[str, np.ndarray]
"""Names and float32 arrays of a model, in the order of ``SASRec.state_dict()``."""

ITEM_TABLE = "items.weight"
"""Name of the item embeddings, float32 [N + 1, D]; row 0 is padding and stays zero."""
ITEM_BIAS = "bias"
"""Name of the item bias, float32 [N + 1], of models that have one."""

OF_ITEMS = (ITEM_TABLE, ITEM_BIAS)
"""Names of the parameters that have a row for each item."""


def with_all_rows(part: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """An array whose other rows are zero.

    Args:
        part: [K, …], some of its rows.
        rows: int64 [K], their numbers.
        count: how many rows the array has.
    """
    whole = np.zeros((count, *part.shape[1:]), dtype=part.dtype)
    whole[rows] = part
    return whole


def of_first_items(params: Mapping[str, np.ndarray], items: int) -> Params:
    """A model's arrays without the rows of later items.

    Args:
        params: of a model of N items.
        items: M, at most N.

    Returns:
        The same arrays (views, no copies), those of items with 1 + M rows.
    """
    return {n: a[: 1 + items] if n in OF_ITEMS else a for n, a in params.items()}


def with_later_items(part: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]) -> Params:
    """The opposite for a delta: rows of later items are zero.

    Args:
        part: a delta of the first items.
        like: arrays of all items.
    """
    return {
        n: with_all_rows(a, np.arange(len(a)), len(like[n])) if n in OF_ITEMS else a
        for n, a in part.items()
    }


_ADDED_LATER = {"encoder": SASREC, "item_bias": False}


@dataclass(frozen=True)
class ModelShape:
    """Everything that determines the names and shapes of the parameters."""

    num_items: int
    dim: int
    layers: int
    heads: int
    max_len: int
    encoder: str = SASREC
    item_bias: bool = False

    @classmethod
    def of(cls, config: RunConfig, num_items: int) -> "ModelShape":
        return cls(
            num_items, config.dim, config.layers, config.heads, config.max_len, config.encoder,
            config.learns_item_bias,
        )  # fmt: skip

    def to_dict(self) -> dict[str, int | str]:
        """The fields as they are stored and hashed. Fields of :data:`_ADDED_LATER` are left out if
        they have the only value that older versions, which did not write them, had."""
        found = asdict(self)
        return {k: v for k, v in found.items() if k not in _ADDED_LATER or v != _ADDED_LATER[k]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex digest; equal on two machines exactly when their models fit each other."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
