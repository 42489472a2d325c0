"""Clipping and noise: what protects a delta, or a mean of deltas, before it is released."""

import math
from collections.abc import Sequence

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.learning.parameters import Params
from lumos_core.privacy.noise import add_noise, node_entropy, server_entropy
from lumos_core.wire import deltas


def protect(delta: Params, config: RunConfig, key: bytes, name: str, round: int) -> Params:
    """What a node does to its delta before it is encoded: nothing, clip, or clip and add noise."""
    if config.dp not in ("central", "distributed"):
        return delta
    clipped = deltas.clip(delta, config.dp_clip)
    if config.dp == "central":
        return clipped
    std = node_noise(config)
    return add_noise(clipped, std, node_entropy(config, key, name, round, clipped))


def node_noise(config: RunConfig) -> float:
    """Standard deviation of the noise that a node adds to every value (``dp = distributed``)."""
    return config.dp_noise_multiplier * config.dp_clip / math.sqrt(config.min_replies)


def fewest_replies(config: RunConfig, nodes: int) -> int:
    """``min-replies`` of an experiment in one process, where all nodes answer: 1, so that no round
    fails because a reply was rejected. With ``dp = distributed`` that of the configuration, as far
    as there are nodes: a node's noise is its share among so many."""
    return min(config.min_replies, nodes) if config.dp == "distributed" else 1


def central_mean(replies: Sequence[Params], config: RunConfig, round: int) -> Params:
    """The plain mean of clipped deltas with the server's noise (``dp = central``)."""
    clipped = [deltas.clip(reply, config.dp_clip) for reply in replies]
    mean = plain_mean(clipped)
    std = config.dp_noise_multiplier * config.dp_clip / len(replies)
    return add_noise(mean, std, server_entropy(config, round))


def noisy_mean(mean: Params, nodes: int, config: RunConfig, round: int) -> Params:
    """Like :func:`central_mean`, but with secure aggregation, where the server sees only the mean.

    The server cannot clip single deltas then, and has to trust that each node has clipped its own.
    A node rounds its values before it masks them, which moves every value by less than a step; the
    noise covers this as well.
    """
    step = config.secagg_clip / (2 ** (config.secagg_bits - 1) - 1)
    bound = config.dp_clip + step * math.sqrt(sum(a.size for a in mean.values()))
    std = config.dp_noise_multiplier * bound / nodes
    return add_noise(deltas.clip(mean, bound), std, server_entropy(config, round))


def plain_mean(replies: Sequence[Params]) -> Params:
    """The unweighted mean: no node contributes more than 1 / n of its own delta."""
    return {
        n: np.asarray(np.mean([r[n] for r in replies], axis=0, dtype=np.float64), np.float32)
        for n in replies[0]
    }
