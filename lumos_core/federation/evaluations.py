"""What the replies of nodes say about a model: checked, added up, and bounded where they decide
which round is best.

Pure functions: the round loop asks, writes the event down and keeps the model.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.federation import best_round
from lumos_core.learning.metrics import SELECTION_METRIC, means
from lumos_core.runs.history import Event, utc_now
from lumos_core.runs.node_metrics import by_node
from lumos_core.wire import reply_checks
from lumos_core.wire.messages import Reply, Split

log = logging.getLogger(__name__)

MOST_NAMED = 1_000
"""Of how many nodes a sum may be, for the history to name them in every evaluation."""


class Evaluated(NamedTuple):
    """A valid evaluation: the nodes that it is about, and their sums by weight of the titles'
    nearness."""

    names: tuple[str, ...]
    sums: Mapping[float, Mapping[str, float]]


def checked(
    answered: Sequence[Reply], weights: Sequence[float]
) -> tuple[list[Evaluated], list[Event]]:
    """The valid evaluations among these replies; and the others, each with its reason.

    Args:
        answered: replies to evaluate, or train replies that evaluated as well and were accepted.
        weights: weights of the titles' nearness for which there have to be sums.
    """
    valid: list[Evaluated] = []
    failed: list[Event] = []
    for reply in answered:
        try:
            if reply.error is not None:
                raise ReplyError(f"error {reply.error[:80]!r}")
            if reply.kind == "evaluate":
                reply_checks.check_evaluation(reply.metrics, weights)
        except ReplyError as error:
            failed.append({"node": reply.node, "reason": str(error)})
            log.warning("node %s: evaluation rejected: %s", reply.node, error)
            continue
        found = reply_checks.rankings_of(reply.metrics, weights)
        valid.append(Evaluated(reply.sum_of or (reply.node,), found))
    return valid, failed


def evaluation_event(
    config: RunConfig,
    of_round: int,
    split: Split,
    valid: Sequence[Evaluated],
    weights: Sequence[float],
) -> Event | None:
    """The history's event: means over all users at the best of the weights; with the validation
    targets also the value that decides which round is best, with the test targets those by node.

    Returns:
        None if nobody has users to evaluate with.
    """
    selections = {weight: _selection(config, valid, weight) for weight in weights}
    weight = max(weights, key=lambda weight: selections[weight].value)
    sums = {name: sum(e.sums[weight][name] for e in valid) for name in reply_checks.RANKING}
    metrics = means(sums)
    if not metrics:
        return None
    event: Event = {
        "event": "evaluation", "round": of_round, "split": split, "time": utc_now(),
        **_who(valid), "users": int(sums["users"]),
        **metrics, **({"title_weight": weight} if any(config.title_weights) else {}),
    }  # fmt: skip
    if split == "validation":
        return event | _worth(valid, selections[weight])
    return event | by_node((e.names, e.sums[weight]) for e in valid)


def _selection(
    config: RunConfig, valid: Sequence[Evaluated], weight: float
) -> best_round.Selection:
    """How good the model is with a weight of the titles' nearness, by the replies of nodes that
    have users."""
    having = [e.sums[weight] for e in valid if e.sums[weight]["users"]]
    if not having:
        return best_round.Selection(0.0, np.zeros(0, dtype=bool))
    return best_round.bounded_mean(
        [sums["users"] for sums in having],
        [sums[SELECTION_METRIC] for sums in having],
        config.max_weight_ratio,
    )


def _worth(valid: Sequence[Evaluated], chosen: best_round.Selection) -> Event:
    """The value that decides which round is best, and nodes whose means are out of bounds."""
    having = [e.names for e in valid if any(s["users"] for s in e.sums.values())]
    doubted = [
        name for names, doubt in zip(having, chosen.doubted, strict=True) if doubt
        for name in names
    ]  # fmt: skip
    for name in doubted:
        log.warning("node %s: its evaluation is out of line and counts within bounds", name)
    return {"selection": chosen.value, **({"doubted": doubted} if doubted else {})}


def _who(valid: Sequence[Evaluated]) -> Event:
    """The nodes that an evaluation is about: their names and, of a population of clients that is
    evaluated at once, only their number."""
    unnamed = sum(len(e.names) for e in valid if len(e.names) > MOST_NAMED)
    names = [name for e in valid if len(e.names) <= MOST_NAMED for name in e.names]
    return {"nodes": names, **({"nodes_unnamed": unnamed} if unnamed else {})}
