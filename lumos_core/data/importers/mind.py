"""Microsoft News (MIND): ``behaviors.tsv`` and ``news.tsv``, both without a header.

Every impression of a user repeats the user's click history, which is in order but has no times;
the position in the history is used as the time. Columns: https://github.com/msnews/msnews.github.io
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from lumos_core.data.importers.item_list import is_catalog, refuse, refuse_columns, with_catalog
from lumos_core.data.importers.raw_log import Importer, RawLog
from lumos_core.data.interactions import check_unique_items
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import Table, first_true, read_headerless
from lumos_core.data.reading.title_text import usable_titles
from lumos_core.errors import DataError

BEHAVIORS = "behaviors.tsv"
NEWS = "news.tsv"
DOMAIN = "news"
_NO_HEADER = "MIND's files have no header, and their columns are known"
_BEHAVIORS_COLUMNS = ("impression", "user_id", "time", "history", "shown")
_NEWS_COLUMNS = ("item_id", "category", "subcategory", "title", "abstract", "url", "e1", "e2")
_TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"


def load_mind(
    source: Path, items: Path | None, columns: Columns, impression_clicks: bool = False
) -> RawLog:
    """Import click histories.

    Args:
        source: a folder with ``behaviors.tsv`` and ``news.tsv``, or the file ``behaviors.tsv``.
        items: ``news.tsv``, if it is not beside the behaviours; or a run's catalog.
        columns: none may be named: the files have no header.
        impression_clicks: append what was clicked in the impressions, in the order of their time.
            Most of these items are in nobody's history.

    Raises:
        DataError: naming file and line of what is missing or malformed.
    """
    for option, value in (
        ("--user-column", columns.user),
        ("--item-column", columns.item),
        ("--time-column", columns.time),
        ("--time-format", columns.time_format),
        ("--separator", columns.separator),
        ("--no-header", "" if columns.header else "with MIND"),
        ("--order", "file" if columns.file_order else ""),
        ("--drop-missing", "with MIND" if columns.drop_missing else ""),
    ):
        refuse(option, value, _NO_HEADER)
    refuse_columns(columns, _NO_HEADER)
    folder = source if source.is_dir() else source.parent
    behaviors = folder / BEHAVIORS if source.is_dir() else source
    name = folder.resolve().name
    if items is not None and is_catalog(items):
        log = read_behaviors(behaviors, impression_clicks)
        return replace(with_catalog(name, log, items, columns), domain=DOMAIN)
    news = read_news(items or folder / NEWS)
    log = read_behaviors(behaviors, impression_clicks)
    return RawLog(name, log, news.frame, str(news.path), complete=False, domain=DOMAIN)


def read_news(path: Path) -> Table:
    """``item_id`` and ``title`` of a news.tsv, in file order.

    Raises:
        DataError: naming file and line.
    """
    table = read_headerless(path, _NEWS_COLUMNS)
    _require(table, "item_id", len(_NEWS_COLUMNS))
    _require(table, "url", len(_NEWS_COLUMNS))
    titles = usable_titles(table.frame["title"])
    frame = table.frame.select("item_id", pl.Series("title", titles, pl.String))
    items = table.with_frame(frame)
    check_unique_items(items)
    return items


def read_behaviors(path: Path, impression_clicks: bool = False) -> Table:
    """``user_id``, ``item_id``, ``timestamp`` (Int64: position in the history) of a behaviors.tsv.

    Raises:
        DataError: naming file and line.
    """
    table = read_headerless(path, _BEHAVIORS_COLUMNS)
    _require(table, "user_id", len(_BEHAVIORS_COLUMNS))
    _require(table, "shown", len(_BEHAVIORS_COLUMNS))
    frame = table.frame.with_row_index("record")
    clicks = _histories(frame)
    if impression_clicks:
        clicks = pl.concat([clicks, _impression_clicks(table, frame)])
    clicks = clicks.sort("user_id", "when", maintain_order=True)
    if clicks.is_empty():
        raise DataError(f"{path}: every history is empty, expected news ids in column 4")
    return Table(
        path,
        "tsv",
        clicks.select(
            "user_id", "item_id", pl.int_range(pl.len()).over("user_id").alias("timestamp")
        ),
        dialect=table.dialect,
        origin=clicks["record"],
    )


def _histories(frame: pl.DataFrame) -> pl.DataFrame:
    """The longest history of every user (within one published file they are all equal)."""
    words = frame.with_columns(pl.col("history").fill_null("").str.extract_all(r"\S+"))
    longest = pl.col("history").list.len().arg_max()
    return (
        words.group_by("user_id", maintain_order=True)
        .agg(pl.col("record", "history").get(longest))
        .explode("history")
        .drop_nulls("history")
        .select("user_id", pl.col("history").alias("item_id"), "record", when=pl.lit(0, pl.Int64))
    )


def _impression_clicks(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    times = frame["time"].str.strptime(pl.Datetime, _TIME_FORMAT, strict=False)
    if times.is_null().any():
        row = first_true(times.is_null())
        raise DataError(
            f"{table.place(row)}: found time {frame['time'][row]!r}, expected one like "
            "'11/15/2019 8:55:22 AM'"
        )
    shown = frame.with_columns(
        times.dt.epoch("s").alias("when"), pl.col("shown").str.extract_all(r"\S+")
    ).explode("shown")
    unlabelled = ~shown["shown"].str.contains(r"-[01]$").fill_null(False)
    if unlabelled.any():
        row = first_true(unlabelled)
        raise DataError(
            f"{table.place(shown['record'][row])}: found impression {shown['shown'][row]!r}, "
            "expected ids with a label, such as 'N129416-0'; leave out --impression-clicks for "
            "files without labels"
        )
    clicked = shown.filter(pl.col("shown").str.ends_with("-1"))
    item = pl.col("shown").str.head(-2).alias("item_id")
    return clicked.select("user_id", item, "record", "when")


def _require(table: Table, column: str, width: int) -> None:
    empty = table.frame[column].is_null()
    if empty.any():
        raise DataError(
            f"{table.place(first_true(empty))}: no {column}, expected {width} tab-separated fields "
            "as in the published files"
        )


IMPORTER = Importer(
    f"{BEHAVIORS} (MIND)",
    load_mind,
    finds=lambda names: BEHAVIORS in names,
    knows=lambda path, items: path.name == BEHAVIORS,
    impressions=True,
)
