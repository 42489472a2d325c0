"""The nearest titles of every title.

Up to `EXACT` titles all are compared with all. The time of that grows with the square of their
number, so of more titles each is compared with those near it only: a few titles, drawn at random,
are leaders, and every title belongs to the leader that is nearest to it; it is then compared with
the titles of its own and of the nearest other leaders (cluster pruning: Manning, Raghavan, Schütze,
Introduction to Information Retrieval, 2008, section 7.1.6). Groups have a bounded size, so that
the time of a title does not depend on how many there are. Some neighbours are missed; how many,
``benchmarks/catalog_scale.py`` measures.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXACT = 20_000
"""The largest catalog of which all titles are compared with all."""
GROUP = 512
"""Titles of a leader, on average; a group has at most twice as many."""
GROUPS = 16
"""Groups that a title is compared with, its own included."""
_SORTED_WHOLE = 1024  # shorter rows are sorted as a whole


def top_k(scores: Floats, k: int) -> Ints:
    """[B, min(k, N)] positions of the largest of [B, N] scores, best first; ties go to the lower
    position."""
    items = scores.shape[-1]
    k = min(k, items)
    if items <= _SORTED_WHOLE or 2 * k > items or not k:
        return np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    # a partition alone could break ties at the boundary differently in another version of numpy
    least = -np.partition(-scores, k - 1, axis=-1)[:, k - 1]
    best = np.empty((len(scores), k), dtype=np.int64)
    for row, bound, out in zip(scores, least, best, strict=True):
        found = np.flatnonzero(row >= bound)
        out[:] = found[np.argsort(-row[found], kind="stable")[:k]]
    return best


def nearest(vectors: Any, k: int, block: int = 512) -> tuple[Ints, Floats]:
    """The k nearest other titles of every title.

    Args:
        vectors: [N, H] with rows of length 1 (or 0), dense or CSR.
        k: at least 1.
        block: rows that are compared at a time.

    Returns:
        rows and cosines, both [N, min(k, N - 1)], nearest first.
    """
    n = vectors.shape[0]
    k = min(k, n - 1)
    rows, cosines = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    parts = _all(n, block) if n <= EXACT else _by_groups(vectors, block)
    for some, others in parts:
        beside = vectors if len(others) == n else vectors[others]
        scores = dense(vectors[some] @ beside.T)
        scores[np.arange(len(some)), np.searchsorted(others, some)] = -np.inf
        best = top_k(scores, k)
        rows[some] = others[best]
        cosines[some] = np.take_along_axis(scores, best, axis=1)
    return rows, cosines


def _all(n: int, block: int) -> Iterator[tuple[Ints, Ints]]:
    """Rows, and the rows that they are compared with: all."""
    everything = np.arange(n)
    for start in range(0, n, block):
        yield everything[start : start + block], everything


def _by_groups(vectors: Any, block: int) -> Iterator[tuple[Ints, Ints]]:
    """Rows, and the rows that they are compared with, in order: those of the nearest groups."""
    n = vectors.shape[0]
    leaders = np.sort(np.random.default_rng(0).choice(n, -(-n // GROUP), replace=False))
    chosen = np.concatenate(
        [
            dense(vectors[start : start + block] @ vectors[leaders].T).argmax(axis=1)
            for start in range(0, n, block)
        ]
    )
    groups, led_by = [], []
    for number in range(len(leaders)):
        members = np.flatnonzero(chosen == number)
        for start in range(0, len(members), 2 * GROUP):
            groups.append(members[start : start + 2 * GROUP])
            led_by.append(leaders[number])
    between = dense(vectors[led_by] @ vectors[led_by].T)
    np.fill_diagonal(between, np.inf)  # its own group is among them, however many are alike
    for members, near in zip(groups, top_k(between, GROUPS), strict=True):
        others = np.sort(np.concatenate([groups[number] for number in near]))
        for start in range(0, len(members), block):
            yield members[start : start + block], others


def dense(product: Any) -> Floats:
    """A product of dense or sparse vectors, as an array."""
    array = product if isinstance(product, np.ndarray) else product.toarray()
    return np.asarray(array, dtype=np.float32)
