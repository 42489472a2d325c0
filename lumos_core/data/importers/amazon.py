"""Amazon reviews as published in 2014, 2018 (McAuley et al.) and 2023 (Hou et al.).

Reviews are JSON lines with ``reviewerID``, ``asin``, ``unixReviewTime`` (2014, 2018) or
``user_id``, ``parent_asin``, ``timestamp`` (2023). Metadata are JSON lines with ``asin`` or
``parent_asin``, and ``title``; those of 2014 are Python literals instead of JSON.
"""

import ast
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import polars as pl

from lumos_core.data.importers.item_list import is_catalog, refuse, refuse_columns, with_catalog
from lumos_core.data.importers.raw_log import Importer, RawLog, items_of_log
from lumos_core.data.interactions import read_interactions
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import column_names, read_table, table_format
from lumos_core.data.reading.text_files import named, text_blocks
from lumos_core.data.reading.title_text import usable_title
from lumos_core.errors import DataError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
DOMAIN = "products"
_TABLES = (".csv", ".csv.gz", ".parquet")  # CSV: reviews of 2023; Parquet: anything, converted
_KEYS = ({"reviewerID", "asin"}, {"user_id", "parent_asin"})
_LITERAL_ID = re.compile(rb"""['"]asin['"]:\s*['"]([^'"]+)['"]""")
Titles = list[tuple[str, str | None]]
"""Ids of items and the titles in their records."""


def load_amazon(source: Path, items: Path | None, columns: Columns) -> RawLog:
    """Import reviews (every review is an interaction) and the titles of the reviewed items.

    Args:
        source: the reviews file, or a folder with it and ``meta*.json[l][.gz]``.
        items: the metadata file, if it is not beside the reviews; or a run's catalog.
        columns: names of keys, where they are unusual.

    Raises:
        DataError: naming file and line of what is missing or malformed.
    """
    reviews = _reviews_file(source) if source.is_dir() else source
    metadata = items or _metadata_file(reviews.parent, reviews)
    log = read_interactions(reviews, columns)
    name = reviews.name.partition(".")[0]
    if metadata is None:
        missing = f"no metadata (meta*.json) beside {reviews.name}"
        refuse_columns(columns, f"there is {missing}, and titles in it are those of reviews")
        warning = f"{missing}: item ids stand in for titles; name the metadata with --items"
        return RawLog(
            name, log, items_of_log(log), str(reviews), False, (warning,), listed=False,
            domain=DOMAIN,
        )  # fmt: skip
    if is_catalog(metadata):
        return replace(with_catalog(name, log, metadata, columns), domain=DOMAIN)
    refuse("--items-no-header", not columns.items_header, "metadata name their columns")
    wanted = set(log.frame["item_id"].unique())
    titles = read_titles(metadata, wanted, columns)
    frame = pl.DataFrame(
        sorted(titles.items()), schema={"item_id": pl.String, "title": pl.String}, orient="row"
    )
    title = columns.title or "title"
    return RawLog(name, log, frame, str(metadata), complete=False, domain=DOMAIN, title=title)


def are_reviews(path: Path, items: Path | None) -> bool:
    """Whether a table holds Amazon reviews, by its keys.

    A user's own table in CSV or Parquet may have the same keys; such a file counts as reviews only
    if there is metadata as well.

    Raises:
        DataError: it cannot be read.
    """
    keys = set(column_names(path))
    if not any(keys >= expected for expected in _KEYS):
        return False
    if table_format(path) == "jsonl" or items is not None:
        return True
    return bool(_found(path.parent, meta=True))


def read_titles(
    path: Path, wanted: Collection[str], columns: Columns | None = None
) -> dict[str, str]:
    """Titles of the wanted items from a metadata file, "" where there is none; of several records
    of an item (the published files repeat some) the first with a usable title counts.

    Args:
        path: JSON lines or Python literals; also CSV, TSV or Parquet.
        columns: names of the keys, where they are not the published ones.

    Raises:
        DataError: naming file and line.
    """
    names = columns or Columns()
    read = _read_literals if _python_literals(path) else _read_table
    titles: dict[str, str] = {}
    for item_id, title in read(path, wanted, names):
        if item_id in wanted and not titles.get(item_id):
            titles[item_id] = usable_title(title)
    return titles


def _reviews_file(folder: Path) -> Path:
    found = _found(folder, meta=False)
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{folder}: found {_names(found)}, expected one file with reviews "
        f"({', '.join(SUFFIXES + _TABLES)}); name the file itself as the source"
    )


def _metadata_file(folder: Path, reviews: Path) -> Path | None:
    found = _found(folder, meta=True)
    if len(found) > 1:
        found = [path for path in found if _subject(path) == _subject(reviews)] or found
    if len(found) > 1:
        raise DataError(
            f"{folder}: found {_names(found)}, expected one metadata file; name it with --items"
        )
    return found[0] if found else None


def _found(folder: Path, meta: bool) -> list[Path]:
    """Files of a folder that hold metadata, or reviews: JSON by name, other tables by keys."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        if (path.name.endswith(SUFFIXES) and path.name.startswith("meta") == meta)
        or (path.name.endswith(_TABLES) and _kind(path) == ("metadata" if meta else "reviews"))
    ]


def _kind(table: Path) -> str:
    """ "reviews" or "metadata"; "" if it is neither."""
    try:
        keys = set(column_names(table))
    except DataError:
        return ""
    if any(keys >= expected for expected in _KEYS):
        return "reviews"
    listed = keys >= {"asin", "title"} or keys >= {"parent_asin", "title"}
    return "metadata" if listed else ""


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths) or "none"


def _subject(path: Path) -> str:
    """What a published file is about: reviews_Beauty_5.json.gz, meta_Beauty.json.gz → Beauty."""
    stem = path.name.partition(".")[0]
    return re.sub(r"^(reviews_|meta_)|(_5|_10|_5core)$", "", stem)


def _python_literals(path: Path) -> bool:
    if table_format(path) != "jsonl":
        return False
    _, block = next(text_blocks(path, 2**20))
    return block.lstrip().startswith(b"{'")


def _read_table(path: Path, wanted: Collection[str], columns: Columns) -> Titles:
    del wanted  # parsing everything is faster than choosing
    names = column_names(path)
    key = columns.items_id or ("parent_asin" if "parent_asin" in names else "asin")
    if key not in names:
        expected = repr(key) if columns.items_id else "'asin' nor 'parent_asin'"
        raise DataError(
            f"{path}: line 1: missing key: {'no' if columns.items_id else 'neither'} {expected} "
            f"among {named(list(names))}; expected Amazon metadata (--items-id-column "
            "names another key)"
        )
    title = columns.title or "title"
    if title not in names and table_format(path) != "jsonl":  # JSON records may lack some keys
        raise _no_such_key(path, title, names)
    frame = read_table(path, {"item_id": key, "title": title}).frame
    if columns.title and title not in names and frame["title"].is_null().all():
        raise _no_such_key(path, title, names)
    return frame.cast(pl.String).rows()


def _no_such_key(path: Path, title: str, names: Collection[str]) -> DataError:
    return DataError(
        f"{path}: no record has a title under {title!r}, found {named(list(names))}; name "
        "one of these with --title-column"
    )


def _read_literals(path: Path, wanted: Collection[str], columns: Columns) -> Titles:
    key, title = columns.items_id or "asin", columns.title or "title"
    rows: Titles = []
    keys: dict[str, None] = {}
    for first, block in text_blocks(path):
        for number, line in enumerate(block.split(b"\n"), start=first):
            found = _LITERAL_ID.search(line) if key == "asin" else None
            if not line.strip() or (found and found[1].decode() not in wanted):
                continue  # evaluating a literal is slow, and most are of items without a review
            record = _literal(line, key, f"{path}: line {number}")
            keys |= dict.fromkeys(map(str, record))
            text = record.get(title)
            rows.append((str(record[key]), None if text is None else str(text)))
    if columns.title and rows and title not in keys:
        raise _no_such_key(path, title, list(keys))
    return rows


def _literal(line: bytes, key: str, place: str) -> dict[str, object]:
    try:
        record = ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{place}: neither JSON nor a Python literal ({reason})") from None
    if not isinstance(record, dict) or key not in record:
        raise DataError(f"{place}: found no {key!r}, expected a record of Amazon metadata")
    return record


IMPORTER = Importer(
    "Amazon reviews (*.json, *.jsonl)",
    load_amazon,
    finds=lambda names: any(name.endswith(SUFFIXES) for name in names),
    knows=are_reviews,
)
