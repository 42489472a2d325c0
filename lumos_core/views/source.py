"""Where a node's views come from: its store, and behind it the configured writer."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import split_of
from lumos_core.views.build import OnProgress, build_views
from lumos_core.views.item_names import ItemNames
from lumos_core.views.provenance import writer_of
from lumos_core.views.titles.resumable import OnStage
from lumos_core.views.view import UserViews, Views, ViewSource
from lumos_core.views.view_store import ViewStore, view_key
from lumos_core.views.writers.choose import view_factory

STORE = "views.sqlite"


class ViewCount(NamedTuple):
    """Distinct training histories, and those of them whose views are in the store."""

    stored: int
    total: int


def count_views(
    config: RunConfig, node: NodeConfig, catalog: Catalog, sequences: Sequences
) -> ViewCount:
    """How many of a node's views exist already; for its owner, never for the server.

    Args:
        config: ``views``, ``llm``, …
        node: the node whose store is read; nothing is created.
        catalog: the public catalog.
        sequences: the node's users, each with at least three interactions.

    Raises:
        ModelError: the model cannot be found.
    """
    train = split_of(config, sequences).train()
    keys = _keys(config, node, catalog, train)
    found = _stored(node, catalog, set(keys.values()))
    return ViewCount(len(found), len(set(keys.values())))


def stored_views(
    config: RunConfig, node: NodeConfig, catalog: Catalog, histories: Sequences
) -> Views:
    """The views of histories that are in a node's store; nothing is written or created.

    Raises:
        ModelError: the model cannot be found.
    """
    keys = _keys(config, node, catalog, histories)
    found = _stored(node, catalog, keys.values())
    return {u: found[key] for u, key in keys.items() if key in found}


def take_over(
    config: RunConfig, node: NodeConfig, other: NodeConfig, catalog: Catalog, histories: Sequences
) -> int:
    """Copy the views of histories that another node's store holds into this node's store.

    Args:
        config: ``views``, ``llm``, …
        node: the node whose store is filled; only this writer's views are copied.
        other: the node whose store is read; nothing is created there.
        catalog: the public catalog of both.
        histories: training histories.

    Returns:
        How many were found.

    Raises:
        ModelError: the model cannot be found.
    """
    fingerprint, _ = view_factory(config, node, catalog)
    found = _stored(other, catalog, _keys(config, node, catalog, histories).values())
    if found:
        writer, items = writer_of(config, node, fingerprint), ItemNames(catalog)
        with ViewStore(node.state_folder / STORE, writer, items) as store:
            store.put_many(found)
    return len(found)


def _keys(
    config: RunConfig, node: NodeConfig, catalog: Catalog, histories: Sequences
) -> dict[int, bytes]:
    """User's position -> key of the views, for every history that is not empty."""
    fingerprint, _ = view_factory(config, node, catalog)
    lists = {u: histories[u].tolist() for u in range(len(histories)) if len(histories[u])}
    items = ItemNames(catalog)
    return {u: view_key(fingerprint, history, items) for u, history in lists.items()}


def _stored(node: NodeConfig, catalog: Catalog, keys: Iterable[bytes]) -> dict[bytes, UserViews]:
    path = node.state_folder / STORE
    if not path.exists():
        return {}
    with ViewStore(path, items=ItemNames(catalog)) as store:
        return store.get_many(keys)


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
    folder = node.state_folder
    fingerprint, factory = view_factory(config, node, catalog)

    def source(histories: Sequences) -> Views:
        lists = [histories[u].tolist() for u in range(len(histories))]
        writer = writer_of(config, node, fingerprint)
        with ViewStore(folder / STORE, writer, ItemNames(catalog)) as store:
            views = build_views(
                lists,
                factory,
                fingerprint,
                store,
                seconds=seconds,
                on_progress=on_progress,
                on_stage=on_stage,
                share=config.view_share,
            )
        return shuffled(views, config.seed) if config.views == "shuffled" else views

    return source


def shuffled(views: Views, seed: int) -> Views:
    """Every user gets another user's views: a control in which views are unrelated to the user.

    Views move along one random cycle through all users, so that nobody keeps their own (unless
    there is only one user).
    """
    users = np.random.default_rng(seed).permutation(sorted(views)).tolist()
    return {user: views[other] for user, other in zip(users, users[1:] + users[:1], strict=True)}
