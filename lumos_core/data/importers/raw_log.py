"""What every importer hands over: a log and the items it speaks of, not yet filtered."""

from dataclasses import dataclass

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
        complete: whether an item of the log that ``items`` lacks is an error in the data (a table
            with its list of items) or usual (Amazon and MIND publish logs with unlisted items).
        warnings: what the user should know, a sentence each.
        listed: whether there is a list of items; if not, ``items`` are those of the log.
        fixed: whether ``items`` are a run's catalog, to be taken whole and in its order, without
            another item.
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


def items_of_log(interactions: Table) -> pl.DataFrame:
    """Items of a log that comes without a list of items: sorted ids, no titles."""
    ids = interactions.frame["item_id"].unique().sort()
    return pl.DataFrame({"item_id": ids, "title": pl.Series([""] * len(ids), dtype=pl.String)})
