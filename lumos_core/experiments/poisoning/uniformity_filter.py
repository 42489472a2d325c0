"""UNION, the server's part: deltas that make the item table uneven are left out (Yu et al., AAAI
2023, arXiv 2212.05399).

The server adds each delta to the item table it sent, and measures how uniformly the embeddings of
sampled items are spread then: the mean distance of two normalised embeddings. The gap statistic
(Tibshirani et al., 2001) says whether these numbers are one group or two; if they are two, the
smaller one is left out.

Differences. The paper takes the table after a step of the server's optimiser; here it is the table
that the node has trained. The paper also leaves out the smaller group if it is no larger than the
number of attackers, which the server here does not know.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Instruction, Reply

SAMPLED = 500
REFERENCES = 200
LEFT_OUT = "left out: the item table it trained is unevenly spread"


class FilteringTransport(InProcessTransport):
    """Replaces the replies that UNION leaves out by errors.

    Args:
        nodes: the nodes.
        config: the run's; its seed decides which items are sampled.
    """

    def __init__(self, nodes: Sequence[Node], config: RunConfig) -> None:
        super().__init__(nodes)
        self._config = config

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        replies = super().exchange(instructions, deadline)
        trained = [i for i, reply in enumerate(replies) if reply.arrays is not None]
        params = next((i.params for i in instructions if i.params is not None), None)
        if params is None or len(trained) < 3:
            return replies
        agreed, share = codec(self._config.delta_codec), self._config.top_rows_share
        tables = [
            agreed.decode(replies[i].arrays or {}, params, share)[ITEM_TABLE] for i in trained
        ]
        rng = np.random.default_rng([self._config.seed, instructions[0].round])
        for index, outlier in zip(trained, uneven(params, tables, rng), strict=True):
            if outlier:
                replies[index] = replace(replies[index], arrays=None, error=LEFT_OUT)
        return replies


def uneven(params: Params, tables: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Which deltas to leave out: bool [nodes].

    Args:
        params: the global model.
        tables: float [N + 1, D], the item tables of the deltas. One that is not finite is left to
            the checks of the server.
        rng: draws the items, and the references of the gap statistic.
    """
    items = len(params[ITEM_TABLE]) - 1
    chosen = 1 + rng.choice(items, size=min(SAMPLED, items), replace=False)
    out = np.zeros(len(tables), dtype=bool)
    sound = np.array([i for i, table in enumerate(tables) if np.isfinite(table).all()], dtype=int)
    if len(sound) < 3:
        return out
    values = np.array(
        [uniformity((params[ITEM_TABLE] + tables[i])[chosen]) for i in sound.tolist()]
    )
    split = two_groups(values)
    if has_two_groups(values, rng):
        order = np.argsort(values, kind="stable")
        out[sound[order[:split] if split <= len(sound) - split else order[split:]]] = True
    return out


def uniformity(rows: np.ndarray) -> float:
    """The mean distance of two normalised embeddings: float [M, D] → number."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = np.clip(unit @ unit.T, -1.0, 1.0)
    distance = np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0))
    return float(distance.sum() / (len(rows) * max(len(rows) - 1, 1)))


def has_two_groups(values: np.ndarray, rng: np.random.Generator) -> bool:
    """The gap statistic: are numbers two groups rather than one?"""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return False
    scaled = (values - low) / (high - low)
    references = rng.random((REFERENCES, len(values)))
    gaps, errors = [], []
    for within in (_one, _two):
        logs = np.log([within(row) + 1e-12 for row in references])
        gaps.append(logs.mean() - np.log(within(scaled) + 1e-12))
        errors.append(logs.std() * np.sqrt(1 + 1 / REFERENCES))
    return bool(gaps[0] < gaps[1] - errors[1])


def two_groups(values: np.ndarray) -> int:
    """How many of the smallest numbers form the lower of two groups, by 2-means, which is exact for
    numbers."""
    ordered = np.sort(values)
    costs = [_one(ordered[:n]) + _one(ordered[n:]) for n in range(1, len(ordered))]
    return 1 + int(np.argmin(costs))


def _one(values: np.ndarray) -> float:
    return float(np.square(values - values.mean()).sum())


def _two(values: np.ndarray) -> float:
    split, ordered = two_groups(values), np.sort(values)
    return _one(ordered[:split]) + _one(ordered[split:])
