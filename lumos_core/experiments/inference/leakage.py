"""A curious server: what does one node's delta reveal about its users' items?

The attack uses only what a server has: the global model it sent, the delta it received, the public
catalog, and a few *shadow* nodes – users whose histories it knows (its own, or those of nodes it
runs), trained by the same code under the same settings. It computes a few features
(:data:`FEATURES`) of every item's row and bias, as ranks. On the shadow nodes it learns, by
logistic regression, which features reveal an item; then it ranks the catalog for the target node.

What is measured, on nodes whose users are disjoint from the shadows':

- ``auc``: does the ranking put the items of the node's training histories above all others?
- ``precision@20`` and ``chance``, the share of the catalog that is in those histories;
- ``user_auc``: the same ranking against the items of *one* of the node's users, averaged over
  users; ``popularity_auc``: what guessing popular items achieves for them without any delta;
- ``view_auc``: does the ranking put items that occur only in synthetic views above items in no
  history and no view; ``real_auc``: does it put real items above items that occur only in views.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, Params
from lumos_core.views.view import UserViews, Views, ViewSource, no_views
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Metrics

Floats = NDArray[np.float64]
Leakage = dict[str, Any]
"""Numbers by name: how much the delta of a node, or of a setting's nodes, revealed."""
FEATURES = (
    "size", "against-mean", "angle", "along-item", "unexplained", "against-shadows", "bias",
)  # fmt: skip
TOP = 20


@dataclass(frozen=True)
class World:
    """What an audit needs: a catalog, a pool of users, their views, and the global model."""

    catalog: Catalog
    users: Sequences
    params: Params
    views: Mapping[str, UserViews]  # by user id

    def node(self, name: str, users: NDArray[np.int64], config: RunConfig) -> Node:
        """A node of these users, with their views if the method uses views."""
        source: ViewSource = self._views_of if config.has_views else no_views
        return Node(name, self.catalog, self.users.subset(users), config, source)

    def received(self, node: Node) -> Params:
        """The global model as this node's method has it: with an item bias or without."""
        params = {name: array for name, array in self.params.items() if name != ITEM_BIAS}
        if not node.shape.item_bias:
            return params
        none = np.zeros(node.shape.num_items + 1, dtype=np.float32)
        return {ITEM_BIAS: self.params.get(ITEM_BIAS, none), **params}  # the model's order

    def _views_of(self, histories: Sequences) -> Views:
        ids = enumerate(histories.user_ids)
        return {position: self.views[u] for position, u in ids if u in self.views}


@dataclass(frozen=True)
class Observation:
    """One node's reply as the server sees it, and the truth, which the server does not see.

    Attributes:
        table: float64 [N, D], the delta of the item table without its padding row.
        bias: float64 [N], that of the item bias; zeros if the model has none.
        real: bool [N], items of the training histories.
        synthetic: bool [N], items of views that are in no training history.
        per_user: bool [U, N], items of each user's training history.
    """

    table: Floats
    bias: Floats
    real: NDArray[np.bool_]
    synthetic: NDArray[np.bool_]
    per_user: NDArray[np.bool_]


def observe(world: World, node: Node, round: int, masks: int = 0) -> list[Observation]:
    """Train the node for one round, with the code that a deployment runs.

    Args:
        masks: 0: the server receives the reply as it is. Otherwise the reply is sent under secure
            aggregation, see :func:`under_mask`, under this many independent masks.

    Returns:
        One observation, or one for every mask.
    """
    config, params = node.config, world.received(node)
    arrays, metrics = node.train(params, round)
    delta = codec(config.delta_codec).decode(arrays, params, config.top_rows_share)
    replies = [under_mask(delta, metrics, config) for _ in range(masks)] if masks else [delta]
    train = node.split.train()
    items = len(world.catalog)
    per_user = np.zeros((len(train), items + 1), dtype=bool)
    for user, history in enumerate(train):
        per_user[user, history] = True
    seen = np.zeros(items + 1, dtype=bool)
    if config.has_views:
        for u in train.user_ids:
            for view in world.views.get(u, UserViews((), (), ())):
                seen[list(view)] = True
    real: NDArray[np.bool_] = np.any(per_user, axis=0)
    none = np.zeros(items + 1)
    return [
        Observation(
            reply[ITEM_TABLE][1:].astype(np.float64),
            reply.get(ITEM_BIAS, none).reshape(-1)[1:].astype(np.float64),
            real[1:],
            (seen & ~real)[1:],
            per_user[:, 1:],
        )
        for reply in replies
    ]


def under_mask(delta: Params, metrics: Metrics, config: RunConfig) -> Params:
    """What the server sees of a delta that was uploaded under secure aggregation, as numbers: it is
    quantised, and masked with a key of which the server receives no share."""
    from lumos_core.privacy.secure_aggregation.encoding import Encoding
    from lumos_core.privacy.secure_aggregation.masks import KEY_BYTES, add_own

    encoding = Encoding.of(config, delta, evaluated=False)
    vector = encoding.encode(delta, metrics, np.random.default_rng())
    add_own(vector, os.urandom(KEY_BYTES))
    return encoding.as_delta(vector)


# ---------------------------------------------------------------- the attack
class InferenceAttack:
    """Learns from shadow nodes, then scores the items of others.

    Args:
        world: holds the item table that the server sent.
        shadows: observations under the same settings as those of the targets.
    """

    def __init__(self, world: World, shadows: Sequence[Observation]) -> None:
        from sklearn.linear_model import LogisticRegression

        self._items = world.params[ITEM_TABLE][1:].astype(np.float64)
        # The mean direction in which items that no shadow node touched move.
        untouched = [s.table[~(s.real | s.synthetic)] for s in shadows]
        moved = np.concatenate([*untouched, np.zeros((1, self._items.shape[1]))])
        self._away = _unit(moved.mean(axis=0))
        features = np.concatenate([self.features(s) for s in shadows])
        labels = np.concatenate([s.real for s in shadows])
        if labels.all() or not labels.any():
            raise ValueError("shadow nodes must have items and lack some")
        self._model = LogisticRegression(C=1.0, max_iter=200).fit(features, labels)

    def features(self, seen: Observation) -> Floats:
        """[N, F] of :data:`FEATURES`, as ranks in (0, 1), since sizes differ between nodes. Only
        what the server sees of the observation is used."""
        table = seen.table
        mean = _unit(table.mean(axis=0))
        size = np.linalg.norm(table, axis=1)
        design = np.c_[self._items, np.ones(len(table))]
        gram = design.T @ design + 1e-3 * np.eye(design.shape[1])
        expected = design @ np.linalg.solve(gram, design.T @ table)
        columns = (
            size,
            -(table @ mean),
            -(table @ mean) / (size + 1e-12),
            (table * self._items).sum(axis=1),
            np.linalg.norm(table - expected, axis=1),
            -(table @ self._away),
            seen.bias,
        )
        return np.stack([_ranks(column) for column in columns], axis=1)

    def scores(self, seen: Observation) -> Floats:
        """[N]: the higher the score, the likelier the item is in the node's histories."""
        found: Floats = self._model.decision_function(self.features(seen))
        return found


def measure_leakage(scores: Floats, target: Observation, popularity: Floats) -> Leakage:
    """The numbers of one target node; None where one of the two classes is empty.

    Args:
        scores: [N], scores of the attack.
        target: the node's observation, with the truth.
        popularity: [N], how often items occur in histories that the server knows.
    """
    neither = ~(target.real | target.synthetic)
    top = np.argsort(-scores, kind="stable")[:TOP]
    per_user = [area_under_curve(items, scores) for items in target.per_user]
    popular = [area_under_curve(items, popularity) for items in target.per_user]
    return {
        "auc": area_under_curve(target.real, scores),
        f"precision@{TOP}": float(target.real[top].mean()),
        "chance": float(target.real.mean()),
        "user_auc": _mean(per_user),
        "popularity_auc": _mean(popular),
        "view_auc": area_under_curve(target.synthetic, scores, among=target.synthetic | neither),
        "real_auc": area_under_curve(target.real, scores, among=target.real | target.synthetic),
    }


def audit(
    world: World,
    config: RunConfig,
    users: int,
    *,
    trials: int,
    shadows: int,
    seed: int,
    round: int = 1,
    masks: int = 0,
) -> Leakage:
    """Attack ``trials`` nodes of ``users`` users each. Returns means and standard deviations over
    nodes, and the largest AUC of a node.

    Args:
        config: the nodes' configuration, including defences.
        round: number of the round, which is part of the nodes' seeds.
        masks: 0, or the number of masks if replies are sent under secure aggregation: a node's
            numbers are means over them. A node has few items, so the score of a guess without any
            information varies from mask to mask; the mean over masks removes this variation, and
            what remains is what the reply reveals.
    """
    rng = np.random.default_rng([seed, users])
    order = rng.permutation(len(world.users))
    if users * (shadows + 1) > len(order):
        raise ValueError(f"{len(order)} users are too few for nodes of {users}")
    known, rest = order[: users * shadows], order[users * shadows :]
    observed = [
        observe(world, world.node(f"shadow-{n}", part, config), round, min(masks, 1))[0]
        for n, part in enumerate(np.split(known, shadows))
    ]
    attack = InferenceAttack(world, observed)
    popularity = sum((s.per_user.sum(axis=0) for s in observed), np.zeros(len(world.catalog)))
    rows = []
    for trial in range(trials):
        chosen = rng.choice(rest, size=users, replace=False)
        seen = observe(world, world.node(f"target-{trial}", chosen, config), round, masks)
        rows.append(_means([measure_leakage(attack.scores(o), o, popularity) for o in seen]))
    return _summary(rows)


def _means(rows: Sequence[Leakage]) -> Leakage:
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _summary(rows: Sequence[Leakage]) -> Leakage:
    aucs = [row["auc"] for row in rows if row["auc"] is not None]
    out: Leakage = {"trials": len(rows), "auc_max": max(aucs, default=None)}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        out[name] = float(np.mean(values)) if values else None
        out[f"{name}_stdev"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return out


def area_under_curve(
    positive: NDArray[np.bool_], scores: Floats, among: NDArray[np.bool_] | None = None
) -> float | None:
    """Area under the ROC curve, from the rank sum. scikit-learn's function takes ten times as long,
    and every user of every node needs one under every mask."""
    from scipy.stats import rankdata

    if among is not None:
        positive, scores = positive[among], scores[among]
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return None
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - hits * (hits + 1) / 2) / (hits * misses)


def _mean(values: Sequence[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return float(np.mean(found)) if found else None


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64) / (len(values) + 1)


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
