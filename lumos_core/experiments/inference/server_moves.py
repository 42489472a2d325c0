"""What an active server does to one target user, and what it learns by it.

The target is one user of one node, in a cohort of :data:`COHORT` nodes. The server knows one item
of this user, the *mark*. A move is what it does in a round or several; what it sees of the replies
depends on the protection. :data:`MOVES` lists the moves:

========== =====================================================================================
watch      the honest model; the attack of :mod:`.leakage`, which learns on users whom the server
           knows. The passive audit, for comparison
flat       a model whose output does not depend on the history (:mod:`.crafted_models`)
marked     a model that is silent but for users with the mark (:mod:`.crafted_models`)
sybils     the honest model; of the three nodes in a sum two are the server's, and it subtracts them
difference the honest model; a second attempt at the round without the target's node, on the same
           model: the sums differ by this node's delta
again      the marked model, round after round; the server averages the deltas
========== =====================================================================================

Moves that look for a cohort of one node, and are refused, are in :func:`refusals`.

The measures, for the target's items other than the mark, among all items but the mark:

- ``user_auc``: are they ranked above all other items?
- ``recovered``: as many items as the user has are guessed, the first of the ranking; the share of
  the user's items among them (the random guess has ``chance``);
- ``node_auc``: the same ranking against the items of all users of the target's node.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumos_core.config import RunConfig
from lumos_core.experiments.inference.crafted_models import (
    crafted_config,
    flat_model,
    flat_scores,
    marked_model,
    marked_scores,
)
from lumos_core.experiments.inference.leakage import (
    InferenceAttack,
    Observation,
    World,
    area_under_curve,
)
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, Params
from lumos_core.privacy.secure_aggregation.encoding import Encoding
from lumos_core.wire.codecs import codec

Floats = NDArray[np.float64]
COHORT = 8
SYBILS = 2
SHADOWS = 2


@dataclass(frozen=True)
class Target:
    """A user in a cohort, and the users that the server knows.

    Attributes:
        world: catalog, users, and the honest model.
        config: the run's.
        nodes: the cohort; the target is on the first node.
        shadows: cohorts of users that the server knows; their nodes are in the same order.
        mark: the item of the target that the server knows.
        items: bool [N], the target's items in training, without the mark.
        on_node: bool [N], the items in training of all users of the target's node.
        sums: whether the server sees only sums over nodes.
    """

    world: World
    config: RunConfig
    nodes: Sequence[Node]
    shadows: Sequence[Sequence[Node]]
    mark: int
    items: NDArray[np.bool_]
    on_node: NDArray[np.bool_]
    sums: bool


class Move(NamedTuple):
    """A move of the server.

    Attributes:
        scores: the target → float64 [N], the higher the likelier an item is the user's.
        rounds: in which the target's node trains.
        crafted: whether the model is made up, and the configuration with it.
    """

    scores: Callable[[Target], Floats]
    rounds: int = 1
    crafted: bool = False


# ---------------------------------------------------------------- what the server sees
def delta_of(node: Node, params: Params, round: int) -> Params:
    """A node's reply in a run without secure aggregation."""
    arrays, _ = node.train(params, round)
    agreed = codec(node.config.delta_codec)
    return agreed.decode(arrays, params, node.config.top_rows_share)


def upload(node: Node, params: Params, round: int) -> NDArray[np.uint32]:
    """A node's vector in a secure round, without the masks, which cancel in the sum."""
    encoding = Encoding.of(node.config, params, evaluated=False)
    delta, metrics = node.train(params, round)
    seed = (node.config.seed, round, zlib.crc32(node.name.encode()), 2)  # as a participant
    return encoding.encode(delta, metrics, np.random.default_rng(seed))


def sum_of(nodes: Sequence[Node], params: Params, round: int) -> NDArray[np.uint32]:
    """What a secure round reveals: the sum of the nodes' vectors modulo 2^32."""
    total = np.zeros(Encoding.of(nodes[0].config, params, evaluated=False).size, dtype=np.uint32)
    for node in nodes:
        total += upload(node, params, round)
    return total


def mean_of(total: NDArray[np.uint32], like: Params, config: RunConfig, nodes: int) -> Params:
    """The mean delta of so many nodes, decoded from their sum."""
    return Encoding.of(config, like, evaluated=False).decode(total, nodes)[0]


def seen(target: Target, nodes: Sequence[Node], params: Params, round: int = 1) -> Params:
    """What the server sees of a cohort: the first node's delta, or the mean of all."""
    if not target.sums:
        return delta_of(nodes[0], params, round)
    return mean_of(sum_of(nodes, params, round), params, target.config, len(nodes))


# ---------------------------------------------------------------- the moves
def watch(target: Target) -> Floats:
    """The honest model, and the attack of the passive audit."""
    params = target.world.received(target.nodes[0])
    return _passive(target, seen(target, target.nodes, params), alone=not target.sums)


def sybils(target: Target) -> Floats:
    """Two of three nodes are the server's: it knows their vectors, and subtracts them."""
    params = target.world.received(target.nodes[0])
    trio = target.nodes[: SYBILS + 1]
    rest = sum_of(trio, params, 1) - sum_of(trio[1:], params, 1)
    return _passive(target, mean_of(rest, params, target.config, 1), alone=True)


def difference(target: Target) -> Floats:
    """Two attempts at a round on the same model, with the target's node and without it."""
    params = target.world.received(target.nodes[0])
    rest = sum_of(target.nodes, params, 1) - sum_of(target.nodes[1:], params, 1)
    return _passive(target, mean_of(rest, params, target.config, 1), alone=True)


def flat(target: Target) -> Floats:
    """The flat model."""
    params = flat_model(target.world.received(target.nodes[0]))
    return flat_scores(seen(target, target.nodes, params))


def marked(target: Target) -> Floats:
    """The marked model."""
    return again(target, 1)


def again(target: Target, rounds: int) -> Floats:
    """The marked model in several rounds; the scores are added up."""
    shape = target.nodes[0].shape
    params = marked_model(target.world.received(target.nodes[0]), shape, target.mark)
    total = np.zeros(len(target.world.catalog))
    for round in range(1, rounds + 1):
        total += marked_scores(seen(target, target.nodes, params, round), shape)
    return total


MOVES: dict[str, Move] = {
    "watch": Move(watch),
    "flat": Move(flat, crafted=True),
    "marked": Move(marked, crafted=True),
    "again, 10 rounds": Move(lambda target: again(target, 10), rounds=10, crafted=True),
    "again, 50 rounds": Move(lambda target: again(target, 50), rounds=50, crafted=True),
    "sybils": Move(sybils),
    "difference": Move(difference),
}


def config_of(move: Move, config: RunConfig) -> RunConfig:
    """The run's configuration as the server sets it for a move."""
    return crafted_config(config) if move.crafted else config


def _passive(target: Target, delta: Params, alone: bool) -> Floats:
    """The attack of the passive audit, learned on shadows that are seen as the target is.

    Args:
        alone: whether the delta is that of a single node; otherwise it is a mean of a cohort.
    """
    known = []
    for cohort in target.shadows:
        nodes = cohort[:1] if alone else cohort
        params = target.world.received(nodes[0])
        if target.sums:
            mean = mean_of(sum_of(nodes, params, 1), params, target.config, len(nodes))
        else:
            mean = delta_of(nodes[0], params, 1)
        known.append(_observation(mean, trained_items(nodes, len(target.world.catalog))))
    unknown = np.zeros(len(target.world.catalog), dtype=bool)
    return InferenceAttack(target.world, known).scores(_observation(delta, unknown))


def _observation(delta: Params, real: NDArray[np.bool_]) -> Observation:
    none = np.zeros(len(real) + 1)
    return Observation(
        delta[ITEM_TABLE][1:].astype(np.float64),
        delta.get(ITEM_BIAS, none).reshape(-1)[1:].astype(np.float64),
        real,
        np.zeros_like(real),
        real[None],
    )


def trained_items(nodes: Sequence[Node], items: int) -> NDArray[np.bool_]:
    """Items in the training histories of the nodes' users: bool [N]."""
    met = np.zeros(items + 1, dtype=bool)
    for node in nodes:
        met[node.split.train().items] = True
    return met[1:]


# ---------------------------------------------------------------- measures
def measure(scores: Floats, target: Target) -> dict[str, float | None]:
    """How much of the target the scores give away."""
    among = np.ones(len(scores), dtype=bool)
    among[target.mark - 1] = False
    wanted, ranked = target.items[among], scores[among]
    number = int(wanted.sum())
    order = np.argsort(-ranked, kind="stable")[:number]
    return {
        "user_auc": area_under_curve(wanted, ranked),
        "recovered": float(wanted[order].mean()),
        "chance": number / len(ranked),
        "node_auc": area_under_curve(target.on_node[among], ranked),
    }
