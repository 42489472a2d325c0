"""Interaction logs and item lists as normalised frames: ids are text, times are numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lumos_core.data.reading.columns import (
    ITEM_NAMES,
    NEEDS_TIMES,
    TITLE_NAMES,
    USER_NAMES,
    Columns,
    check_header,
    check_items_header,
    choose,
    is_one_of,
    items_id_column,
    other_times,
    time_column,
    title_column,
)
from lumos_core.data.reading.ids import is_missing, with_ids, without_missing
from lumos_core.data.reading.table_files import (
    Table,
    TextFormat,
    column_names,
    first_true,
    read_table,
    table_format,
)
from lumos_core.data.reading.text_files import named, shown
from lumos_core.data.reading.times import with_times
from lumos_core.data.reading.title_text import no_titles, usable_titles
from lumos_core.errors import DataError


@dataclass(frozen=True)
class ItemList:
    """Items as a file lists them.

    Attributes:
        table: ``item_id`` (unique), ``title`` ("" where there is none).
        warnings: what the user should know about the titles, a sentence each.
        title: the column with titles, "" if there is none.
    """

    table: Table
    warnings: tuple[str, ...] = ()
    title: str = ""

    @property
    def frame(self) -> pl.DataFrame:
        return self.table.frame


def read_interactions(path: Path, columns: Columns | None = None, *, own: bool = False) -> Table:
    """Read an interaction log.

    Args:
        path: the log.
        columns: how it is to be read.
        own: it is a node's own file, whose items are those of its catalog: if that has an item
            called ``null``, this is an item.

    Returns:
        A table with ``user_id`` and ``item_id`` (String) and ``timestamp`` (Int64, or Float64 if
        a time has a fraction: Unix time or a position), rows in file order.

    Raises:
        DataError: naming file and line: missing column, empty id, id that does not lie on one
            line, time that is not a number, or anything :func:`read_table` finds.
    """
    wanted = columns or Columns()
    if table_format(path) not in ("tsv", "csv") and wanted.text_format != TextFormat():
        raise DataError(
            f"--separator, --no-header: would have no effect, for {path} is no delimited text; "
            "leave them out"
        )
    found = column_names(path, wanted.text_format)
    check_header(path, found, wanted)
    chosen = {
        "user_id": choose(path, found, wanted.user, USER_NAMES, "user"),
        "item_id": choose(path, found, wanted.item, ITEM_NAMES, "item"),
    }
    if wanted.file_order:
        if wanted.needs_times:
            raise DataError(f"--order file: {NEEDS_TIMES}")
        for option, value in (
            ("--time-column", wanted.time),
            ("--time-format", wanted.time_format),
        ):
            if value:
                raise DataError(
                    f"--order file: takes the order of the rows, so {option} {value!r} would have "
                    "no effect; leave one of them out"
                )
    else:
        chosen["timestamp"] = time_column(path, found, wanted)
    table = read_table(path, chosen, wanted.text_format)
    if wanted.file_order:
        rows = pl.int_range(len(table.frame), eager=True, dtype=pl.Int64)
        table = table.with_frame(table.frame.with_columns(rows.alias("timestamp")))
    for column in ("user_id",) if own else table.frame.columns:
        table = without_missing(table, column, wanted.drop_missing)
    if table.frame.is_empty():
        raise DataError(f"{path}: no row has a user, an item and a time, expected at least one")
    table = with_ids(with_ids(table, "user_id"), "item_id")
    if wanted.file_order:
        return table
    others = () if wanted.time else other_times(path, found)
    try:
        # a log that is appended to a node's file has its columns known, and comes every night
        baskets = wanted.needs_times
        return with_times(table, wanted.time_format, not own, baskets).warn(*others)
    except DataError as error:
        raise DataError("\n".join([str(error), *others])) from None


def read_items(path: Path, columns: Columns | None = None) -> ItemList:
    """Read a list of items.

    Returns:
        Rows in file order, ids unique. Titles come from the column that is named; else from one
        with a usual name, or from the only other column, if it holds text. Else there are none.

    Raises:
        DataError: naming file and line: missing column, empty or duplicate id, or anything
            :func:`read_table` finds.
    """
    wanted = columns or Columns()
    text = table_format(path) in ("tsv", "csv")
    if not wanted.items_header and not text:
        raise DataError(
            f"--items-no-header: would have no effect, for {path} is no delimited text; leave it "
            "out"
        )
    found = column_names(path, wanted.items_format)
    if text and wanted.items_header:
        check_items_header(path, found, wanted)
    item = items_id_column(path, found, wanted)
    title = title_column(path, found, wanted.title, item)
    chosen = {"item_id": item} if title is None else {"item_id": item, "title": title}
    table = _with_items(read_table(path, chosen, wanted.items_format), wanted.drop_missing)
    if title is None:
        table = table.with_frame(table.frame.with_columns(title=pl.lit("")))
        warnings: tuple[str, ...] = (_untitled(path, found),)
    else:
        table, warnings = _with_titles(table, title, chosen=bool(wanted.title))
    check_unique_items(table)
    return ItemList(table, (*table.warnings, *warnings), title or "")


def _with_items(table: Table, drop_missing: bool) -> Table:
    """The rows of a list that have an id: placeholders cannot be an item of a log either."""
    ids = table.frame["item_id"]
    gone = is_missing(ids)
    if not drop_missing and ids.dtype == pl.String:  # an empty id is refused
        gone &= ids.is_not_null() & (ids.str.strip_chars() != "")
    if not gone.any():
        return with_ids(table, "item_id")
    row = first_true(gone)
    warning = (
        f"{table.place(row)}: {int(gone.sum())} rows of this list have no item id (found "
        f"{'nothing' if ids[row] is None else shown(ids[row])}) and are left out"
    )
    return with_ids(table.only(~gone), "item_id").warn(warning)


def read_log_titles(path: Path, columns: Columns) -> pl.DataFrame:
    """Titles from the log itself, from its column ``columns.title``.

    Returns:
        ``item_id`` (unique), ``title``: the first usable one of the item's rows; items without
        one are left out.

    Raises:
        DataError: as :func:`read_items`.
    """
    found = column_names(path, columns.text_format)
    item = choose(path, found, columns.item, ITEM_NAMES, "item")
    title = choose(path, found, columns.title, (), "title")
    chosen = {"item_id": item, "title": title}
    read = read_table(path, chosen, columns.text_format)
    table = with_ids(read.only(~is_missing(read.frame["item_id"])), "item_id")
    table, _ = _with_titles(table, title, chosen=True)
    titled = table.frame.filter(pl.col("title") != "")
    return titled.unique("item_id", keep="first", maintain_order=True)


def check_unique_items(items: Table) -> None:
    """Refuse a list of items in which an id occurs twice.

    Raises:
        DataError: naming both places.
    """
    ids = items.frame["item_id"]
    again = ~ids.is_first_distinct()
    if again.any():
        row = first_true(again)
        first = items.place(first_true(ids == ids[row])).removeprefix(f"{items.path}: ")
        raise DataError(
            f"{items.place(row)}: duplicate item id {shown(ids[row])}, first on {first}; "
            "keep one row per item"
        )


def check_known_items(interactions: Table, item_ids: pl.Series, source: str) -> None:
    """Refuse a log with items that are not among ``item_ids`` (found in ``source``).

    Raises:
        DataError: naming the first such row.
    """
    unknown = ~interactions.frame["item_id"].is_in(item_ids.implode())
    if unknown.any():
        row = first_true(unknown)
        raise DataError(
            f"{interactions.place(row)}: unknown item {shown(interactions.frame['item_id'][row])} "
            f"(rows like it: {unknown.sum()}), expected an item of {source}; add the item "
            "there, or remove the rows, as 'lumos prepare … --unknown-items drop' does"
        )


def _with_titles(table: Table, column: str, chosen: bool) -> tuple[Table, tuple[str, ...]]:
    """The table with usable titles only, and warnings about them."""
    raw = table.frame["title"]
    if raw.dtype.is_nested():
        raise DataError(
            f"{table.path}: column {column!r} has type {raw.dtype}, expected text; name another "
            "one with --title-column"
        )
    raw = raw.cast(pl.String, strict=False)
    warnings: tuple[str, ...] = ()
    if not chosen and no_titles(raw):
        raw = pl.Series("title", [""] * len(raw), dtype=pl.String)
        warnings = (_untitled(table.path, [column], "holds numbers, no titles"),)
    elif not chosen and not is_one_of(column, TITLE_NAMES):
        warnings = (
            f"{table.path}: titles are taken from the only other column, {column!r}; name another "
            "one with --title-column",
        )
    titles = pl.Series("title", usable_titles(raw), dtype=pl.String)
    return table.with_frame(table.frame.with_columns(titles)), warnings


def _untitled(path: Path, found: Sequence[str], problem: str = "") -> str:
    names = named(found)
    what = f"column {names} {problem}" if problem else f"no title column among {names}"
    return f"{path}: {what}: item ids stand in for titles; name the column with --title-column"
