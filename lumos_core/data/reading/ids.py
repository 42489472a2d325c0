"""Ids as people store them: text, whole numbers, and whole numbers that a program made floats."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from lumos_core.data.reading.table_files import Table, first_true, refuse_rows
from lumos_core.data.reading.text_files import CONTROL
from lumos_core.errors import DataError

PLACEHOLDERS = ("nan", "none", "null", "na", "n/a", "<na>")
"""What programs write for a user, item or time that is not known; compared without case."""
_NO_TIME = ("nat",)  # pandas; a user may be called that
WITHOUT = {"user_id": "without a user", "item_id": "without an item", "timestamp": "without a time"}
"""Why a row is left out that lacks what a column should hold."""
_A_TIME = "Unix time, a position in the history, or a date and time"
_WHOLE = r"^\d+(\.0+)?$"
_SCIENTIFIC = r"^\d(\.\d+)?[eE]\+\d+$"
_EXACT = 2.0**53  # not every whole number above it can be stored as a float


def with_ids(table: Table, column: str) -> Table:
    """The table with text in a column of ids.

    Whole numbers that some program has stored as floats ("1.0") become whole numbers again.

    Raises:
        DataError: naming file and line: an id is empty, holds a tab, line break or control
            character, or is a number whose last digits are lost.
    """
    raw = table.frame[column]
    ids = _text(table, column, raw).str.strip_chars()
    refuse_rows(table, ids.is_null() | (ids == ""), f"{column} is empty, expected an id", raw)
    refuse_rows(
        table,
        ids.str.contains(CONTROL.pattern),
        f"{column} holds a tab, line break or control character, expected an id on one line",
        raw,
    )
    refuse_rows(
        table,
        ids.str.contains(_SCIENTIFIC),
        f"{column} is a number as spreadsheets shorten it, so that different ids fall together; "
        "export the column as text",
        raw,
    )
    floats = ids.str.contains(r"\.0+$")
    if floats.any() and ids.str.contains(_WHOLE).all():
        table = table.warn(
            f"{table.path}: ids of {column} such as {ids[first_true(floats)]!r} are read as whole "
            "numbers, without the fraction"
        )
        ids = ids.str.replace(r"\.0+$", "")
    return table.with_frame(table.frame.with_columns(ids.alias(column)))


def without_missing(table: Table, column: str, drop: bool) -> Table:
    """The rows that have something in a column.

    Args:
        table: with a column of :data:`WITHOUT`.
        drop: leave the others out and count them in ``missing``; refuse them otherwise.

    Raises:
        DataError: naming the first row without it.
    """
    raw = table.frame[column]
    time = column == "timestamp"
    missing = is_missing(raw, (*PLACEHOLDERS, *_NO_TIME) if time else PLACEHOLDERS)
    count = int(missing.sum())
    if not count:
        return table
    if not drop:
        refuse_rows(
            table,
            missing,
            f"{'time' if time else column} is missing (rows like it: {count}), expected "
            f"{_A_TIME if time else 'an id'}; add it, or leave these rows out with --drop-missing",
            raw,
        )
    return replace(table.only(~missing), missing={**table.missing, WITHOUT[column]: count})


def is_missing(raw: pl.Series, placeholders: Sequence[str] = PLACEHOLDERS) -> pl.Series:
    """A flag for every value that is none: empty, or a placeholder."""
    if raw.dtype.is_float():
        return raw.is_null() | raw.is_nan()
    if raw.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return raw.is_null()
    text = raw.cast(pl.String).str.strip_chars().str.to_lowercase()
    return text.is_null() | (text == "") | text.is_in(placeholders)


def _text(table: Table, column: str, raw: pl.Series) -> pl.Series:
    if raw.dtype.is_integer() or raw.dtype in (pl.String, pl.Categorical, pl.Enum):
        return raw.cast(pl.String)
    if raw.dtype.is_float():
        odd = raw.is_not_null() & raw.is_not_nan() & ((raw != raw.round()) | (raw.abs() > _EXACT))
        refuse_rows(
            table, odd, f"{column} is a number with a fraction, or too large for one: no id", raw
        )
        return raw.fill_nan(None).cast(pl.Int64).cast(pl.String) + pl.Series([".0"])
    raise DataError(
        f"{table.path}: column {column} has type {raw.dtype}, expected text or whole numbers; "
        "convert it to text"
    )
