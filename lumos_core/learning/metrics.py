"""HR@K, NDCG@K and MRR from ranks: as sums over users, which add up, and as means. No torch."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

CUTOFFS = (5, 10, 20)
SELECTION_METRIC = "ndcg@20"
"""The metric on the validation targets by which models are chosen and training is stopped."""


def ranking_sums(ranks: np.ndarray) -> dict[str, float]:
    """Sums over users of HR@K, NDCG@K (one relevant item: 1 / log2(1 + rank)) and MRR."""
    sums: dict[str, float] = {"users": float(len(ranks))}
    for k in CUTOFFS:
        hit = ranks <= k
        sums[f"hr@{k}"] = float(hit.sum())
        sums[f"ndcg@{k}"] = float((hit / np.log2(1 + ranks)).sum())
    sums["mrr"] = float((1 / ranks).sum())
    return sums


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn sums over users into means; "users" itself is left out. Empty without users."""
    users = sums.get("users", 0.0)
    return {k: v / users for k, v in sums.items() if k != "users"} if users else {}


def worst_tenth(values: npt.ArrayLike) -> float:
    """The mean of the lowest tenth of the values, of at least one.

    >>> worst_tenth([0.5, 0.1, 0.3])
    0.1
    """
    rising = np.sort(np.asarray(values, dtype=np.float64))
    return float(rising[: math.ceil(len(rising) / 10)].mean())
