import numpy as np
import pytest

from lumos_core.data import LeaveOneOut, Sequences
from lumos_core.errors import DataError

THREE = Sequences.from_lists([[1, 2, 3], [4, 5, 6, 7], [8, 9, 8, 9, 8]], ["a", "b", "c"])


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [items.tolist() for items in sequences]


def test_rows_types_and_names() -> None:
    assert len(THREE) == 3
    assert THREE[1].tolist() == [4, 5, 6, 7]
    assert (THREE.items.dtype.name, THREE.offsets.dtype.name) == ("int32", "int64")
    assert THREE.lengths.tolist() == [3, 4, 5]
    assert Sequences.from_lists([[1], []]).user_ids == ("0", "1")
    with pytest.raises(IndexError, match="user 3"):
        THREE[3]


def test_subset_keeps_the_order_asked_for() -> None:
    chosen = THREE.subset([2, 0, 2])
    assert chosen.user_ids == ("c", "a", "c")
    assert as_lists(chosen) == [[8, 9, 8, 9, 8], [1, 2, 3], [8, 9, 8, 9, 8]]
    assert as_lists(THREE.subset([])) == []
    with pytest.raises(IndexError):
        THREE.subset([3])


def test_concat_joins_users() -> None:
    both = Sequences.concat([THREE.subset([1]), THREE.subset([]), THREE.subset([0])])
    assert both.user_ids == ("b", "a")
    assert as_lists(both) == [[4, 5, 6, 7], [1, 2, 3]]
    assert len(Sequences.concat([])) == 0


def test_leave_one_out() -> None:
    split = LeaveOneOut(THREE)
    assert as_lists(split.train()) == [[1], [4, 5], [8, 9, 8]]
    histories, targets = split.validation()
    assert as_lists(histories) == [[1], [4, 5], [8, 9, 8]]
    assert targets.tolist() == [2, 6, 9]
    histories, targets = split.test()
    assert as_lists(histories) == [[1, 2], [4, 5, 6], [8, 9, 8, 9]]
    assert targets.tolist() == [3, 7, 8]
    assert targets.dtype == np.int64


def test_leave_one_out_refuses_short_histories() -> None:
    short = Sequences.from_lists([[1, 2, 3], [1, 2]], ["long", "short"])
    with pytest.raises(DataError, match="user 'short' has 2 items, expected at least 3"):
        LeaveOneOut(short)


def test_inconsistent_arrays_are_refused() -> None:
    items = np.array([1, 2], dtype=np.int32)
    with pytest.raises(ValueError, match="offsets"):
        Sequences(("a",), items, np.array([0, 1], dtype=np.int64))
    with pytest.raises(TypeError, match="int64"):
        Sequences(("a",), items.astype(np.int64), np.array([0, 2], dtype=np.int64))
    with pytest.raises(ValueError, match="user ids"):
        Sequences.from_lists([[1]], ["a", "b"])
