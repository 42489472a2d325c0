"""Which catalog items are candidates for a view: by similarity of titles, the nearest or farthest.

Works on any title vectors, dense (LLM embeddings) or sparse (TF-IDF). Rows are items in catalog
order, so row r is catalog index r + 1. Histories and results hold catalog indices, except those of
:func:`~lumos_core.views.titles.neighbours.top_k`, which are row numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core.views.titles.neighbours import dense, nearest, top_k

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_FAR_SHARE = 0.1  # the part of the catalog that counts as "far in meaning" from a history


def stable_rng(seed: int, history: Sequence[int]) -> np.random.Generator:
    """A generator that depends on the seed and the history only."""
    data = np.asarray([seed, *history], dtype="<i8").tobytes()
    return np.random.default_rng(np.frombuffer(hashlib.sha256(data).digest(), dtype="<u4"))


def recency_weights(length: int, half_life: float) -> Floats:
    """[length] weights that sum to 1, the last item's largest, halved every ``half_life`` items."""
    weights = np.exp2(np.arange(1 - length, 1) / half_life)
    return np.asarray(weights / weights.sum(), dtype=np.float32)


class TitleSpace:
    """Title vectors; the nearer two are, the more similar are the titles.

    Args:
        vectors: [N, H] with rows of length 1 (or 0), dense float32 or scipy CSR.
    """

    def __init__(self, vectors: Any) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def near(self, histories: Sequence[Sequence[int]], half_life: float) -> Floats:
        """[B, N] recency-weighted mean cosine of each history's items with every item."""
        return dense(self._mix(histories, half_life) @ self.vectors.T)

    def neighbours(self, k: int) -> tuple[Ints, Floats]:
        """The k nearest other items of every item; in a large catalog some of them are missed, see
        :mod:`~lumos_core.views.titles.neighbours`.

        Returns:
            catalog indices and cosines, both [N, min(k, N - 1)], nearest first.
        """
        rows, cosines = nearest(self.vectors, k)
        return rows + 1, cosines

    def _mix(self, histories: Sequence[Sequence[int]], half_life: float) -> Any:
        from scipy.sparse import csr_array

        lengths = [len(history) for history in histories]
        weights = np.concatenate([recency_weights(length, half_life) for length in lengths])
        columns = np.concatenate([np.asarray(history) for history in histories]) - 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        mixing = csr_array((weights, columns, offsets), shape=(len(histories), len(self)))
        return mixing @ self.vectors


def exclude(scores: Floats, histories: Sequence[Sequence[int]]) -> Floats:
    """A copy of [B, N] scores with every history's own items at minus infinity."""
    scores = scores.copy()
    for row, history in zip(scores, histories, strict=True):
        row[np.asarray(history) - 1] = -np.inf
    return scores


def best_new(scores: Floats, histories: Sequence[Sequence[int]], k: int) -> list[list[int]]:
    """Per history, up to k catalog indices of the best items that are not in it, best first."""
    masked = exclude(scores, histories)
    return [
        [int(item) + 1 for item in row if np.isfinite(masked[b, item])]
        for b, row in enumerate(top_k(masked, k))
    ]


def draw_far(scores: Floats, history: Sequence[int], k: int, rng: np.random.Generator) -> list[int]:
    """k distinct catalog indices (fewer in a tiny catalog) from the far end of one history.

    Args:
        scores: [N] similarity of every item to the history.
        history: its own items are never drawn while others are left.
    """
    order = np.argsort(scores, kind="stable") + 1
    order = order[~np.isin(order, history)]
    if not len(order):  # the history is the whole catalog
        order = np.argsort(scores, kind="stable") + 1
    pool = order[: max(k, int(_FAR_SHARE * len(order)))]
    return [int(item) for item in rng.choice(pool, size=min(k, len(pool)), replace=False)]


def substitutes(history: Sequence[int], table: Ints) -> tuple[int, ...]:
    """Every item replaced by its best substitute that is neither in the history nor used before.

    Args:
        table: [N, k] catalog indices of substitutes, best first. When all k are taken, the best
            one is repeated; in a catalog of one item, that item itself is used.
    """
    taken = set(history)
    out: list[int] = []
    for item in history:
        options = [int(option) for option in table[item - 1]] or [item]
        choice = next((option for option in options if option not in taken), options[0])
        taken.add(choice)
        out.append(choice)
    return tuple(out)


def repeat_to(items: Sequence[int], length: int) -> tuple[int, ...]:
    """The items, repeated from the start until there are ``length`` of them."""
    return tuple(items[i % len(items)] for i in range(length))
