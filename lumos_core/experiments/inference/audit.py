"""The runs of `lumos audit`: leakage over settings and sizes of nodes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import LeaveOneOut
from lumos_core.data.prepared_folder import load_prepared, node_folders
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError, DataError
from lumos_core.experiments.inference.leakage import TOP, Leakage, World, audit
from lumos_core.experiments.inference.settings import SETTINGS
from lumos_core.learning.parameters import Params
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.view import UserViews


def audits(
    data: Path,
    base: RunConfig,
    names: Sequence[str],
    sizes: Sequence[int],
    *,
    trials: int,
    shadows: int,
    seed: int,
    after: int = 0,
    masks: int = 1,
    on_row: Callable[[Leakage], None] = lambda row: None,
) -> list[Leakage]:
    """Attack nodes under every setting and of every size.

    Args:
        data: folder made by `lumos prepare`; for ``lumos``, its nodes' stores must hold views.
        base: the configuration that settings change.
        names: keys of :data:`SETTINGS`.
        sizes: users per node.
        trials, shadows: number of nodes attacked, and of nodes that the attack learns from.
        after: rounds of plain training before the round that is observed.
        masks: under secure aggregation, the number of masks over which a node's numbers are
            averaged.

    Raises:
        ConfigError: a setting is unknown, or the users are too few for a size.
        DataError: the views of ``lumos`` have not been built.
    """
    for name in names:
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}; known are: {'; '.join(SETTINGS)}")
    configs = {n: RunConfig.from_flat({**base.to_flat(), **SETTINGS[n].changes}) for n in names}
    with_views = any(config.has_views for config in configs.values())
    world = open_world(data, base, with_views, after)
    for size in sizes:
        if size * (shadows + 1) > len(world.users):
            raise ConfigError(
                f"{len(world.users)} users are too few for {shadows} shadow nodes and a target of "
                f"{size}; choose smaller --users or fewer --shadows"
            )
    rows = []
    for name, config in configs.items():
        for size in sizes:
            found = audit(
                world, config, size, trials=trials, shadows=shadows, seed=seed, round=after + 1,
                masks=masks if SETTINGS[name].masked else 0,
            )  # fmt: skip
            rows.append({"setting": name, "users": size, "after": after, **found})
            on_row(rows[-1])
    return rows


def open_world(data: Path, base: RunConfig, with_views: bool, after: int) -> World:
    """Catalog, all users, their views, and the model of round ``after``."""
    catalog, nodes = load_prepared(data)
    views: dict[str, UserViews] = {}
    if with_views:
        for folder, users in zip(node_folders(data), nodes, strict=True):
            views |= _stored_views(folder, users, base, catalog)
        if not views:
            raise DataError(
                f"{data}: holds no views, which method = lumos trains with; build them with "
                f"'lumos views build {data}', or choose -c views=tfidf"
            )
    return World(catalog, Sequences.concat(nodes), _params(base, catalog, nodes, after), views)


def _stored_views(
    folder: Path, users: Sequences, base: RunConfig, catalog: Any
) -> dict[str, UserViews]:
    from lumos_core.views.source import view_source

    budget = 0.0 if base.views == "llm" else None  # an LLM is slow: use only stored views
    config = base.replace(method="lumos")
    source = view_source(config, NodeConfig(data=str(folder)), catalog, seconds=budget)
    return {users.user_ids[u]: v for u, v in source(LeaveOneOut(users).train()).items()}


def _params(base: RunConfig, catalog: Any, nodes: Sequence[Sequences], after: int) -> Params:
    from lumos_core.federation.simulate import simulate
    from lumos_core.learning.title_start import initial_params
    from lumos_core.privacy.mechanisms import fewest_replies

    if not after:
        return initial_params(base, catalog)
    count = len(nodes)
    config = base.replace(
        method="fedavg", rounds=after, min_nodes=count, evaluate_every=after,
        min_replies=fewest_replies(base, count),
    )  # fmt: skip
    return simulate(config, catalog, nodes).params


def leakage_table(rows: Sequence[Leakage]) -> str:
    """The rows as Markdown."""
    header = (
        "setting", "users", "AUC", "largest of a node", f"precision@{TOP}", "chance",
        "AUC of one user's items", "popularity alone", "AUC of views' items",
        "AUC of real against views' items",
    )  # fmt: skip
    keys = (
        "auc", "auc_max", f"precision@{TOP}", "chance", "user_auc", "popularity_auc", "view_auc",
        "real_auc",
    )  # fmt: skip
    return markdown_table(
        header,
        [[row["setting"], str(row["users"]), *(_cell(row, key) for key in keys)] for row in rows],
    )


def _cell(row: Leakage, key: str) -> str:
    value, spread = row[key], row.get(f"{key}_stdev")
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {spread:.3f}" if spread is not None and key == "auc" else "")
