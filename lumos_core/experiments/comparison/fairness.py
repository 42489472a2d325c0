"""Who gets good recommendations: HR@20 by length of the history, by node, and of the worst tenth.

A mean over all users hides it if a method serves users with long histories, or one large node, and
the others badly. The worst tenth is chosen by the same numbers that are reported of it: chance
alone puts it below the mean. So compare it between variants, not with the mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut, Split
from lumos_core.experiments.comparison.rarity import CountClass, Floats
from lumos_core.learning.metrics import worst_tenth

Owners = npt.NDArray[np.int64]
CUTOFF = 20
LENGTHS = (
    CountClass("1–3", 1, 4),
    CountClass("4–7", 4, 8),
    CountClass("8–15", 8, 16),
    CountClass("16–31", 16, 32),
    CountClass("≥ 32", 32, float("inf")),
)
"""By items of a user's training history: all but the items of validation and test."""


class NodeSpread(NamedTuple):
    """HR@20 of the nodes, each of which counts the same: means over seeds."""

    mean: float
    deviation: float
    worst_tenth: float


class UserSpread(NamedTuple):
    """HR@20 of single users, each over all seeds and both splits.

    Attributes:
        worst_tenth: of the users that were hit least often.
        never: the share of the users that were not hit once.
    """

    worst_tenth: float
    never: float


def training_lengths(users: Sequences, split: Split | None = None) -> npt.NDArray[np.int64]:
    """int64 [U]: how many items the training history of each user with a test target has.

    Args:
        users: all users.
        split: of theirs; leave-one-out if not given.
    """
    split = split or LeaveOneOut(users)
    return split.train().lengths[split.users_in("test")]


def node_spread(runs: Sequence[tuple[Floats, Owners]]) -> NodeSpread | None:
    """How a variant's HR@20 differs between nodes; None without a run.

    Args:
        runs: for every seed the ranks [U] and each user's node [U]. The nodes of one seed need not
            be those of another.
    """
    found = [_of_nodes(ranks, owners) for ranks, owners in runs]
    if not found:
        return None
    return NodeSpread(*(float(np.mean(values)) for values in zip(*found, strict=True)))


def user_spread(ranks: Sequence[Floats]) -> UserSpread | None:
    """How a variant's hits are spread over users; None without ranks.

    Args:
        ranks: [U] for every seed and split.
    """
    if not ranks:
        return None
    rates = (np.stack(list(ranks)) <= CUTOFF).mean(axis=0)
    return UserSpread(worst_tenth(rates), float((rates == 0).mean()))


def _of_nodes(ranks: Floats, owners: Owners) -> NodeSpread:
    users = np.bincount(owners)
    hits = np.bincount(owners, ranks <= CUTOFF)
    rates = hits[users > 0] / users[users > 0]
    return NodeSpread(float(rates.mean()), float(rates.std()), worst_tenth(rates))
