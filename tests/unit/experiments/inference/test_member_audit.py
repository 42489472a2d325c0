"""Membership: the attack finds members of an overfitted model, and nobody where nobody trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.experiments.inference.leakage import area_under_curve
from lumos_core.experiments.inference.member_audit import (
    NODES,
    attack_models,
    audit_membership,
    true_positives,
    user_losses,
)
from lumos_core.learning.title_start import initial_params

Tiny = Callable[..., RunConfig]
ITEMS = 60


@pytest.fixture
def users() -> Sequences:
    """Histories without any structure: a model can only learn them by heart."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, ITEMS + 1, size=8).tolist() for _ in range(72)]
    return Sequences.from_lists(histories)


@pytest.fixture
def catalog() -> Catalog:
    names = tuple(f"i{n}" for n in range(ITEMS))
    return Catalog(names, names)


def _config(tiny: Tiny, **changes: object) -> RunConfig:
    return tiny(min_nodes=NODES, min_replies=NODES, dim=16, **changes)


def test_members_of_an_overfitted_model_are_found(
    users: Sequences, catalog: Catalog, tiny: Tiny
) -> None:
    config = _config(tiny, rounds=6, local_epochs=6, dropout=0.0)
    found = attack_models(catalog, users, config)
    assert set(found) == {(m, a) for m in ("final", "latest") for a in ("loss", "ratio")}
    assert found["latest", "loss"][0] > 0.8
    assert found["latest", "ratio"][0] > 0.8
    assert found["latest", "ratio"][2] is None


def test_noise_of_dp_hides_members_and_costs_epsilon(
    users: Sequences, catalog: Catalog, tiny: Tiny
) -> None:
    config = _config(tiny, rounds=1, dp="user", dp_noise_multiplier=20.0, dp_noise_seed=1)
    found = attack_models(catalog, users, config)
    auc, _, epsilon = found["latest", "ratio"]
    assert auc == pytest.approx(0.5, abs=0.2)
    assert epsilon is not None
    assert epsilon > 0


def test_an_untrained_model_tells_nothing(users: Sequences, catalog: Catalog, tiny: Tiny) -> None:
    config = _config(tiny)
    train = LeaveOneOut(users).train()
    losses = user_losses(initial_params(config, catalog), config, train, ITEMS)
    assert losses == pytest.approx(np.log(ITEMS), abs=0.2)
    truth = np.arange(len(losses)) % 2 == 0
    assert area_under_curve(truth, -losses) == pytest.approx(0.5, abs=0.15)


def test_true_positives_are_counted_above_the_false_ones() -> None:
    truth = np.array([True] * 10 + [False] * 100)
    scores = np.concatenate([np.linspace(0.90, 0.99, 10), np.linspace(0.0, 1.0, 100)])
    assert true_positives(truth, scores) == pytest.approx(0.4)
    assert true_positives(truth, -scores) == 0.0


def test_every_setting_and_length_is_a_row_of_all_seeds(tmp_path: Path, tiny: Tiny) -> None:
    from lumos_core.data.prepare import prepare
    from lumos_core.data.sample import bundled_sample

    prepare(bundled_sample(), tmp_path, nodes=2, seed=0)
    config = tiny(max_len=6, local_epochs=1, batch_size=64)
    rows = audit_membership(tmp_path, config, seeds=[0, 1], rounds=[1])
    assert len({(r["setting"], r["model"], r["attack"]) for r in rows}) == len(rows) == 12
    assert all(len(row["auc"]) == len(row["tpr"]) == 2 for row in rows)
