"""The items of a log, of any format, that comes without a list of items in that format: those of a
run's catalog, or those in the log itself."""

from pathlib import Path

import polars as pl

from lumos_core.data.catalog import HEADER, Catalog
from lumos_core.data.importers.raw_log import RawLog, items_of_log
from lumos_core.data.interactions import read_log_titles
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.reading.columns import TITLE_NAMES, Columns, is_one_of
from lumos_core.data.reading.table_files import Table, column_names
from lumos_core.errors import DataError


def is_catalog(path: Path) -> bool:
    """Whether a file is a run's catalog rather than any list of items: by name and header.

    Raises:
        DataError: there is no such file, or it is broken.
    """
    named = path.name.removesuffix(".gz") == CATALOG_FILE
    return named and column_names(path) == HEADER.split("\t")


def with_catalog(name: str, log: Table, path: Path, columns: Columns) -> RawLog:
    """A log whose items are those of a run's catalog: all of them, in its order, no others.

    Raises:
        DataError: the catalog is malformed, or columns of it are named.
    """
    refuse_columns(columns, f"{path} is a run's catalog, whose columns are item_id and title")
    catalog = Catalog.read(path)
    schema = {"item_id": pl.String, "title": pl.String}
    items = pl.DataFrame([catalog.item_ids, catalog.titles], schema=schema)
    return RawLog(name, log, items, str(path), fixed=True, title="title")


def without_list(name: str, log: Table, columns: Columns, found: str) -> RawLog:
    """A log that comes without a list of items: its own items, with titles from its own column if
    one is named.

    Args:
        found: says that there is no list, as in "no items.tsv beside log.tsv"; for messages.

    Raises:
        DataError: the named column is missing, or a column of the list is named.
    """
    refuse("--items-id-column", columns.items_id, f"there is {found}")
    refuse("--items-no-header", not columns.items_header, f"there is {found}")
    items = items_of_log(log)
    if columns.title:
        titles = read_log_titles(log.path, columns)
        items = items.select("item_id").join(
            titles, on="item_id", how="left", maintain_order="left"
        )
        items = items.with_columns(pl.col("title").fill_null(""))
        return RawLog(name, log, items, str(log.path), listed=False, title=columns.title)
    hint = title_hint(log.path, columns)
    warning = f"{found}: item ids stand in for titles; name a list of both with --items{hint}"
    return RawLog(name, log, items, str(log.path), warnings=(warning,), listed=False)


def title_hint(log: Path, columns: Columns) -> str:
    """How to take titles from a log that has a column of them; "" if it has none."""
    names = column_names(log, columns.text_format)
    titled = [name for name in names if is_one_of(name, TITLE_NAMES)]
    return f"; for those in the log, --title-column {titled[0]}" if titled else ""


def refuse_columns(columns: Columns, reason: str) -> None:
    """Refuse names of columns of a list of items where they could have no effect.

    Raises:
        DataError: one is named.
    """
    for option, value in (
        ("--title-column", columns.title),
        ("--items-id-column", columns.items_id),
        ("--items-no-header", not columns.items_header),
    ):
        refuse(option, value, reason)


def refuse(option: str, value: str | bool, reason: str) -> None:
    """Refuse an option that could have no effect.

    Raises:
        DataError: it is given.
    """
    if value:
        given = option if value is True else f"{option} {value}"
        raise DataError(f"{given}: would have no effect, for {reason}; leave it out")
