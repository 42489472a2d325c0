"""The choice of the best round, although nodes may report false metrics.

A run's result is the model of the round with the best validation NDCG@20. The server cannot verify
what nodes report about it. A single node could claim a billion users and a good metric for the
untrained model only, and so make the untrained model the result, however well the others train.
Therefore two bounds hold in this choice. No node weighs more than a few median nodes. And no node's
mean counts as further from the median node's mean than chance, or the usual differences between the
nodes, can explain. If no bound is reached, as among honest nodes of similar size, the choice goes
by the plain mean over all users. The *reported* metric is always that plain mean.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHANCE = 1e-3
"""Accepted probability that chance alone takes an honest node's mean beyond the bound."""
SPREAD = 3 * 1.4826
"""Median absolute deviations that make three standard deviations of a normal distribution."""
FEWEST = 3
"""Fewer nodes than this have no typical one among them."""


class Selection(NamedTuple):
    """How good a round is, for the choice of the best one.

    Attributes:
        value: mean of the selection metric, bounded; rounds are compared by it.
        doubted: bool [nodes], whether the node's mean was out of bounds.
    """

    value: float
    doubted: np.ndarray


def capped(counts: np.ndarray, ratio: float) -> np.ndarray:
    """Counts as weights, each with an upper bound: nodes may claim any count.

    Args:
        counts: float64 [nodes], positive.
        ratio: a node weighs at most this many times the median; of two nodes the smaller is the
            median.
    """
    typical = float(np.quantile(counts, 0.5, method="lower"))
    weights: np.ndarray = np.minimum(counts, ratio * typical)
    return weights


def bounded_mean(users: Sequence[float], sums: Sequence[float], ratio: float) -> Selection:
    """Mean over users, in which the influence of a single node is bounded.

    A node's mean is clipped to an interval around the median node's mean. Its half-width is the
    larger of two numbers: Bernstein's bound for the mean of as many users, each with a value from 0
    to 1, and three robust standard deviations of the means between nodes. With fewer than three
    nodes means are not clipped.

    Args:
        users: number of users of every node; positive.
        sums: for every node, the sum over its users of a metric from 0 to 1.
        ratio: a node weighs at most this many times the median, see :func:`capped`.
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
        return Selection(sum(sums) / sum(users), doubted)  # the arithmetic of the reported mean
    return Selection(float(weights @ bounded / weights.sum()), doubted)
