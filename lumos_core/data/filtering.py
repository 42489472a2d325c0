"""What is left out of a log before training: duplicates, rare items, short histories."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Dedup = Literal["exact", "item", "none"]


def drop_duplicates(
    interactions: pl.DataFrame, dedup: Dedup, file_order: bool = False
) -> pl.DataFrame:
    """The interactions without rows that repeat an earlier one; the order stays.

    Args:
        interactions: ``user_id``, ``item_id``, ``timestamp``.
        dedup: "exact": same user, item and time; "item": every user keeps only the earliest
            interaction with an item; "none": nothing is removed.
        file_order: the rows are in order and ``timestamp`` only counts them, so that no two are of
            one time: "exact" are rows that repeat the item of the user's row before.
    """
    match dedup:
        case "none":
            return interactions
        case "exact" if file_order:
            before = pl.col("item_id").shift(1).over("user_id")
            return interactions.filter(pl.col("item_id").ne_missing(before))
        case "exact":
            keys = ["user_id", "item_id", "timestamp"]
            return interactions.unique(keys, keep="first", maintain_order=True)
        case "item":
            numbered = interactions.with_row_index("_row")
            first = numbered.sort("timestamp", maintain_order=True).unique(
                ["user_id", "item_id"], keep="first", maintain_order=True
            )
            return first.sort("_row").drop("_row")


def core_mask(
    users: NDArray[np.integer], items: NDArray[np.integer], min_user: int, min_item: int
) -> NDArray[np.bool_]:
    """The largest part of a log in which every user and every item occurs often enough.

    Removing a rare item can make a user rare and the other way round, so both are removed until
    nothing changes; with equal minima k this is the k-core.

    Args:
        users, items: codes from 0, [M], one pair for every interaction.

    Returns:
        bool [M], true for interactions that stay.
    """
    alive = np.ones(len(users), dtype=bool)
    if not len(users):
        return alive
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    while True:
        of_user = np.bincount(users[alive], minlength=n_users)[users]
        of_item = np.bincount(items[alive], minlength=n_items)[items]
        stay = alive & (of_user >= min_user) & (of_item >= min_item)
        if stay.sum() == alive.sum():
            return alive
        alive = stay


def codes(column: pl.Series) -> NDArray[np.int64]:
    """Numbers from 0 for the distinct values of a column, [M]."""
    return column.rank("dense").cast(pl.Int64).to_numpy() - 1
