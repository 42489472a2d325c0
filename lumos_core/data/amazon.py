"""Amazon reviews as published in 2014, 2018 (McAuley et al.) and 2023 (Hou et al.).

Reviews are JSON lines with ``reviewerID``, ``asin``, ``unixReviewTime`` (2014, 2018) or
``user_id``, ``parent_asin``, ``timestamp`` (2023). Metadata are JSON lines with ``asin`` or
``parent_asin``, and ``title``; those of 2014 are Python literals instead of JSON.
"""

import ast
import html
import re
from collections.abc import Collection
from pathlib import Path

import polars as pl

from lumos_core.data.files import text_blocks
from lumos_core.data.interactions import Columns, read_interactions
from lumos_core.data.raw import RawLog, items_of_log
from lumos_core.data.tables import column_names, read_table
from lumos_core.data.titles import clean_title
from lumos_core.errors import DataError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_LITERAL_ID = re.compile(rb"""['"]asin['"]:\s*['"]([^'"]+)['"]""")


def load_amazon(source: Path, items: Path | None, columns: Columns) -> RawLog:
    """Import reviews (every review is an interaction) and the titles of what was reviewed.

    Args:
        source: the reviews file, or a folder with it and ``meta*.json[l][.gz]``.
        items: the metadata file, if it is not beside the reviews.

    Raises:
        DataError: naming file and line of what is missing or malformed.
    """
    reviews = _reviews_file(source) if source.is_dir() else source
    metadata = items or _metadata_file(reviews.parent, reviews)
    log = read_interactions(reviews, columns)
    name = reviews.name.partition(".")[0]
    if metadata is None:
        warning = f"no metadata (meta*.json) beside {reviews.name}: item ids stand in for titles"
        return RawLog(name, log, items_of_log(log), str(reviews), False, (warning,))
    wanted = set(log.frame["item_id"].unique())
    titles = read_titles(metadata, wanted)
    frame = pl.DataFrame(
        sorted(titles.items()), schema={"item_id": pl.String, "title": pl.String}, orient="row"
    )
    return RawLog(name, log, frame, str(metadata), complete=False)


def read_titles(path: Path, wanted: Collection[str]) -> dict[str, str]:
    """Titles of the wanted items from a metadata file; the first of several records of an item
    counts (the published files repeat some). HTML entities are resolved.

    Raises:
        DataError: naming file and line.
    """
    read = _read_literals if _python_literals(path) else _read_json
    titles: dict[str, str] = {}
    for item_id, title in read(path, wanted):
        if item_id in wanted:
            titles.setdefault(item_id, clean_title(html.unescape(title or "")))
    return titles


def _reviews_file(folder: Path) -> Path:
    found = _json_files(folder, meta=False)
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{folder}: found {_names(found)}, expected one file with reviews "
        f"({' or '.join(SUFFIXES)}); name the file itself as the source"
    )


def _metadata_file(folder: Path, reviews: Path) -> Path | None:
    found = _json_files(folder, meta=True)
    if len(found) > 1:
        found = [path for path in found if _subject(path) == _subject(reviews)] or found
    if len(found) > 1:
        raise DataError(
            f"{folder}: found {_names(found)}, expected one metadata file; name it with --items"
        )
    return found[0] if found else None


def _json_files(folder: Path, meta: bool) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith(SUFFIXES) and path.name.startswith("meta") == meta
    ]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths) or "none"


def _subject(path: Path) -> str:
    """What a published file is about: reviews_Beauty_5.json.gz, meta_Beauty.json.gz → Beauty."""
    stem = path.name.partition(".")[0]
    return re.sub(r"^(reviews_|meta_)|(_5|_10)$", "", stem)


def _python_literals(path: Path) -> bool:
    _, block = next(text_blocks(path, 2**20))
    return block.lstrip().startswith(b"{'")


def _read_json(path: Path, wanted: Collection[str]) -> list[tuple[str, str | None]]:
    del wanted  # parsing everything is faster than choosing
    names = column_names(path)
    key = "parent_asin" if "parent_asin" in names else "asin"
    if key not in names:
        raise DataError(
            f"{path}: line 1: missing key: neither 'asin' nor 'parent_asin' among "
            f"{', '.join(map(repr, names))}; expected Amazon metadata"
        )
    return read_table(path, {"item_id": key, "title": "title"}).frame.rows()


def _read_literals(path: Path, wanted: Collection[str]) -> list[tuple[str, str | None]]:
    rows = []
    for first, block in text_blocks(path):
        for number, line in enumerate(block.split(b"\n"), start=first):
            key = _LITERAL_ID.search(line)
            if not line.strip() or (key and key[1].decode() not in wanted):
                continue  # evaluating a literal is slow, most are of items nobody reviewed here
            record = _literal(line, f"{path}: line {number}")
            title = record.get("title")
            rows.append((str(record["asin"]), None if title is None else str(title)))
    return rows


def _literal(line: bytes, place: str) -> dict[str, object]:
    try:
        record = ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{place}: neither JSON nor a Python literal ({reason})") from None
    if not isinstance(record, dict) or "asin" not in record:
        raise DataError(f"{place}: found no 'asin', expected a record of Amazon metadata")
    return record
