"""Moves of an active server: each finds what it is meant to find, and protections stop what they
say."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from lumos_core.config import RunConfig, Scalar
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference.active_audit import draw_target
from lumos_core.experiments.inference.active_settings import PLAN, PROTECTIONS
from lumos_core.experiments.inference.crafted_models import (
    check_encoder,
    crafted_config,
    flat_model,
    marked_model,
)
from lumos_core.experiments.inference.leakage import World, area_under_curve
from lumos_core.experiments.inference.server_moves import (
    COHORT,
    MOVES,
    SHADOWS,
    Target,
    config_of,
    delta_of,
    mean_of,
    measure,
    sum_of,
)
from lumos_core.learning.model import build_model, set_params
from lumos_core.learning.parameters import ITEM_TABLE
from lumos_core.learning.title_start import initial_params

Tiny = Callable[..., RunConfig]
ITEMS = 120
USERS = 4


@pytest.fixture
def world(tiny: Tiny) -> World:
    names = tuple(f"i{n}" for n in range(ITEMS))
    catalog = Catalog(names, names)
    rng = np.random.default_rng(0)
    histories = [
        rng.choice(ITEMS, size=rng.integers(7, 12), replace=False) + 1
        for _ in range(USERS * COHORT * (SHADOWS + 1))
    ]
    users = Sequences.from_lists([h.tolist() for h in histories])
    return World(catalog, users, initial_params(tiny(), catalog), {})


def _config(tiny: Tiny, move: str, changes: Mapping[str, Scalar]) -> RunConfig:
    config = RunConfig.from_flat({**tiny(local_epochs=3).to_flat(), **changes})
    return config_of(MOVES[move], config).replace(dp_noise_seed=7)


def _target(world: World, config: RunConfig, sums: bool = False, trial: int = 0) -> Target:
    return draw_target(world, config, USERS, sums, (0, trial))


def _after_mark(target: Target) -> set[int]:
    """The items that follow the mark in the target's history, which the marked model can find."""
    for history in target.nodes[0].split.train():
        found = set(history.tolist())
        if found - {target.mark} == set(np.flatnonzero(target.items) + 1):
            at = history.tolist().index(target.mark)
            return set(history[at + 1 :].tolist())
    raise AssertionError("the target is not on the first node")


def test_a_marked_model_is_silent_but_behind_the_mark(world: World, tiny: Tiny) -> None:
    import torch

    config = crafted_config(tiny())
    node = _target(world, config).nodes[0]
    model = build_model(node.shape)
    set_params(model, marked_model(world.received(node), node.shape, item=5))
    model.eval()
    with torch.inference_mode():
        hidden = model(torch.tensor([[3, 5, 9, 2], [3, 4, 9, 2]]))
    half = node.shape.dim // 2
    assert hidden[1].abs().max() == 0
    assert hidden[0, 0].abs().max() == 0
    assert (hidden[0, 1:, half:] > 0.5).all()
    assert hidden[0, 1:, :half].abs().max() == 0


@pytest.mark.parametrize("sums", [False, True], ids=["single deltas", "sums of eight nodes"])
def test_the_marked_model_names_what_a_user_met_after_the_mark(
    world: World, tiny: Tiny, sums: bool
) -> None:
    changes = PROTECTIONS["secure aggregation"].changes if sums else {}
    for trial in range(3):
        target = _target(world, _config(tiny, "marked", changes), sums, trial)
        after = _after_mark(target)
        scores = MOVES["marked"].scores(target)
        assert set(np.flatnonzero(scores > 0) + 1) >= after
        met = np.isin(np.arange(1, ITEMS + 1), sorted(after))
        auc = area_under_curve(met, scores)
        assert auc is not None
        assert auc > 0.95
        share = len(after) / target.items.sum()
        found = measure(scores, target)["recovered"]
        assert found is not None
        assert found > share - 0.2


def test_watching_a_sum_tells_little_of_one_user(world: World, tiny: Tiny) -> None:
    """What the marked model adds: the same sums of an honest model hide the user."""
    changes = PROTECTIONS["secure aggregation"].changes
    honest, crafted = [], []
    for trial in range(3):
        target = _target(world, _config(tiny, "watch", changes), True, trial)
        honest.append(measure(MOVES["watch"].scores(target), target)["recovered"])
        target = _target(world, _config(tiny, "marked", changes), True, trial)
        crafted.append(measure(MOVES["marked"].scores(target), target)["recovered"])
    assert np.mean(np.array(crafted, float)) > np.mean(np.array(honest, float)) + 0.2


def test_the_flat_model_names_the_items_of_a_node(world: World, tiny: Tiny) -> None:
    target = _target(world, _config(tiny, "flat", {}))
    found = measure(MOVES["flat"].scores(target), target)
    assert found["node_auc"] is not None
    assert found["node_auc"] > 0.85
    params = flat_model(world.received(target.nodes[0]))
    assert not params[ITEM_TABLE].any()


@pytest.mark.parametrize("move", ["sybils", "difference"])
def test_a_sum_of_one_is_the_nodes_delta(world: World, tiny: Tiny, move: str) -> None:
    """Both ways end with the vector of the target's node: the delta but for rounding."""
    config = _config(tiny, move, PROTECTIONS["secure aggregation"].changes)
    target = _target(world, config, True)
    params = world.received(target.nodes[0])
    trio = target.nodes[:3] if move == "sybils" else target.nodes
    rest = sum_of(trio, params, 1) - sum_of(trio[1:], params, 1)
    found = mean_of(rest, params, config, 1)[ITEM_TABLE]
    own = delta_of(target.nodes[0], params, 1)[ITEM_TABLE]
    weight = config.secagg_max_weight / USERS
    step = config.secagg_clip / (2 ** (config.secagg_bits - 1) - 1) * weight
    assert np.abs(found - own).max() <= step * 1.01
    shown = measure(MOVES[move].scores(target), target)
    assert shown["node_auc"] is not None
    assert shown["node_auc"] > 0.85


def test_noise_hides_and_many_rounds_bring_back(world: World, tiny: Tiny) -> None:
    noise = {**PROTECTIONS["node-level noise 1"].changes, "dp-noise-multiplier": 0.3}

    def mean_auc(move: str, changes: Mapping[str, Scalar]) -> float:
        found = []
        for trial in range(4):
            target = _target(world, _config(tiny, move, changes), trial=trial)
            found.append(measure(MOVES[move].scores(target), target)["user_auc"])
        return float(np.mean(np.array(found, float)))

    plain, once = mean_auc("marked", {}), mean_auc("marked", noise)
    often = mean_auc("again, 50 rounds", noise)
    assert once < plain
    assert often > once + 0.05
    strong = {**noise, "dp-noise-multiplier": 50.0}
    assert mean_auc("marked", strong) == pytest.approx(0.5, abs=0.15)


def test_the_plan_names_moves_and_protections_that_exist(tiny: Tiny) -> None:
    assert set(PLAN) == set(MOVES)
    for move, protections in PLAN.items():
        assert set(protections) <= set(PROTECTIONS)
        for protection in protections:
            _config(tiny, move, PROTECTIONS[protection].changes)


def test_there_are_crafted_models_for_one_encoder(tiny: Tiny) -> None:
    check_encoder(tiny())
    with pytest.raises(ConfigError, match="encoder = bag: crafted models exist for sasrec only"):
        check_encoder(tiny(encoder="bag"))


def test_the_mark_is_the_rarest_item_of_the_target(world: World, tiny: Tiny) -> None:
    target = _target(world, tiny())
    assert not target.items[target.mark - 1]
    assert target.on_node[target.mark - 1]
    owners = [
        sum(item in h for node in target.nodes for h in node.split.train())
        for item in [target.mark, *(np.flatnonzero(target.items) + 1)]
    ]
    assert owners[0] <= min(owners[1:-1], default=owners[0]) or owners[0] == min(owners)
