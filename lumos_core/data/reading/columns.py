"""Which columns of a table hold users, items, times and titles: those that somebody named, or else
those with usual names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lumos_core.data.reading.headers import is_row, numbered, time_columns
from lumos_core.data.reading.table_files import TextFormat, first_rows, table_format
from lumos_core.data.reading.text_files import named
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
NEEDS_TIMES = (
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


def check_header(path: Path, found: Sequence[str], wanted: Columns) -> None:
    """Refuse a log whose first line is a row instead of names of columns.

    Raises:
        DataError: with the options that read it as rows.
    """
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


def check_items_header(path: Path, found: Sequence[str], wanted: Columns) -> None:
    """Refuse a list of items whose first line is an item instead of names of columns.

    Raises:
        DataError: with the options that read it as rows.
    """
    if _usual(found, ITEM_NAMES) or not is_row(found, (wanted.items_id, wanted.title, wanted.item)):
        return
    item, title = (name if name.isdigit() else "N" for name in (wanted.items_id, wanted.title))
    raise DataError(
        f"{path}: line 1: found {numbered(found)}, which is a row and no header; name the columns "
        f"by their numbers: --items-no-header --items-id-column {item} --title-column {title}; N "
        "stands for a number that only you know"
    )


def choose(path: Path, found: Sequence[str], given: str, names: Sequence[str], what: str) -> str:
    """The one column that is meant.

    Args:
        path: the file, for messages.
        found: names of its columns.
        given: name that somebody gave; empty: the first of ``names`` that occurs.
        names: usual names, those that are preferred first.
        what: ``user``, ``item``, …, as in ``--user-column``.

    Raises:
        DataError: there is none, or two have the name.
    """
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


def time_column(path: Path, found: Sequence[str], wanted: Columns) -> str:
    """The column with times of a log.

    Raises:
        DataError: as :func:`choose`, with what to do where there are no times.
    """
    try:
        return choose(path, found, wanted.time, TIME_NAMES, "time")
    except DataError as error:
        rest = "or, if rows are in the order of time, give --order file"
        raise DataError(f"{error}, {NEEDS_TIMES if wanted.needs_times else rest}") from None


def other_times(path: Path, found: Sequence[str]) -> tuple[str, ...]:
    """A warning if several columns have usual names of times: the one taken may be the coarser."""
    taken, *others = _usual(found, TIME_NAMES) or [""]
    if not others:
        return ()
    names = " and ".join(map(repr, others))
    return (
        f"{path}: times are taken from column {taken!r}, though {names} may hold times, too; for "
        f"another, --time-column {others[0]}",
    )


def items_id_column(path: Path, found: Sequence[str], wanted: Columns) -> str:
    """The column with ids in a list of items, whose names need not be those of the log.

    Raises:
        DataError: as :func:`choose`.
    """
    if wanted.items_id:
        return choose(path, found, wanted.items_id, (), "items-id")
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


def title_column(path: Path, found: Sequence[str], given: str, item: str) -> str | None:
    """The column with titles: the one ``given``, one with a usual name, or the only one that is not
    ``item``; None if there is none.

    Raises:
        DataError: as :func:`choose`.
    """
    if given:
        return choose(path, found, given, (), "title")
    others = [name for name in found if name != item]
    usual = _usual(others, TITLE_NAMES) or (others if len(others) == 1 else [])
    return _once(path, found, usual[0]) if usual else None


def is_one_of(name: str, names: Sequence[str]) -> bool:
    """Whether a column's name is one of ``names``, compared as in looking for usual names.

    >>> is_one_of("Item_Title:token_seq", TITLE_NAMES)
    True
    """
    return _key(name) in map(_key, names)


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


def _key(name: str) -> str:
    plain, _, _ = name.partition(":")  # RecBole: "user_id:token"
    return plain.lower().replace("_", "").replace("-", "").replace(" ", "")
