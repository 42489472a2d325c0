"""Finds out what a source is and calls the importer for it."""

from pathlib import Path
from typing import Literal

from lumos_core.data.importers.amazon import SUFFIXES as AMAZON_SUFFIXES
from lumos_core.data.importers.amazon import are_reviews, load_amazon
from lumos_core.data.importers.item_list import is_catalog, with_catalog, without_list
from lumos_core.data.importers.mind import BEHAVIORS, load_mind
from lumos_core.data.importers.raw_log import RawLog
from lumos_core.data.importers.recbole import load_recbole
from lumos_core.data.interactions import Columns, read_interactions, read_items
from lumos_core.data.layout import CATALOG_FILE, FORMATS, find_table
from lumos_core.errors import DataError

SourceFormat = Literal["auto", "table", "amazon", "mind", "recbole"]

_TABLE_SUFFIXES = tuple(suffix + gz for suffix in FORMATS for gz in ("", ".gz"))


def load_source(
    source: Path,
    source_format: SourceFormat = "auto",
    *,
    items: Path | None = None,
    columns: Columns | None = None,
    impression_clicks: bool = False,
) -> RawLog:
    """Read a data set in any of the formats that LUMOS knows.

    Args:
        source: a folder or the file with the interactions.
        items: the file with items and titles, if it is not found beside the interactions; a run's
            catalog with every format.
        columns: names of columns, where they are unusual.
        impression_clicks: MIND: append clicks in impressions to the histories.

    Raises:
        DataError: naming file and line of what is missing or malformed; or an option that would
            have no effect.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; check the path")
    names = columns or Columns()
    found = source_format if source_format != "auto" else detect_format(source, items)
    if impression_clicks and found != "mind":
        raise DataError(
            f"--impression-clicks: would have no effect, for only MIND's logs have impressions, "
            f"and {source} is read as {found}; leave it out"
        )
    match found:
        case "mind":
            return load_mind(source, items, names, impression_clicks)
        case "recbole":
            return load_recbole(source, items, names)
        case "amazon":
            return load_amazon(source, items, names)
        case _:
            return _load_table(source, items, names)


def detect_format(source: Path, items: Path | None = None) -> SourceFormat:
    """The format of a folder or file, by names of files and keys of the first record.

    Args:
        items: the list of items that goes with it, if that is named.

    Raises:
        DataError: if nothing known is found.
    """
    if source.is_file():
        return _format_of_file(source, items)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    if BEHAVIORS in names:
        return "mind"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if any(name in {f"interactions{suffix}" for suffix in _TABLE_SUFFIXES} for name in names):
        return "table"
    reviews = [name for name in names if name.endswith(AMAZON_SUFFIXES)]
    if reviews:
        return "amazon"
    found = ", ".join(names[:8]) or "no file"
    raise DataError(
        f"{source}: found {found}; expected interactions.(tsv|csv|jsonl|parquet), {BEHAVIORS} "
        "(MIND), *.inter (RecBole) or Amazon reviews (*.json, *.jsonl); name the file itself"
    )


def _format_of_file(path: Path, items: Path | None) -> SourceFormat:
    if path.name == BEHAVIORS:
        return "mind"
    if path.suffix == ".inter":
        return "recbole"
    return "amazon" if are_reviews(path, items) else "table"


def _load_table(source: Path, items: Path | None, columns: Columns) -> RawLog:
    folder = source if source.is_dir() else source.parent
    log = find_table(source, "interactions") if source.is_dir() else source
    item_file = items or _items_file(folder)
    name = folder.resolve().name if source.is_dir() else source.name.partition(".")[0]
    table = read_interactions(log, columns)
    if item_file is None:
        missing = f"no list of items (items.tsv) beside {log.name}"
        return without_list(name, table, columns, missing)
    if items is not None and is_catalog(items):
        return with_catalog(name, table, items, columns)
    listed = read_items(item_file, columns)
    return RawLog(name, table, listed.frame, str(item_file), warnings=listed.warnings)


def _items_file(folder: Path) -> Path | None:
    if any((folder / f"items{suffix}").is_file() for suffix in _TABLE_SUFFIXES):
        return find_table(folder, "items")
    catalog = folder / CATALOG_FILE
    return catalog if catalog.is_file() else None
