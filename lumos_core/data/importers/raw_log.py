"""What an importer is, and what it returns: a log and its items, not yet filtered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lumos_core.data.reading.table_files import Table


@dataclass(frozen=True)
class RawLog:
    """A data set as its owner published it.

    Attributes:
        name: short name of the data set.
        interactions: ``user_id``, ``item_id`` (String), ``timestamp`` (Int64 or Float64).
        items: ``item_id`` (unique), ``title`` ("" where there is none).
        items_source: where the items came from, for messages.
        complete: whether ``items`` must hold every item of the log. True for a table with its list
            of items; false for Amazon and MIND, who publish logs with unlisted items.
        warnings: what the user should know, a sentence each.
        listed: whether there is a list of items; if not, ``items`` are those of the log.
        fixed: whether ``items`` are a run's catalog: taken whole and in its order, with no other
            item added.
        title: name of the column that the titles came from, "" if there is none or it has no name.
        domain: what the items are (see :mod:`lumos_core.data.domains`), "" if that is not known.
    """

    name: str
    interactions: Table
    items: pl.DataFrame
    items_source: str
    complete: bool = True
    warnings: tuple[str, ...] = ()
    listed: bool = True
    fixed: bool = False
    domain: str = ""
    title: str = ""


def items_of_log(interactions: Table) -> pl.DataFrame:
    """Items of a log that comes without a list of items: sorted ids, no titles."""
    ids = interactions.frame["item_id"].unique().sort()
    return pl.DataFrame({"item_id": ids, "title": pl.Series([""] * len(ids), dtype=pl.String)})


@dataclass(frozen=True)
class Importer:
    """A format that ``lumos prepare`` reads; what a plug-in of group ``lumos.importers`` has to be.

    Attributes:
        expected: what is looked for in a folder, for messages; "" if there is nothing to look for.
        load: called with the source (a folder or file), the list of items or None, and the names of
            columns; raises DataError naming file and line of what is missing or malformed.
        finds: whether the names of a folder's files are those of this format.
        knows: whether a file is of this format, given the list of items or None.
        impressions: whether ``load`` takes ``impression_clicks`` as well.
    """

    expected: str
    load: Callable[..., RawLog]
    finds: Callable[[Sequence[str]], bool] = lambda names: False
    knows: Callable[[Path, Path | None], bool] = lambda path, items: False
    impressions: bool = False
