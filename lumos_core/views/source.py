"""Where a node's views come from: its store, and behind it the configured writer."""

from pathlib import Path

import numpy as np

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.node import Views, ViewSource
from lumos_core.views.build import OnProgress, build_views
from lumos_core.views.factory import view_factory
from lumos_core.views.pieces import OnStage
from lumos_core.views.store import ViewStore

STORE = "views.sqlite"


def view_source(
    config: RunConfig,
    node: NodeConfig,
    catalog: Catalog,
    *,
    seconds: float | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> ViewSource:
    """A function from training histories to their views; writes missing ones within the budget.

    Args:
        config: ``views``, ``llm``, … and the seed.
        node: ``state`` holds the store; the node's own LLM choice wins over the run's.
        catalog: the public catalog.
        seconds: budget of one call; None for no limit.
        on_progress, on_stage: see :func:`~lumos_core.views.build.build_views`.
    """
    folder = Path(node.state) if node.state else Path(node.data) / "state"
    fingerprint, factory = view_factory(config, node, catalog)

    def source(histories: Sequences) -> Views:
        lists = [histories[u].tolist() for u in range(len(histories))]
        with ViewStore(folder / STORE) as store:
            views = build_views(
                lists,
                factory,
                fingerprint,
                store,
                seconds=seconds,
                on_progress=on_progress,
                on_stage=on_stage,
            )
        return shuffled(views, config.seed) if config.views == "shuffled" else views

    return source


def shuffled(views: Views, seed: int) -> Views:
    """Every user gets another user's views: a control that keeps all but the content.

    One random cycle through the users, so nobody keeps their own (unless there is only one).
    """
    users = np.random.default_rng(seed).permutation(sorted(views)).tolist()
    return {user: views[other] for user, other in zip(users, users[1:] + users[:1], strict=True)}
