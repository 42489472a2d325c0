"""Opening a node: from its configuration to the :class:`Node`. This module imports torch."""

from pathlib import Path
from typing import NamedTuple

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.node_cache import keep_snapshot, read_kept_node, read_snapshot
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import least_history
from lumos_core.federation.node import Node
from lumos_core.federation.owner_floor import time_limit
from lumos_core.runs.node_metrics import LEAST_USERS
from lumos_core.views.meter import Meter
from lumos_core.views.source import view_source
from lumos_core.views.view import ViewSource, no_views


class RunData(NamedTuple):
    """A node's data for a message.

    Attributes:
        catalog: of the node.
        sequences: its users.
        kept: whether they are what the node has kept for the run.
    """

    catalog: Catalog
    sequences: Sequences
    kept: bool


def read_data(config: RunConfig, node: NodeConfig, run: str = "", run_catalog: str = "") -> RunData:
    """The data of a node: those that it has kept for the run, or else what is in its folder.

    Args:
        config: the run's configuration.
        node: this node's own settings.
        run: names the run; "": a server that names none, for which nothing is kept.
        run_catalog: fingerprint of the run's catalog. What was kept with another one is of no use.

    Raises:
        DataError: the folder or one of its files is missing, malformed or inconsistent.
    """
    folder, state, least = Path(node.data), node.state_folder, least_history(config.evaluation)
    found = read_snapshot(folder, state, run, least) if run else None
    if found is not None and run_catalog in ("", found[0].fingerprint):
        return RunData(*found, kept=True)
    return RunData(*read_kept_node(folder, state, least), kept=False)


def keep_data(config: RunConfig, node: NodeConfig, run: str, data: RunData) -> None:
    """Keep the data of a message for all later ones of its run.

    Raises:
        OSError: the disk refuses it.
    """
    if run and not data.kept:
        least = least_history(config.evaluation)
        keep_snapshot(node.state_folder, run, data.catalog, data.sequences, least)


def open_node(
    config: RunConfig,
    node: NodeConfig,
    meter: Meter | None = None,
    seconds: float | None = None,
    data: RunData | None = None,
) -> Node:
    """The node of a data folder, with the views of the configured writer and store.

    Args:
        config: the run's configuration.
        node: this node's own settings.
        meter: gets the progress of the views.
        seconds: time to write missing views; ``view-seconds`` if not given.
        data: the node's data; read if they are not given.

    Raises:
        DataError: the folder or one of its files is missing, malformed or inconsistent.
    """
    catalog, sequences, _ = data or read_data(config, node)
    if meter is not None:
        meter.expect(len(catalog), config.llm_judges)
    views: ViewSource = no_views
    if config.has_views:
        views = view_source(
            config, node, catalog,
            seconds=node.view_seconds if seconds is None else seconds,
            on_progress=meter.on_users if meter else None,
            on_stage=meter.on_stage if meter else None,
        )  # fmt: skip
    return Node(
        node.name, catalog, sequences, config, views, node.device, node.state_folder,
        lambda: time_limit(node), max(LEAST_USERS, node.min_users),
    )  # fmt: skip
