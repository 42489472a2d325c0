"""Which round's model is the best, where the nodes that say so may lie.

A run's result is the model of the round with the best validation NDCG@20, and what nodes report of
it are claims. One node that claims a billion users, to whom nothing but the untrained model was any
good, would make that model the result, however well the others train. So in this choice no node
weighs more than a few median ones, and no node's mean counts as further from the median node's than
chance, or the nodes' own differences, explain. Where no bound is reached, as among honest nodes of
like size, the choice is by the plain mean over all users. What is *reported* is always that mean.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHANCE = 1e-3
"""Probability with which an honest node may be further off than chance is said to explain."""
SPREAD = 3 * 1.4826
"""Median absolute deviations that make three standard deviations of a normal distribution."""
FEWEST = 3
"""Of fewer nodes than this, none is typical."""


class Selection(NamedTuple):
    """What a round is worth.

    Attributes:
        value: mean of the selection metric, bounded; rounds are compared by it.
        doubted: bool [nodes], whose means were out of line.
    """

    value: float
    doubted: np.ndarray


def capped(counts: np.ndarray, ratio: float) -> np.ndarray:
    """Counts as weights. They are claims: however large one is, it cannot drown the others.

    Args:
        counts: float64 [nodes], positive.
        ratio: a node weighs at most so many median nodes; of two nodes the smaller is the median.
    """
    typical = float(np.quantile(counts, 0.5, method="lower"))
    weights: np.ndarray = np.minimum(counts, ratio * typical)
    return weights


def bounded_mean(users: Sequence[float], sums: Sequence[float], ratio: float) -> Selection:
    """Mean over users, in which a single node has a bounded say.

    A node's mean is clipped to the median node's, give or take Bernstein's bound for as many users,
    each with a value from 0 to 1, or three robust standard deviations between nodes, if that is
    more. There is no bound of the kind for fewer than three nodes.

    Args:
        users: of every node; positive.
        sums: over its users, of a metric from 0 to 1.
        ratio: a node weighs at most so many median nodes.
    """
    counts, totals = np.asarray(users, dtype=np.float64), np.asarray(sums, dtype=np.float64)
    weights = capped(counts, ratio)
    means = totals / counts
    bounded = means
    if len(means) >= FEWEST:
        middle = float(np.median(means))
        between = SPREAD * float(np.median(np.abs(means - middle)))
        odds = math.log(2 / CHANCE)
        variance = max(middle * (1 - middle), 0.0)
        chance = np.sqrt(2 * variance * odds / counts) + 2 * odds / (3 * counts)
        reach = np.maximum(chance, between)
        bounded = np.clip(means, middle - reach, middle + reach)
    doubted = bounded != means
    if not doubted.any() and (weights == counts).all():
        return Selection(sum(sums) / sum(users), doubted)  # added up as what is reported is
    return Selection(float(weights @ bounded / weights.sum()), doubted)
