"""HR@20 by how often the target occurs in the training histories.

A mean over all users hides what a model does for rare items, which are most of a catalog.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.data.sequences import LeaveOneOut, Sequences

Floats = npt.NDArray[np.float64]


class RarityClass(NamedTuple):
    """Targets with at least ``least`` and fewer than ``below`` uses in training."""

    name: str
    least: int
    below: float

    def members(self, counts: Floats) -> npt.NDArray[np.bool_]:
        """Which users have such a target."""
        return (counts >= self.least) & (counts < self.below)


CLASSES = (
    RarityClass("< 5", 0, 5),
    RarityClass("5–9", 5, 10),
    RarityClass("10–19", 10, 20),
    RarityClass("20–49", 20, 50),
    RarityClass("≥ 50", 50, float("inf")),
)
RARE = CLASSES[0]


def target_counts(users: Sequences) -> npt.NDArray[np.int64]:
    """int64 [U]: how often each user's test item occurs in the training histories of all."""
    split = LeaveOneOut(users)
    _, targets = split.test()
    counts = np.bincount(split.train().items, minlength=int(targets.max(initial=0)) + 1)
    return counts[targets]


def hit_rate(
    ranks: Sequence[Floats], counts: Floats, rarity: RarityClass, cutoff: int = 20
) -> float | None:
    """HR of the targets of a class, over all seeds; None if there are none.

    Args:
        ranks: [U] for every seed.
        counts: :func:`target_counts`.
    """
    members = rarity.members(counts)
    if not members.any():
        return None
    return float(np.mean([(row[members] <= cutoff).mean() for row in ranks]))
