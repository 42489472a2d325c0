"""The users of all nodes together, for centralised training: every user has one history."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from lumos_core.data.catalog import Catalog
from lumos_core.data.interactions import read_interactions
from lumos_core.data.layout import node_files
from lumos_core.data.node_folder import chronological, to_sequences
from lumos_core.data.prepared_folder import node_folders
from lumos_core.data.sequences import MIN_HISTORY, Sequences


@dataclass(frozen=True)
class Pooled:
    """What :func:`pool` makes of the nodes.

    Attributes:
        users: all users, those of the first node first.
        merged: how many of the data's users have interactions on more than one node.
    """

    users: Sequences
    merged: int = 0


def pool(
    folder: Path, catalog: Catalog, nodes: Sequence[Sequences], min_history: int = MIN_HISTORY
) -> Pooled:
    """One history per user, even if the user's interactions are on several nodes.

    Such histories are merged in the order of time; an interaction that several nodes hold (same
    user, item and time) counts once. A federation does not know of such users: there, each node
    trains and evaluates on its own part.

    Args:
        folder: a prepared folder.
        catalog: its catalog.
        nodes: the histories of its nodes, as ``load_prepared`` gives them.
        min_history: interactions that a user must have, on all nodes together.

    Raises:
        DataError: naming file and line, if a node's file has changed and is malformed.
    """
    apart = Sequences.concat(nodes)
    if not apart.left_out and len(set(apart.user_ids)) == len(apart):
        return Pooled(apart)
    logs = (node_files(node).interactions for node in node_folders(folder))
    frames = [
        chronological(read_interactions(log, own=True).frame).with_columns(node=n)
        for n, log in enumerate(logs)
    ]
    rows = pl.concat(frames, how="vertical_relaxed")
    first = pl.col("node").min().over("user_id", "item_id", "timestamp")
    users = to_sequences(rows.filter(pl.col("node") == first), catalog)
    merged = rows.group_by("user_id").agg(pl.col("node").n_unique()).filter(pl.col("node") > 1)
    order = rows["user_id"].unique(maintain_order=True)
    return Pooled(_long_enough(users, order, min_history), len(merged))


def merged_text(users: int) -> str:
    """The warning that histories were merged."""
    return (
        f"users with interactions on more than one node: {users}; in centralised training and "
        "popularity, each has one history, merged in the order of time; a federation counts them "
        "on each of their nodes"
    )


def _long_enough(users: Sequences, order: pl.Series, least: int) -> Sequences:
    """The users with enough interactions, in this order."""
    place = {user: u for u, user in enumerate(users.user_ids)}
    chosen = np.array([place[user] for user in order], dtype=np.int64)
    chosen = chosen[users.lengths[chosen] >= least]
    return replace(users.subset(chosen), left_out=len(users) - len(chosen))
