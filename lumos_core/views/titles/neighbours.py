"""The nearest titles of every title.

Up to `EXACT` titles all are compared with all. The time of that grows with the square of their
number, so more titles are put into groups of titles that are alike, and each is compared with those
of the nearest groups only (an inverted file: Sivic and Zisserman, Video Google, ICCV 2003). Groups
are small and a title looks into so many of them that its time hardly depends on how many titles
there are. Some neighbours are missed; how many, ``benchmarks/catalog_scale.py`` measures.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXACT = 20_000
"""The largest catalog of which all titles are compared with all."""
GROUP = 128
"""Titles of a group, on average; at most twice as many."""
GROUPS = 64
"""Groups that a title looks into."""
_MEANS = 3  # times that the centres of groups are moved to their means
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
    if n > EXACT and k:
        return _in_groups(vectors, k, block)
    rows, cosines = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for start in range(0, n, block):
        scores = dense(vectors[start : start + block] @ vectors.T)
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        best = top_k(scores, k)
        rows[start : start + block] = best
        cosines[start : start + block] = np.take_along_axis(scores, best, axis=1)
    return rows, cosines


def _in_groups(vectors: Any, k: int, block: int) -> tuple[Ints, Floats]:
    """:func:`nearest`, of the titles of the nearest groups."""
    n = vectors.shape[0]
    groups, centres = _groups(vectors, block)
    near = np.concatenate(
        [
            top_k(dense(vectors[start : start + block] @ centres.T), GROUPS)
            for start in range(0, n, block)
        ]
    )
    rows, cosines = np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32)
    order = np.argsort(near, axis=None, kind="stable")
    lookers = np.split(order // near.shape[1], np.cumsum(_counts(near, len(groups)))[:-1])
    for members, looking in zip(groups, lookers, strict=True):
        for start in range(0, len(looking), block):
            some = looking[start : start + block]
            scores = dense(vectors[some] @ vectors[members].T)
            scores[some[:, None] == members] = -np.inf  # itself
            known = np.concatenate([cosines[some], scores], axis=1)
            named = np.concatenate([rows[some], np.broadcast_to(members, scores.shape)], axis=1)
            best = top_k(known, k)
            rows[some] = np.take_along_axis(named, best, axis=1)
            cosines[some] = np.take_along_axis(known, best, axis=1)
    return rows, cosines


def _groups(vectors: Any, block: int) -> tuple[list[Ints], Any]:
    """Rows of each group, none of them empty or too large, and its centre."""
    from scipy.sparse import csr_array
    from sklearn.preprocessing import normalize

    n = vectors.shape[0]
    count = -(-n // GROUP)
    centres = vectors[np.sort(np.random.default_rng(0).choice(n, count, replace=False))]
    for _ in range(_MEANS):
        chosen = _chosen(vectors, centres, block)
        ones = np.ones(n, dtype=np.float32)
        membership = csr_array((ones, (chosen, np.arange(n))), shape=(count, n))
        centres = normalize(membership @ vectors)
    chosen = _chosen(vectors, centres, block)
    groups, of = [], []
    for number, members in enumerate(
        np.split(np.argsort(chosen, kind="stable"), np.cumsum(_counts(chosen, count))[:-1])
    ):
        for start in range(0, len(members), 2 * GROUP):
            groups.append(members[start : start + 2 * GROUP])
            of.append(number)
    return groups, centres[of]


def _chosen(vectors: Any, centres: Any, block: int) -> Ints:
    """[N] the nearest centre of each row."""
    return np.concatenate(
        [
            dense(vectors[start : start + block] @ centres.T).argmax(axis=1)
            for start in range(0, vectors.shape[0], block)
        ]
    )


def _counts(numbers: Ints, of: int) -> Ints:
    return np.bincount(numbers.ravel(), minlength=of)


def dense(product: Any) -> Floats:
    """A product of dense or sparse vectors, as an array."""
    array = product if isinstance(product, np.ndarray) else product.toarray()
    return np.asarray(array, dtype=np.float32)
