"""The class of a rule, and the rules that treat all items alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lumos_core.learning.parameters import OF_ITEMS, Params

TRIM_SHARE = 0.1
"""Share of the values that the trimmed mean drops at either end: at least one value if there are
three or more."""

RuleFunction = Callable[[Sequence[Params], np.ndarray], Params]
"""Deltas and float64 [nodes] weights (positive, summing to 1) → aggregated delta."""


@dataclass(frozen=True)
class Rule:
    """A way to make one delta of many."""

    name: str
    """Its name as a value of the configuration key ``aggregation``."""
    function: RuleFunction
    needs_single_deltas: bool
    """Whether it compares deltas with each other. If not, their weighted sum is enough, and the
    rule works with secure aggregation, which shows the server nothing but a sum."""
    averages_table: bool = False
    """Whether it takes the weighted mean of the item table, and treats other arrays without looking
    at the table. Then deltas need to have only the rows of the table that moved."""


def mean(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Weighted mean (FedAvg; McMahan et al., AISTATS 2017).

    Deltas are added up one by one: thousands of them need no more memory than one.
    """
    found = {}
    for name, first in deltas[0].items():
        total = np.zeros(first.shape, dtype=np.float64)
        for delta, weight in zip(deltas, weights, strict=True):
            total += np.multiply(delta[name], weight, dtype=np.float64)
        found[name] = total.astype(np.float32)
    return found


def median(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Coordinate-wise median (Yin et al., ICML 2018); weights are ignored."""
    return _per_array(deltas, lambda stacked: np.median(stacked, axis=0))


def trimmed_mean(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Coordinate-wise mean without the extremes (Yin et al., ICML 2018); weights are ignored."""
    n = len(deltas)
    cut = int(trimmed_off(np.array(n)))

    def trimmed(stacked: np.ndarray) -> np.ndarray:
        return np.asarray(np.sort(stacked, axis=0)[cut : n - cut].mean(axis=0))

    return _per_array(deltas, trimmed)


def trimmed_off(voters: np.ndarray) -> np.ndarray:
    """How many values the trimmed mean drops at either end: int [...] → int [...]."""
    return np.where(voters >= 3, np.maximum((voters * TRIM_SHARE).astype(np.int64), 1), 0)


def median_encoder(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Weighted mean of item table and item bias, coordinate-wise median of everything else, the
    encoder.

    Table and bias have a row for every item, each node knows few of them, and clipping bounds each
    row.
    The encoder serves all users: it is small, all honest nodes move it in a similar way, and one
    direction in it can change everybody's recommendations. Nodes that did not move it are left out
    of the median, but keep their share of the weight, as in a mean: the median is scaled by the
    share of the others. If fewer than three nodes moved it, the mean is taken.
    """
    averaged = mean(deltas, weights)
    encoders = [{n: a for n, a in delta.items() if n not in OF_ITEMS} for delta in deltas]
    moved = [any(a.any() for a in encoder.values()) for encoder in encoders]
    if sum(moved) < 3:
        return averaged
    share = np.float32(1.0 if all(moved) else weights[moved].sum())
    central = median([e for e, m in zip(encoders, moved, strict=True) if m], weights[moved])
    return {**averaged, **{name: share * array for name, array in central.items()}}


def multi_krum(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Weighted mean of the deltas closest to their neighbours (Blanchard et al., NeurIPS 2017).

    With n deltas it tolerates f = ⌊(n − 3) / 2⌋ wrong ones and keeps the n − f with the smallest
    sum of squared distances to their n − f − 2 nearest others. With fewer than five deltas f is 0:
    no wrong one can be identified, and the rule is the mean.
    """
    n = len(deltas)
    f = max((n - 3) // 2, 0)
    if f == 0:
        return mean(deltas, weights)
    flat = np.stack([np.concatenate([a.ravel() for a in d.values()]) for d in deltas])
    squares = np.square(flat, dtype=np.float64).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (flat.astype(np.float64) @ flat.T)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : n - f - 2].sum(axis=1)
    kept = np.sort(np.argsort(scores, kind="stable")[: n - f])
    return mean([deltas[i] for i in kept], weights[kept] / weights[kept].sum())


def _per_array(deltas: Sequence[Params], reduce: Callable[[np.ndarray], np.ndarray]) -> Params:
    return {
        name: reduce(np.stack([d[name] for d in deltas])).astype(np.float32) for name in deltas[0]
    }
