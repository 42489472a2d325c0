"""HR@20 by how often the target occurs in the training histories.

A mean over all users hides what a model does for rare items, which are most of a catalog.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut, Split

Floats = npt.NDArray[np.float64]


class CountClass(NamedTuple):
    """Users with a count, such as the uses of their target, of at least ``least`` and less than
    ``below``."""

    name: str
    least: int
    below: float

    def members(self, counts: Floats) -> npt.NDArray[np.bool_]:
        """Which users are in it."""
        return (counts >= self.least) & (counts < self.below)


CLASSES = (
    CountClass("< 5", 0, 5),
    CountClass("5–9", 5, 10),
    CountClass("10–19", 10, 20),
    CountClass("20–49", 20, 50),
    CountClass("≥ 50", 50, float("inf")),
)
RARE = CLASSES[0]


def target_counts(users: Sequences, split: Split | None = None) -> npt.NDArray[np.int64]:
    """int64 [U]: how often each user's test item occurs in the training histories of all.

    Args:
        users: all users.
        split: of theirs; leave-one-out if not given.
    """
    split = split or LeaveOneOut(users)
    _, targets = split.test()
    counts = np.bincount(split.train().items, minlength=int(targets.max(initial=0)) + 1)
    return counts[targets]


def hit_rate(
    ranks: Sequence[Floats], counts: Floats, of: CountClass, cutoff: int = 20
) -> float | None:
    """HR of the users of a class, over all seeds; None if there are none.

    Args:
        ranks: [U] for every seed.
        counts: [U], such as :func:`target_counts`.
        of: the class.
    """
    members = of.members(counts)
    if not members.any():
        return None
    return float(np.mean([(row[members] <= cutoff).mean() for row in ranks]))
