"""The mean of item tables of which each node has only a few rows.

A client with one user moves the rows of its own history. Its whole table would be as large as the
catalog, and all of it zeros but for a handful of rows.
"""

from collections.abc import Sequence

import numpy as np

from lumos_core.learning.parameters import ITEM_TABLE, Params, with_all_rows
from lumos_core.wire.messages import Rows


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


def without_table(delta: Params) -> Params:
    """Everything but the item table."""
    return {name: array for name, array in delta.items() if name != ITEM_TABLE}
