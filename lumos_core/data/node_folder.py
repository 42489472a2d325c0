"""A node data folder: ``catalog.tsv`` and ``interactions.(tsv|csv|jsonl|parquet)``."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from lumos_core.data.catalog import Catalog
from lumos_core.data.interactions import check_known_items, read_interactions
from lumos_core.data.layout import node_files
from lumos_core.data.reading.table_files import Table
from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.errors import DataError


def read_node(folder: Path, min_history: int = MIN_HISTORY) -> tuple[Catalog, Sequences]:
    """Read the data of one node.

    Users come in the order of their ids, items of a user in the order of time; where times are
    equal, in the order of the file.

    Args:
        folder: the node's data folder.
        min_history: interactions that a user must have; training needs 3, recommending 1. Users
            with fewer are left out and counted (``Sequences.left_out``), so that they do not keep
            the others from training.

    Raises:
        DataError: naming file and line: a file is missing or malformed, an item is not in the
            catalog, or every user has fewer than ``min_history`` interactions.
    """
    files = node_files(folder)
    catalog = Catalog.read(files.catalog)
    table = read_interactions(files.interactions, own=True)
    check_known_items(table, pl.Series(catalog.item_ids), str(files.catalog))
    long, left_out = _long_enough(table, min_history)
    return catalog, replace(to_sequences(long, catalog), left_out=left_out)


def to_sequences(interactions: pl.DataFrame, catalog: Catalog) -> Sequences:
    """Histories in the order of user ids; items by time, by row where times are equal.

    Args:
        interactions: ``user_id``, ``item_id`` (all in the catalog), ``timestamp``.
    """
    indices = pl.DataFrame(
        {"item_id": catalog.item_ids, "index": np.arange(1, len(catalog) + 1, dtype=np.int32)},
        schema={"item_id": pl.String, "index": pl.Int32},
    )
    ordered = chronological(interactions).join(
        indices, on="item_id", how="left", maintain_order="left"
    )
    runs = ordered["user_id"].rle().struct.unnest()
    offsets = np.concatenate([[0], runs["len"].cast(pl.Int64).cum_sum().to_numpy()])
    items = ordered["index"].to_numpy(writable=True)
    times = ordered["timestamp"].cast(pl.Float64).to_numpy(writable=True)
    return Sequences(tuple(runs["value"]), items, offsets.astype(np.int64), times=times)


def chronological(interactions: pl.DataFrame) -> pl.DataFrame:
    """Rows by user, then time, then original row (stable)."""
    return interactions.sort("user_id", "timestamp", maintain_order=True)


def _long_enough(table: Table, least: int) -> tuple[pl.DataFrame, int]:
    """The rows of users with at least ``least`` interactions, and the number of other users."""
    lengths = pl.len().over("user_id")
    long = table.frame.filter(lengths >= least)
    users = table.frame["user_id"].n_unique()
    if long.is_empty():
        raise DataError(
            f"{table.path}: found no user with at least {least} interactions (users: {users}, "
            f"interactions: {len(table.frame)}), expected {least} or more of a user, for training, "
            "validation and test; give this node longer histories"
        )
    return long, users - long["user_id"].n_unique()
