"""Interaction logs and item lists as normalised frames: ids are text, times are numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lumos_core.data.reading.headers import is_row, numbered, time_columns
from lumos_core.data.reading.ids import is_missing, with_ids, without_missing
from lumos_core.data.reading.table_files import (
    Table,
    TextFormat,
    column_names,
    first_rows,
    first_true,
    read_table,
    table_format,
)
from lumos_core.data.reading.text_files import named, shown
from lumos_core.data.reading.times import with_times
from lumos_core.data.reading.title_text import no_titles, usable_titles
from lumos_core.errors import DataError

# In the order of preference; compared without case, underscores, hyphens and RecBole's types.
USER_NAMES = ("user_id", "user", "uid", "customer_id", "customer", "reviewerID", "session_id")
ITEM_NAMES = ("item_id", "item", "iid", "parent_asin", "asin", "product_id", "movie_id", "news_id")
TIME_NAMES = (
    "timestamp", "time", "unixReviewTime", "unix_time", "unixtime", "unix_timestamp", "time_ms",
    "timestamp_ms", "datetime", "date_time", "date", "event_time", "created_at", "position",
    "order",
)  # fmt: skip
TITLE_NAMES = (
    "title", "item_title", "name", "item_name", "product_title", "product_name", "movie_title",
    "movie_name", "book_title", "news_title", "game_title", "app_title", "app_name", "track_name",
    "song_title", "artist_name", "headline",
)  # fmt: skip
_NEEDS_TIMES = (
    "new rows need times, because without them nobody can tell new rows from those that the node "
    "has; if its log has none, let 'lumos prepare --order file' write the node's data anew from "
    "the whole log"
)


@dataclass(frozen=True)
class Columns:
    """How the user's files are to be read.

    Attributes:
        user, item, time, title: names of columns; empty: found by their usual names.
        items_id: column with ids in the list of items, if its name differs from the log's.
        separator: of the log, if it is delimited text; empty: found from the content.
        header: whether the log's first line names the columns; else they are "1", "2", ….
        file_order: the log has no times: histories are in the order of its rows.
        time_format: how times are written, in the codes of strptime; empty: found from the values.
        needs_times: rows are compared with others, so that ``file_order`` is refused.
        items_header: whether the first line of a list of items names the columns; else as above.
        drop_missing: leave out rows without a user, an item or a time.
    """

    user: str = ""
    item: str = ""
    time: str = ""
    title: str = ""
    items_id: str = ""
    separator: str = ""
    header: bool = True
    file_order: bool = False
    drop_missing: bool = False
    items_header: bool = True
    time_format: str = ""
    needs_times: bool = False

    @property
    def text_format(self) -> TextFormat:
        return TextFormat(self.separator, self.header)

    @property
    def items_format(self) -> TextFormat:
        return TextFormat(header=self.items_header)


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
    _check_header(path, found, wanted)
    chosen = {
        "user_id": _choose(path, found, wanted.user, USER_NAMES, "user"),
        "item_id": _choose(path, found, wanted.item, ITEM_NAMES, "item"),
    }
    if wanted.file_order:
        if wanted.needs_times:
            raise DataError(f"--order file: {_NEEDS_TIMES}")
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
        chosen["timestamp"] = _time(path, found, wanted)
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
    others = () if wanted.time else _other_times(path, found)
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
        _check_items_header(path, found, wanted)
    item = _items_id(path, found, wanted)
    title = _title(path, found, wanted.title, item)
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
    item = _choose(path, found, columns.item, ITEM_NAMES, "item")
    title = _choose(path, found, columns.title, (), "title")
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
            f"({unknown.sum()} such rows), expected an item of {source}; add the item there, or "
            "remove the rows, as 'lumos prepare … --unknown-items drop' does"
        )


def _check_header(path: Path, found: Sequence[str], wanted: Columns) -> None:
    """Refuse a log whose first line is a row instead of names of columns."""
    if table_format(path) not in ("tsv", "csv") or not wanted.header:
        return
    recognised = _usual(found, USER_NAMES) and _usual(found, ITEM_NAMES)
    if recognised or not is_row(found, (wanted.user, wanted.item, wanted.time)):
        return
    user, item, time = (
        given if given.isdigit() else "N" for given in (wanted.user, wanted.item, wanted.time)
    )
    times = time_columns(first_rows(path, wanted.text_format))
    seen = ""
    if wanted.file_order or (len(found) == 2 and not times and not wanted.needs_times):
        order = "--order file"
    elif len(times) == 1 and time in ("N", str(times[0])):
        order, seen = f"--time-column {times[0]}", f"column {times[0]} looks like times, "
    else:
        rest = "" if wanted.needs_times else " (or --order file, if rows are in the order of time)"
        order = f"--time-column {time}{rest}"
    raise DataError(
        f"{path}: line 1: found {numbered(found)}, which is a row and no header; name the columns "
        f"by their numbers: --no-header --user-column {user} --item-column {item} {order}; {seen}"
        "N stands for a number that only you know"
    )


def _check_items_header(path: Path, found: Sequence[str], wanted: Columns) -> None:
    """Refuse a list whose first line is an item instead of names of columns."""
    if _usual(found, ITEM_NAMES) or not is_row(found, (wanted.items_id, wanted.title, wanted.item)):
        return
    item, title = (name if name.isdigit() else "N" for name in (wanted.items_id, wanted.title))
    raise DataError(
        f"{path}: line 1: found {numbered(found)}, which is a row and no header; name the columns "
        f"by their numbers: --items-no-header --items-id-column {item} --title-column {title}; N "
        "stands for a number that only you know"
    )


def _time(path: Path, found: Sequence[str], wanted: Columns) -> str:
    try:
        return _choose(path, found, wanted.time, TIME_NAMES, "time")
    except DataError as error:
        rest = "or, if rows are in the order of time, give --order file"
        raise DataError(f"{error}, {_NEEDS_TIMES if wanted.needs_times else rest}") from None


def _other_times(path: Path, found: Sequence[str]) -> tuple[str, ...]:
    """A warning if several columns have usual names of times: the one taken may be the coarser."""
    taken, *others = _usual(found, TIME_NAMES) or [""]
    if not others:
        return ()
    names = " and ".join(map(repr, others))
    return (
        f"{path}: times are taken from column {taken!r}, though {names} may hold times, too; for "
        f"another, --time-column {others[0]}",
    )


def _choose(path: Path, found: Sequence[str], given: str, names: Sequence[str], what: str) -> str:
    if given:
        if given in found:
            return _once(path, found, given)
        names = (given,)
    if usual := _usual(found, names):
        return _once(path, found, usual[0])
    raise DataError(
        f"{path}: line 1: missing column: no {what} column among {named(found)}, "
        f"expected {' or '.join(map(repr, names))}; rename the column or name it with "
        f"--{what}-column"
    )


def _once(path: Path, found: Sequence[str], name: str) -> str:
    """A name that only one column has: which of two would be read is anybody's guess."""
    places = [str(n) for n, other in enumerate(found, start=1) if other == name]
    if len(places) > 1:
        raise DataError(
            f"{path}: line 1: columns {' and '.join(places)} are both called {name!r}, expected "
            "one; rename the others"
        )
    return name


def _usual(found: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns that have one of the names, those that are preferred first."""
    by_key = {_key(name): name for name in reversed(found)}
    keys = dict.fromkeys(map(_key, names))  # date_time and datetime are one
    return [by_key[key] for key in keys if key in by_key]


def _items_id(path: Path, found: Sequence[str], wanted: Columns) -> str:
    """The column with ids in a list of items, whose names need not be those of the log."""
    if wanted.items_id:
        return _choose(path, found, wanted.items_id, (), "items-id")
    if wanted.item in found and wanted.header:  # numbers are those of the log
        return _once(path, found, wanted.item)
    if usual := _usual(found, (*ITEM_NAMES, "id")):
        return _once(path, found, usual[0])
    ids = [name for name in _usual(found, found) if _key(name).endswith("id")]
    if len(ids) == 1:
        return _once(path, found, ids[0])
    raise DataError(
        f"{path}: line 1: missing column: no item column among {named(found)}, "
        f"expected {' or '.join(map(repr, ITEM_NAMES))}; rename the column, or name it with "
        "--items-id-column (--item-column is the one of the log)"
    )


def _title(path: Path, found: Sequence[str], given: str, item: str) -> str | None:
    if given:
        return _choose(path, found, given, (), "title")
    others = [name for name in found if name != item]
    usual = _usual(others, TITLE_NAMES) or (others if len(others) == 1 else [])
    return _once(path, found, usual[0]) if usual else None


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
    elif not chosen and _key(column) not in map(_key, TITLE_NAMES):
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


def _key(name: str) -> str:
    plain, _, _ = name.partition(":")  # RecBole: "user_id:token"
    return plain.lower().replace("_", "").replace("-", "").replace(" ", "")
