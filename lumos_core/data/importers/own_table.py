"""The user's own table of interactions, in CSV, TSV, JSONL or Parquet, and its list of items."""

from pathlib import Path

from lumos_core.data.importers.item_list import is_catalog, with_catalog, without_list
from lumos_core.data.importers.raw_log import Importer, RawLog
from lumos_core.data.interactions import read_interactions, read_items
from lumos_core.data.layout import CATALOG_FILE, FORMATS, find_table
from lumos_core.data.reading.columns import Columns

_SUFFIXES = tuple(suffix + gz for suffix in FORMATS for gz in ("", ".gz"))


def load_table(source: Path, items: Path | None, columns: Columns) -> RawLog:
    """Import a table.

    Args:
        source: the table, or a folder with one called ``interactions``.
        items: the list of items, if it is not beside the table as ``items``; or a run's catalog.
        columns: names of columns, where they are unusual.

    Raises:
        DataError: naming file and line of what is missing or malformed.
    """
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
    return RawLog(
        name, table, listed.frame, str(item_file), warnings=listed.warnings, title=listed.title
    )


def _items_file(folder: Path) -> Path | None:
    if any((folder / f"items{suffix}").is_file() for suffix in _SUFFIXES):
        return find_table(folder, "items")
    catalog = folder / CATALOG_FILE
    return catalog if catalog.is_file() else None


IMPORTER = Importer(
    "interactions.(tsv|csv|jsonl|parquet)",
    load_table,
    finds=lambda names: any(f"interactions{suffix}" in names for suffix in _SUFFIXES),
    knows=lambda path, items: True,
)
