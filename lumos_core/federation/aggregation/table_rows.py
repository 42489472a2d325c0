"""The mean of item tables in which each node moved only some rows.

A client with one user moves the rows of its own history. Its whole table would be as large as the
catalog, and all of it zeros but for a handful of rows. In a mean over all clients these zeros count
as votes against moving: an item that one of 500 clients met moves by a 500th of what that client
found. A mean over those that moved the row does not wait for the others (FedSubAvg; Ding et al.,
NeurIPS 2022), but is as noisy as they are few. Multiplied by the root of their share of the weight,
which is the geometric mean of both means, it has the same noise in all rows, as if all had moved
them.
"""

from collections.abc import Sequence

import numpy as np

from lumos_core.learning.parameters import ITEM_TABLE, Params, with_all_rows
from lumos_core.wire.messages import Rows

SHARE_EXPONENTS = {"all": 0.0, "movers": 1.0, "root": 0.5}
"""Values of ``row-mean``: the mean over all nodes is divided by the share of those that moved a row
to this power."""


def mean_table(
    parts: Sequence[np.ndarray], rows: Sequence[Rows], weights: np.ndarray, count: int
) -> np.ndarray:
    """The weighted mean of tables, to the bit that of the whole ones.

    Args:
        parts: for every table, float [K, D] some of its rows; all others are zero.
        rows: for every table, int64 [K] the numbers of these rows, rising.
        weights: float64, of every table; they sum to 1.
        count: how many rows a table has.

    Returns:
        float32 [count, D].
    """
    moved = np.unique(np.concatenate(rows))
    sums = np.zeros((len(moved), *parts[0].shape[1:]), dtype=np.float64)
    for part, numbers, weight in zip(parts, rows, weights, strict=True):
        sums[np.searchsorted(moved, numbers)] += np.multiply(part, weight, dtype=np.float64)
    return with_all_rows(sums.astype(np.float32), moved, count)


def over_movers(
    table: np.ndarray,
    parts: Sequence[np.ndarray],
    rows: Sequence[Rows] | None,
    weights: np.ndarray,
    exponent: float = 1.0,
) -> np.ndarray:
    """The mean over the nodes that moved a row, from the mean over all nodes.

    >>> parts = [np.array([[0.0], [0.8], [1.0]]), np.array([[0.0], [0.0], [3.0]])]
    >>> weights = np.array([0.5, 0.5])
    >>> over_movers(np.array([[0.0], [0.4], [2.0]], dtype=np.float32), parts, None, weights)
    array([[0. ],
           [0.8],
           [2. ]], dtype=float32)

    Args:
        table: float32 [N + 1, D], the weighted mean of all nodes' deltas.
        parts: for every node, float [K, D] rows of its delta.
        rows: for every node, int64 [K] the numbers of these rows; None: they are all rows.
        weights: float64, of every node; they sum to 1.
        exponent: a value of :data:`SHARE_EXPONENTS`; below 1, something between both means.

    Returns:
        float32 [N + 1, D].
    """
    shares = np.zeros(len(table), dtype=np.float64)  # the weight of those that moved a row
    for i, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        moved = np.flatnonzero(part.any(axis=1))
        shares[moved if rows is None else rows[i][moved]] += weight
    divisors = np.where(shares > 0, shares, 1.0) ** exponent
    found: np.ndarray = (table / divisors[:, None]).astype(np.float32)
    return found


def without_table(delta: Params) -> Params:
    """Everything but the item table."""
    return {name: array for name, array in delta.items() if name != ITEM_TABLE}
