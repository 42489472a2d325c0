"""The runs of `lumos audit --active`: moves of a server against protections, and membership."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference.active_settings import FLOORS, PLAN, PROTECTIONS
from lumos_core.experiments.inference.audit import open_world
from lumos_core.experiments.inference.crafted_models import check_encoder
from lumos_core.experiments.inference.leakage import World
from lumos_core.experiments.inference.server_moves import (
    COHORT,
    MOVES,
    SHADOWS,
    Target,
    config_of,
    measure,
    trained_items,
)
from lumos_core.federation.node import Node
from lumos_core.federation.owner_floor import Asked, BelowFloorError, check
from lumos_core.privacy.budget import composed
from lumos_core.privacy.node_budget import Spent, Training

Row = dict[str, Any]
LEVEL = 0.95
_LEAST_ITEMS = 4
"""Fewest items in training of a user who is a target."""


def active_audits(
    data: Path,
    base: RunConfig,
    users: int,
    *,
    trials: int,
    seeds: Sequence[int],
    plan: Mapping[str, Sequence[str]] = PLAN,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Make every move of the plan against targets that are drawn anew for every seed.

    Args:
        data: folder made by `lumos prepare`; for ``lumos``, its nodes' stores must hold views.
        base: the configuration that protections and moves change.
        users: users per node.
        trials: targets of a seed.
        plan: move → the protections that it is made against.

    Returns:
        A row for each move and protection: means over all targets, with 95 % intervals.

    Raises:
        ConfigError: there are too few users, or no crafted models for the encoder.
        DataError: the views of ``lumos`` have not been built.
    """
    check_encoder(base)
    world = open_world(data, base, base.has_views, after=0)
    needed = users * COHORT * (SHADOWS + 1)
    if needed > len(world.users):
        raise ConfigError(
            f"--users {users}: {len(world.users)} users are too few for cohorts of {COHORT} nodes, "
            f"of which the server knows {SHADOWS}; choose {len(world.users) * users // needed} or "
            "fewer"
        )
    rows = []
    for name, protections in plan.items():
        for protection in protections:
            found = [
                _attack(world, base, users, name, protection, seed, trial)
                for seed in seeds
                for trial in range(trials)
            ]
            rows.append({"move": name, "protection": protection, **_summary(found)})
            rows[-1] |= _costs(base, users, name, protection)
            on_row(rows[-1])
    return rows


def protected_config(base: RunConfig, move: str, protection: str) -> RunConfig:
    """The run's configuration under a protection, as the server changes it for a move."""
    flat = {**base.to_flat(), **PROTECTIONS[protection].changes}
    return config_of(MOVES[move], RunConfig.from_flat(flat))


def _attack(
    world: World, base: RunConfig, users: int, move: str, protection: str, seed: int, trial: int
) -> dict[str, float | None]:
    """One move against one target."""
    config = protected_config(base, move, protection)
    # A public seed, so that the numbers can be reproduced; the attack does not use it.
    config = config.replace(seed=seed, dp_noise_seed=1000 * seed + trial)
    target = draw_target(world, config, users, PROTECTIONS[protection].sums, (seed, trial))
    return measure(MOVES[move].scores(target), target)


def draw_target(
    world: World, config: RunConfig, users: int, sums: bool, seed: tuple[int, int]
) -> Target:
    """A target in a cohort, with a mark; and cohorts of other users, whom the server knows.

    The mark is the item of the target that the fewest users of the cohort have; the server would
    choose it so. Of several, the earliest in the history. It is not the last one, which nothing
    follows.
    """
    rng = np.random.default_rng([*seed, users])
    order = rng.permutation(len(world.users))
    groups = order[: users * COHORT * (SHADOWS + 1)].reshape(SHADOWS + 1, COHORT, users)
    nodes, *shadows = [_cohort(world, config, group) for group in groups]
    train = nodes[0].split.train()
    able = [
        u for u in range(len(train)) if len(np.unique(train[u][-config.max_len :])) >= _LEAST_ITEMS
    ]
    history = train[int(rng.choice(able))][-config.max_len :]  # a node trains on no more
    counts = _owners([node.split.train() for node in nodes], len(world.catalog))
    mark = int(history[:-1][np.argmin(counts[history[:-1]])])
    items = np.zeros(len(world.catalog) + 1, dtype=bool)
    items[history] = True
    items[mark] = False
    on_node = trained_items(nodes[:1], len(world.catalog))
    return Target(world, config, nodes, shadows, mark, items[1:], on_node, sums)


def _cohort(world: World, config: RunConfig, group: np.ndarray) -> list[Node]:
    return [world.node(f"node-{n}", part, config) for n, part in enumerate(group)]


def _owners(parts: Iterable[Sequences], items: int) -> np.ndarray:
    """How many users have each item: int64 [N + 1]."""
    counts = np.zeros(items + 1, dtype=np.int64)
    for part in parts:
        for history in part:
            counts[np.unique(history)] += 1
    return counts


# ---------------------------------------------------------------- costs and refusals
def _costs(base: RunConfig, users: int, move: str, protection: str) -> Row:
    """The ε that a node counts for the move, and the floors that refuse it."""
    config = protected_config(base, move, protection)
    rounds = MOVES[move].rounds
    node = NodeConfig(data=".")
    training = Training.of(config, node, users)
    steps = {training.rate: training.steps * rounds}
    spent = composed(training.noise, steps, node.epsilon_delta)
    refusing = [name for name, floor in FLOORS.items() if _refused(config, floor, users, rounds)]
    return {
        "rounds": rounds,
        "epsilon": spent if math.isfinite(spent) else None,
        "refused_by": refusing,
    }


def _refused(config: RunConfig, floor: Mapping[str, Any], users: int, rounds: int) -> bool:
    """Whether a node with this floor refuses the last of so many trainings, or an earlier one."""
    node = NodeConfig.from_flat({"data": ".", **floor})
    asked = Asked("train", config, node, users, "run", _before_last(config, node, users, rounds))
    try:
        check(asked, counted=False)
        check(asked, counted=True)
    except BelowFloorError:
        return True
    return False


def _before_last(config: RunConfig, node: NodeConfig, users: int, rounds: int) -> Spent:
    training = Training.of(config, node, users)
    if rounds == 1 or not training.noise:
        return Spent()
    earlier = Training(training.noise, training.rate, training.steps * (rounds - 1))
    return Spent().after_training("run", earlier)


# ---------------------------------------------------------------- summaries
def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of shares, and the 95 % interval of the mean by Student's t, within 0 … 1; all three are
    equal for one value."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean, max(mean - reach, 0.0), min(mean + reach, 1.0)


def _summary(found: Sequence[Mapping[str, float | None]]) -> Row:
    """For each measure its mean and interval; and the values of all targets."""
    out: Row = {"targets": len(found)}
    for name in found[0]:
        values = [row[name] for row in found]
        known = [value for value in values if value is not None]
        out[name] = list(interval(known)) if known else None
        out[f"{name}_values"] = values
    return out
