"""Opening a node: from its configuration to the :class:`Node`. This module imports torch."""

from pathlib import Path

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.node_cache import read_kept_node
from lumos_core.data.splits import least_history
from lumos_core.federation.node import Node
from lumos_core.federation.owner_floor import time_limit
from lumos_core.runs.node_metrics import LEAST_USERS
from lumos_core.views.meter import Meter
from lumos_core.views.source import view_source
from lumos_core.views.view import ViewSource, no_views


def open_node(
    config: RunConfig,
    node: NodeConfig,
    meter: Meter | None = None,
    seconds: float | None = None,
) -> Node:
    """The node of a data folder, with the views of the configured writer and store.

    Args:
        config: the run's configuration.
        node: this node's own settings.
        meter: gets the progress of the views.
        seconds: time to write missing views; ``view-seconds`` if not given.

    Raises:
        DataError: the folder or one of its files is missing, malformed or inconsistent.
    """
    least = least_history(config.evaluation)
    catalog, sequences = read_kept_node(Path(node.data), node.state_folder, least)
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
