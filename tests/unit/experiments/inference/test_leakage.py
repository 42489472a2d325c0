"""The attack of a curious server: it finds what is there, and nothing where there is nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference import leakage
from lumos_core.experiments.inference.audit import audits, leakage_table
from lumos_core.experiments.inference.leakage import (
    FEATURES,
    InferenceAttack,
    Observation,
    World,
    audit,
    measure_leakage,
    observe,
    under_mask,
)
from lumos_core.experiments.inference.settings import SETTINGS
from lumos_core.learning.title_start import initial_params
from lumos_core.views.view import UserViews

Tiny = Callable[..., RunConfig]
ITEMS = 200


@pytest.fixture
def world(tiny: Tiny) -> World:
    names = tuple(f"i{n}" for n in range(ITEMS))
    catalog = Catalog(names, names)
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, ITEMS + 1, size=rng.integers(5, 12)).tolist() for _ in range(40)]
    users = Sequences.from_lists(histories)
    views = {u: UserViews((1, 2, 3), (4, 5, 6), (7, 8, 9)) for u in users.user_ids[:20]}
    return World(catalog, users, initial_params(tiny(), catalog), views)


def _audit(world: World, config: RunConfig, users: int = 3, **options: Any) -> dict[str, Any]:
    return audit(world, config, users, **{"trials": 3, "shadows": 2, "seed": 0, **options})


def test_an_observation_knows_the_truth(world: World, tiny: Tiny) -> None:
    node = world.node("n", np.array([0, 1]), tiny(method="lumos"))
    (seen,) = observe(world, node, 1)
    assert seen.table.shape == (ITEMS, 8)
    real = {i for u in (0, 1) for i in world.users[u][:-2].tolist()}
    assert set(np.flatnonzero(seen.real) + 1) == real, "held-out items are not trained on"
    assert set(np.flatnonzero(seen.synthetic) + 1) == set(range(1, 10)) - real
    assert set(np.flatnonzero(seen.per_user[1]) + 1) == set(world.users[1][:-2].tolist())


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_a_plain_delta_gives_its_users_away(world: World, tiny: Tiny, loss: str) -> None:
    row = _audit(world, tiny(local_epochs=3, loss=loss))
    assert row["auc"] > 0.9
    assert row["precision@20"] > 3 * row["chance"]
    assert row["view_auc"] is None


def test_a_bias_gives_its_users_away_too(world: World, tiny: Tiny) -> None:
    config = tiny(local_epochs=3, item_bias="learned")
    shadows = [
        observe(world, world.node(f"s{i}", np.arange(6) + 6 * i, config), 1)[0] for i in range(2)
    ]
    (target,) = observe(world, world.node("t", np.arange(20, 26), config), 1)
    assert target.bias[target.real].mean() > target.bias[~target.real].mean()

    def only_bias(seen: Observation) -> Observation:
        return replace(seen, table=np.zeros_like(seen.table))

    attack = InferenceAttack(world, [only_bias(s) for s in shadows])
    numbers = measure_leakage(attack.scores(only_bias(target)), target, np.zeros(ITEMS))
    assert numbers["auc"] > 0.8


def test_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        positive = rng.random(50) < 0.3
        scores = rng.integers(0, 12, 50).astype(np.float64)  # with ties
        assert leakage.area_under_curve(positive, scores) == pytest.approx(
            roc_auc_score(positive, scores)
        )


def test_one_users_items_hide_behind_other_users(world: World, tiny: Tiny) -> None:
    config = tiny(local_epochs=3)
    alone, many = _audit(world, config, 1), _audit(world, config, 12)
    assert alone["user_auc"] > 0.9
    assert many["user_auc"] < alone["user_auc"] - 0.1


def test_noise_leaves_a_coins_toss(world: World, tiny: Tiny) -> None:
    """Mean over many nodes: one alone, of a few dozen items, scatters by some .05."""
    config = tiny(dp="distributed", weighting="uniform", dp_noise_multiplier=5.0)
    row = _audit(world, config, 10, trials=6)
    spread = row["auc_stdev"] / np.sqrt(row["trials"])
    assert row["auc"] == pytest.approx(0.5, abs=max(4 * spread, 0.05))


def test_masks_leave_no_node_more_than_a_coins_toss(world: World, tiny: Tiny) -> None:
    row = _audit(world, tiny(), 10, trials=3, masks=400)
    assert row["auc"] == pytest.approx(0.5, abs=0.01)
    assert row["auc"] <= row["auc_max"] < 0.52


def test_masked_deltas_are_uniform(world: World, tiny: Tiny) -> None:
    from scipy.stats import kstest

    config = tiny()
    arrays, metrics = world.node("n", np.arange(3), config).train(world.params, 1)
    values = under_mask(arrays, metrics, config)["items.weight"].ravel().astype(np.float64)
    low, high = values.min(), values.max()
    assert kstest((values - low) / (high - low), "uniform").pvalue > 1e-4
    again = under_mask(arrays, metrics, config)["items.weight"].ravel()
    assert abs(np.corrcoef(values, again)[0, 1]) < 0.15


def test_the_attack_learns_from_shadows_only(world: World, tiny: Tiny) -> None:
    config = tiny(local_epochs=2)
    shadows = [observe(world, world.node(f"s{i}", np.arange(6) + 6 * i, config), 1)[0]
               for i in range(2)]  # fmt: skip
    attack = InferenceAttack(world, shadows)
    assert attack.features(shadows[0]).shape == (ITEMS, len(FEATURES))
    (target,) = observe(world, world.node("t", np.arange(20, 26), config), 1)
    numbers = measure_leakage(attack.scores(target), target, np.zeros(ITEMS))
    assert numbers["popularity_auc"] == 0.5
    none = np.zeros(ITEMS, dtype=bool)
    empty = Observation(np.zeros((ITEMS, 8)), np.zeros(ITEMS), none, none, none[None])
    with pytest.raises(ValueError, match="some"):
        InferenceAttack(world, [empty])


def test_every_setting_is_a_configuration_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    for setting in SETTINGS.values():
        RunConfig.from_flat({**RunConfig().to_flat(), **setting.changes})
    with pytest.raises(ConfigError, match="unknown setting 'nonsense'; known are: fedavg;"):
        audits(tmp_path, RunConfig(), ["nonsense"], [1], trials=1, shadows=1, seed=0)


def test_the_command_writes_numbers_and_a_table(tmp_path: Path) -> None:
    import json

    from lumos_core.cli.audit import audit_command
    from lumos_core.data.prepare import prepare
    from lumos_core.data.sample import bundled_sample

    prepare(bundled_sample(), tmp_path / "data", nodes=2, seed=0)
    audit_command(
        tmp_path / "data", tmp_path / "out", settings="fedavg; fedavg, sampled softmax",
        users="2", trials=1, shadows=1, after=0, seed=0,
        config=["semantic-start=none", "dim=16", "local-epochs=1", "max-len=10"],
    )  # fmt: skip
    written = json.loads((tmp_path / "out" / "leakage.json").read_text())
    rows = written["rows"]
    assert (written["config"]["dim"], written["trials"]) == (16, 1)
    assert {"torch", "numpy"} < set(written["versions"])
    assert [r["setting"] for r in rows] == ["fedavg", "fedavg, sampled softmax"]
    assert rows[0]["auc"] > 0.6
    assert (tmp_path / "out" / "leakage.md").read_text() == leakage_table(rows)
    assert "The server guesses best" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(ConfigError, match="too few"):
        audits(tmp_path / "data", RunConfig().replace(semantic_start="none"), ["fedavg"], [400],
               trials=1, shadows=1, seed=0)  # fmt: skip
