import numpy as np
import polars as pl
import pytest

from lumos_core.data import partition_users
from lumos_core.data.filtering import Dedup, codes, core_mask, drop_duplicates
from lumos_core.errors import DataError


@pytest.mark.parametrize(
    ("dedup", "rows"), [("none", [0, 1, 2, 3, 4]), ("exact", [0, 1, 3, 4]), ("item", [3, 4])]
)
def test_duplicates(dedup: Dedup, rows: list[int]) -> None:
    log = pl.DataFrame(
        {
            "user_id": ["a", "a", "a", "a", "b"],
            "item_id": ["x", "x", "x", "x", "x"],
            "timestamp": [2, 3, 2, 1, 2],
        }
    )
    assert drop_duplicates(log, dedup).rows() == [log.row(row) for row in rows]


@pytest.mark.parametrize(
    ("dedup", "rows"), [("none", [*range(7)]), ("exact", [0, 1, 3, 5, 6]), ("item", [0, 1, 3, 5])]
)
def test_duplicates_where_rows_are_in_order(dedup: Dedup, rows: list[int]) -> None:
    """Rows of another user may stand between; an item that comes back later is no duplicate."""
    log = pl.DataFrame(
        {
            "user_id": ["a", "b", "a", "a", "a", "b", "a"],
            "item_id": ["x", "x", "x", "y", "y", "y", "x"],
            "timestamp": [*range(7)],
        }
    )
    assert drop_duplicates(log, dedup, file_order=True).rows() == [log.row(row) for row in rows]


def test_core_is_found_by_iterating() -> None:
    # item 2 is too rare; without it user 2 is; without that one item 1 is, and then user 1
    users = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    items = np.array([0, 0, 3, 3, 0, 1, 1, 2, 0, 3])
    expected = [True] * 4 + [False] * 4 + [True] * 2
    assert core_mask(users, items, 2, 2).tolist() == expected
    assert core_mask(users, items, 3, 0).tolist() == [True] * 4 + [False] * 6
    assert not core_mask(users, items, 9, 0).any()


def test_codes_number_the_distinct_values() -> None:
    assert codes(pl.Series(["b", "a", "b", "c"])).tolist() == [1, 0, 1, 2]


def test_skewed_nodes() -> None:
    sizes = np.bincount(partition_users(110, 4, seed=1, scheme="skewed"))
    assert sizes.sum() == 110
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[3]
    assert np.bincount(partition_users(4, 4, 0, "skewed")).tolist() == [1, 1, 1, 1]


def test_too_many_nodes() -> None:
    with pytest.raises(DataError, match="2 users cannot fill 3 nodes"):
        partition_users(2, 3, 0)
    with pytest.raises(DataError, match="nodes = 0"):
        partition_users(2, 0, 0)
