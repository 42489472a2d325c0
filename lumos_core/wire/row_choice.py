"""The choice of the item table's rows that are sent: the first half of a codec.

Their number is fixed by the configuration and the catalog, so it reveals nothing. *Which* rows are
sent reveals a lot: see docs/privacy.md.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire.array_layout import Layout, Shape

ROWS = ":rows"
"""The suffix that makes the item table's name that of the array with its row numbers."""
_NUMBERS = ITEM_TABLE + ROWS


class RowChoice(ABC):
    """Takes rows out of a delta, and puts them back in their places."""

    all_rows: bool
    """Whether all rows are sent."""

    @abstractmethod
    def choose(self, delta: Mapping[str, np.ndarray], share: float) -> tuple[Params, Params]:
        """The arrays with the rows to send, and the arrays that say which rows these are."""

    @abstractmethod
    def shapes(self, like: Mapping[str, np.ndarray], share: float) -> dict[str, Shape]:
        """Shapes of the chosen arrays, in the model's order."""

    @abstractmethod
    def beside(self, like: Mapping[str, np.ndarray], share: float) -> Layout:
        """Layout of the arrays that say which rows."""

    @abstractmethod
    def place(
        self,
        chosen: Params,
        beside: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
    ) -> Params:
        """Arrays of the model's shapes, with zeros in the rows that were not sent.

        Args:
            chosen: float32, of :meth:`shapes`.
            beside: a mapping that holds the arrays of :meth:`beside`, layout checked.
            like: the global parameters.

        Raises:
            ReplyError: row numbers do not rise strictly within the table.
        """


class AllRows(RowChoice):
    """Whole arrays."""

    all_rows = True

    def choose(self, delta: Mapping[str, np.ndarray], share: float) -> tuple[Params, Params]:
        return dict(delta), {}

    def shapes(self, like: Mapping[str, np.ndarray], share: float) -> dict[str, Shape]:
        return {name: array.shape for name, array in like.items()}

    def beside(self, like: Mapping[str, np.ndarray], share: float) -> Layout:
        return {}

    def place(
        self,
        chosen: Params,
        beside: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
    ) -> Params:
        return chosen


class TopRows(RowChoice):
    """Of the item table only the rows that moved furthest, with their numbers: int32 [K], strictly
    rising. A model without an item table is sent whole."""

    all_rows = False

    def choose(self, delta: Mapping[str, np.ndarray], share: float) -> tuple[Params, Params]:
        if ITEM_TABLE not in delta:
            return dict(delta), {}
        rows = _largest_rows(delta[ITEM_TABLE], share)
        return {**delta, ITEM_TABLE: delta[ITEM_TABLE][rows]}, {_NUMBERS: rows.astype(np.int32)}

    def shapes(self, like: Mapping[str, np.ndarray], share: float) -> dict[str, Shape]:
        shapes = {name: array.shape for name, array in like.items()}
        if ITEM_TABLE in like:
            rows, *rest = like[ITEM_TABLE].shape
            shapes[ITEM_TABLE] = (_row_count(rows, share), *rest)
        return shapes

    def beside(self, like: Mapping[str, np.ndarray], share: float) -> Layout:
        if ITEM_TABLE not in like:
            return {}
        return {_NUMBERS: ((_row_count(len(like[ITEM_TABLE]), share),), np.dtype(np.int32))}

    def place(
        self,
        chosen: Params,
        beside: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
    ) -> Params:
        if ITEM_TABLE not in like:
            return chosen
        rows = beside[_NUMBERS]
        _check_numbers(rows, len(like[ITEM_TABLE]))
        table = np.zeros(like[ITEM_TABLE].shape, dtype=np.float32)
        table[rows] = chosen[ITEM_TABLE]
        return {**chosen, ITEM_TABLE: table}


def _row_count(rows: int, share: float) -> int:
    return min(max(math.ceil(share * rows - 1e-9), 1), rows)


def _largest_rows(table: np.ndarray, share: float) -> np.ndarray:
    """Numbers of the rows with the largest norm, rising. A row that diverged counts as the largest:
    so the server receives and refuses it, as it would with the whole table."""
    norms = np.square(table, dtype=np.float64).sum(axis=1)
    order = np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")
    return np.sort(order[: _row_count(len(table), share)])


def _check_numbers(rows: np.ndarray, count: int) -> None:
    if (np.diff(rows.astype(np.int64)) <= 0).any():
        raise ReplyError(f"delta '{_NUMBERS}' does not rise strictly")
    if len(rows) and (rows[0] < 0 or rows[-1] >= count):
        raise ReplyError(f"delta '{_NUMBERS}' names rows outside 0 … {count - 1}")
