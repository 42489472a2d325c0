"""The checks and arithmetic of one round: from the train replies of the nodes to one delta."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.federation import aggregation
from lumos_core.federation.best_round import capped
from lumos_core.learning.parameters import (
    ITEM_TABLE,
    Params,
    of_first_items,
    with_later_items,
)
from lumos_core.privacy import mechanisms
from lumos_core.runs.history import Event
from lumos_core.wire import reply_checks
from lumos_core.wire.messages import Metrics, Reply, Rows

log = logging.getLogger(__name__)


@dataclass
class Aggregator:
    """The train replies of a round.

    Attributes:
        params: the global model that nodes were asked to train.
        round: number of the round.
        accepted: delta and metrics of every accepted reply, by node.
        rows: by node, the rows of the item table that its accepted delta has, where a transport
            leaves out those that did not move.
        failed: by node, why there is no accepted reply.
        asked: the nodes that were asked to train in this round.
        late: those of them that had not answered when it closed.
        staleness: by node, how many rounds older the model is that it trained, if it is older.
        items: by node whose catalog is an earlier version, how many items it knows.
    """

    config: RunConfig
    params: Params
    round: int
    accepted: dict[str, tuple[Params, Metrics]] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    staleness: dict[str, int] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set, repr=False)

    @property
    def names(self) -> list[str]:
        """Names of the nodes whose training is part of the accepted replies, sorted; with secure
        aggregation one reply is the sum over several nodes."""
        return sorted(self._names)

    @property
    def count(self) -> int:
        """How many names these are."""
        return len(self._names)

    def offer(self, reply: Reply, evaluated: bool, staleness: int = 0) -> None:
        """Accept a train reply if it is what was asked for; otherwise remember why not.

        Args:
            reply: the reply.
            evaluated: whether the node was asked to evaluate, too.
            staleness: how many rounds older the model is that the node was given.
        """
        try:
            if reply.error is not None:
                raise ReplyError(f"error {reply.error[:80]!r}")
            if staleness > self.config.max_staleness:
                raise ReplyError(
                    f"it trained a model that is {staleness} rounds old, "
                    f"max-staleness = {self.config.max_staleness}"
                )
            known = self.items.get(reply.node)
            like = self.params if known is None else of_first_items(self.params, known)
            delta = reply_checks.check_train(
                reply.arrays or {}, reply.metrics, like, self.config, evaluated,
                max(len(reply.sum_of), 1), reply.rows,
            )  # fmt: skip
            if known is not None:
                delta = with_later_items(delta, self.params)
        except ReplyError as error:
            self.failed |= dict.fromkeys(reply.sum_of or (reply.node,), str(error))
            log.warning("node %s: train reply rejected: %s", reply.node, error)
            return
        self.accepted[reply.node] = (delta, reply.metrics)
        if staleness:
            self.staleness[reply.node] = staleness
        self._names.update(reply.sum_of or (reply.node,))
        if reply.rows is not None:
            self.rows[reply.node] = reply.rows

    def delta(self) -> Params:
        """Aggregate the accepted deltas, in order of node names."""
        names = sorted(self.accepted)
        weights = np.array([self._weight(self.accepted[n][1]) for n in names], dtype=np.float64)
        weights = np.maximum(weights, 1.0)  # weighted by examples, a node may have 0
        weights = capped(weights, self.config.max_weight_ratio)
        deltas = [faded(self.accepted[n][0], self.staleness.get(n, 0)) for n in names]
        if self.config.dp == "central" and self.config.secure_aggregation:
            found = mechanisms.noisy_mean(deltas[0], len(self.names), self.config, self.round)
        elif self.config.dp == "central":
            found = mechanisms.central_mean(deltas, self.config, self.round)
        elif self.rows:
            found = aggregation.aggregate_rows(
                deltas, [self.rows[n] for n in names], weights / weights.sum(), self.config,
                len(self.params[ITEM_TABLE]),
            )  # fmt: skip
        else:
            found = aggregation.aggregate(deltas, weights / weights.sum(), self.config)
        # Training never changes the padding row. Noise and dishonest nodes could change it, and no
        # later training would undo that.
        found[ITEM_TABLE][0] = 0.0
        return found

    def users(self) -> dict[str, int]:
        """How many users each node has trained on; empty with secure aggregation, which shows only
        the sum over nodes."""
        return {
            name: int(metrics["users"])
            for name, (_, metrics) in self.accepted.items()
            if not self.config.secure_aggregation
        }

    def facts(self) -> Event:
        """Facts about the training from the accepted replies, for the history."""

        def total(metric: str) -> float:
            return float(sum(self.accepted[n][1][metric] for n in sorted(self.accepted)))

        examples, contrasted = total("examples"), total("contrastive-users")
        return {
            "users": int(total("users")),
            **self._lacking(int(total("views-complete"))),
            "examples": int(examples),
            "loss": total("loss") / examples if examples else None,
            "contrastive": total("contrastive") / contrasted if contrasted else None,
            "train_seconds": round(total("seconds"), 3),
        }

    def _lacking(self, complete: int) -> Event:
        """Which nodes trained without all views: how many, and their names. With secure aggregation
        replies are summed, so that the names are not known."""
        if not self.config.has_views or complete == len(self.names):
            return {}
        named = [
            name
            for name, (_, metrics) in sorted(self.accepted.items())
            if not self.config.secure_aggregation and not metrics["views-complete"]
        ]
        return {"views_lacking": len(self.names) - complete, "views_lacking_nodes": named}

    def _weight(self, metrics: Metrics) -> float:
        return 1.0 if self.config.weighting == "uniform" else float(metrics[self.config.weighting])


def faded(delta: Params, staleness: int) -> Params:
    """What counts of a delta: the longer ago its node got the model, the less (Nguyen et al.,
    AISTATS 2022). It only becomes smaller, so every bound on its size still holds.

    Args:
        delta: of a node.
        staleness: rounds since the model that it trained was current.
    """
    if not staleness:
        return delta
    share = np.float32(1 / math.sqrt(1 + staleness))
    return {name: array * share for name, array in delta.items()}
