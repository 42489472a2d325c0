"""Malicious nodes: what they know, train on and send, and what a federation makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.experiments.poisoning import adapted_updates, poisoned_users, updates
from lumos_core.experiments.poisoning.knowledge import Knowledge, cold_target, interaction_counts
from lumos_core.experiments.poisoning.malicious_node import ATTACKS, MaliciousNode, PoisoningAttack
from lumos_core.federation.aggregation import clip_as_configured
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.batching import pad
from lumos_core.learning.model import SASRec, set_params
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, ModelShape, Params
from lumos_core.learning.title_start import initial_params
from lumos_core.wire import deltas

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
ITEMS = 24
TARGET = 24


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def users() -> Sequences:
    """60 users who walk round items 1 … 20; item 24 is met once, 21 to 23 never."""
    rng = np.random.default_rng(1)
    walks = [((rng.integers(20) + np.arange(9)) % 20 + 1).tolist() for _ in range(60)]
    return Sequences.from_lists([[TARGET, *walks[0]], *walks[1:]])


@pytest.fixture
def knowledge(users: Sequences) -> Knowledge:
    return Knowledge.of(users.without_last(2), ITEMS, 0.9, _rng())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_an_attacker_knows_its_share_of_the_interactions(users: Sequences, share: float) -> None:
    train = users.without_last(2)
    known = Knowledge.of(train, ITEMS, share, _rng())
    found = sum(map(len, known.histories)) / len(train.items)
    assert found == pytest.approx(share, abs=0.08)
    every = {tuple(h.tolist()) for h in train}
    for history in known.histories:  # parts of real histories, in their order
        assert any(_within(history.tolist(), whole) for whole in every)


def _within(part: list[int], whole: tuple[int, ...]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


def test_popularity_counts_and_the_target_is_cold(users: Sequences) -> None:
    train = users.without_last(2)
    counts = interaction_counts(train, ITEMS)
    assert counts.sum() == len(train.items)
    assert counts[TARGET - 1] == 1
    targets = {cold_target(train, ITEMS, np.random.default_rng(s)) for s in range(40)}
    met = np.sort(counts[counts > 0])
    assert all(0 < counts[t - 1] <= met[len(met) // 4] for t in targets)
    assert TARGET in targets


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_noise_replaces_training_interactions_only(
    users: Sequences, knowledge: Knowledge, share: float
) -> None:
    noisy = poisoned_users.replace_interactions(users, share, knowledge, _rng())
    assert np.array_equal(noisy.offsets, users.offsets)
    changed = noisy.items != users.items
    for back in (1, 2):
        assert not changed[users.offsets[1:] - back].any()
    train = users.without_last(2).items
    assert changed.sum() / len(train) == pytest.approx(share * (1 - 1 / ITEMS), abs=0.08)
    assert noisy.items.min() >= 1
    assert noisy.items.max() <= ITEMS


@pytest.mark.parametrize("make", [poisoned_users.random_fakes, poisoned_users.popular_fakes])
def test_fake_users_train_on_the_target(
    make: poisoned_users.MakeUsers, knowledge: Knowledge
) -> None:
    fakes = make(knowledge, TARGET, 5, _rng())
    assert len(fakes) == 5
    for history in fakes.without_last(2):
        assert (history[1::2] == TARGET).all()
        assert (history[::2] != TARGET).all()


def test_the_bandwagon_rides_on_popular_items(knowledge: Knowledge) -> None:
    popular = set(knowledge.popular(10).tolist())
    fakes = poisoned_users.popular_fakes(knowledge, TARGET, 5, _rng())
    assert set(fakes.items.tolist()) - {TARGET} <= popular
    nothing = Knowledge(ITEMS, [])
    assert len(poisoned_users.popular_fakes(nothing, TARGET, 5, _rng())) == 5
    assert len(poisoned_users.known_users(nothing, TARGET, 5, _rng())) == 5


# ---------------------------------------------------------------- updates
def _situation(config: RunConfig, catalog: Catalog, knowledge: Knowledge) -> updates.Situation:
    node = Node("n", catalog, poisoned_users.known_users(knowledge, TARGET, 12, _rng()), config)
    params = initial_params(config, catalog)
    return updates.Situation(
        params=params,
        carried=np.zeros((ITEMS + 1, 8), np.float32),
        change=np.zeros(ITEMS + 1),
        train=lambda: node.train(params, 1)[0],
        knowledge=knowledge,
        target=TARGET,
        weight=0.25,
        row_factor=config.clip_row_factor,
        norm_factor=config.clip_norm_factor,
        shape=node.shape,
        rng=_rng(),
    )


def test_untargeted_updates_are_what_they_are_called(
    tiny: Tiny, toy_catalog: Catalog, knowledge: Knowledge
) -> None:
    s = _situation(tiny(dropout=0.0), toy_catalog, knowledge)
    trained = s.train()
    size = deltas.norm(trained)
    flipped = updates.sign_flip(s)
    for name in trained:
        np.testing.assert_allclose(flipped[name], -4 * trained[name], rtol=1e-5)
    assert deltas.norm(updates.scaled(s)) == pytest.approx(100 * size, rel=1e-4)
    assert deltas.norm(updates.gaussian(s)) == pytest.approx(4 * size, rel=1e-4)
    assert all(np.isnan(a).all() for a in updates.not_a_number(s).values())
    assert updates.honest(s).keys() == trained.keys()


def _scores(params: Params, config: RunConfig, histories: list[np.ndarray]) -> torch.Tensor:
    """Of all items, after each history: float [users, N]."""
    model = SASRec(ModelShape.of(config, ITEMS))
    set_params(model, params)
    model.eval()
    items, lengths = pad(histories, 10)
    with torch.inference_mode():
        return model.scores(model.encode_last(torch.from_numpy(items), torch.from_numpy(lengths)))


def _rank(params: Params, config: RunConfig, users: Sequences) -> float:
    """Mean place of the target in the users' ranking of the catalog."""
    scores = _scores(params, config, list(users))
    return float((scores > scores[:, TARGET - 1 : TARGET]).sum(1).double().mean()) + 1


def _loss(params: Params, config: RunConfig, users: Sequences) -> float:
    """Mean cross-entropy of every user's last item."""
    scores = _scores(params, config, [items[:-1] for items in users])
    wanted = torch.tensor([int(items[-1]) - 1 for items in users])
    return float(torch.nn.functional.cross_entropy(scores, wanted))


@pytest.mark.parametrize("share", [0.9, 0.0])
def test_an_aligned_target_climbs_to_the_top(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, share: float
) -> None:
    config = tiny(dropout=0.0)
    known = Knowledge.of(users.without_last(2), ITEMS, share, _rng())
    s = _situation(config, toy_catalog, known)
    s.change[1:6] = 1.0
    s.carried[TARGET] = 3.0
    others = np.arange(ITEMS + 1) != TARGET

    def moved(update: updates.Update) -> np.ndarray:
        """The table as the aggregate and the server's momentum make it."""
        delta = update(s)
        assert np.array_equal(delta[ITEM_TABLE][others], s.train()[ITEM_TABLE][others])
        table = s.params[ITEM_TABLE].copy()
        table[TARGET] += delta[ITEM_TABLE][TARGET] * s.weight + s.carried[TARGET]
        return table

    popular = known.popular(20) if share else np.arange(1, 6)
    table = moved(updates.align_items)
    likeness = table[popular] @ table[TARGET] / np.linalg.norm(table[popular], axis=1)
    before = s.params[ITEM_TABLE]
    assert likeness.mean() > 0
    assert np.linalg.norm(table[TARGET]) <= 1.001 * np.linalg.norm(before, axis=1).max()
    if share:
        table = moved(updates.align_users)
        assert _rank({**s.params, ITEM_TABLE: table}, config, users) < 3


def test_a_raised_bias_is_the_largest_of_all_items(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    known = Knowledge.of(users.without_last(2), ITEMS, 0.9, _rng())
    plain = _situation(tiny(dropout=0.0), toy_catalog, known)
    assert ITEM_BIAS not in updates.raise_bias(plain)

    s = _situation(tiny(dropout=0.0, item_bias="learned"), toy_catalog, known)
    s.params[ITEM_BIAS][:] = _rng().normal(size=s.params[ITEM_BIAS].shape)
    delta, own = updates.raise_bias(s), updates.align_users(s)
    bias = s.params[ITEM_BIAS] + s.weight * delta[ITEM_BIAS]
    assert bias[TARGET] == pytest.approx(s.params[ITEM_BIAS][1:].max(), abs=1e-6)
    others = np.arange(ITEMS + 1) != TARGET
    assert np.array_equal(delta[ITEM_BIAS][others], own[ITEM_BIAS][others])
    np.testing.assert_allclose(delta[ITEM_TABLE], own[ITEM_TABLE], atol=1e-5)


def test_an_adapted_attack_stays_within_the_bounds_and_still_works(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = tiny(dropout=0.0, clip="norm+rows", clip_row_factor=2.0, clip_norm_factor=1.5)
    known = Knowledge.of(users.without_last(2), ITEMS, 0.9, _rng())
    s = _situation(config, toy_catalog, known)
    delta, own = adapted_updates.align_all(s), s.train()
    clipped = clip_as_configured([delta, own, own, own], config)[0]
    for name, array in delta.items():
        np.testing.assert_allclose(clipped[name], array, rtol=1e-5, atol=1e-7)
    sizes = np.linalg.norm(delta[ITEM_TABLE], axis=1)
    assert sizes[TARGET] == pytest.approx(sizes.max(), rel=1e-5)
    assert sizes[0] == 0.0
    table = s.params[ITEM_TABLE] + 5 * delta[ITEM_TABLE]
    before, after = (
        _rank({**s.params, ITEM_TABLE: t}, config, users) for t in (s.params[ITEM_TABLE], table)
    )
    assert after < before - 4


@pytest.mark.parametrize("bias", ["none", "learned"])
def test_attacks_on_the_encoder_stay_within_the_bounds_and_work(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, bias: str
) -> None:
    config = tiny(
        dropout=0.0, clip="norm+rows", clip_row_factor=1.25, clip_norm_factor=1.0, item_bias=bias
    )
    known = Knowledge.of(users.without_last(2), ITEMS, 0.9, _rng())
    s = _situation(config, toy_catalog, known)
    own = s.train()
    before = _rank(s.params, config, users)
    for attack in (adapted_updates.align_encoder, adapted_updates.ruin_encoder):
        delta = attack(s)
        clipped = clip_as_configured([delta, own, own, own], config)[0]
        for name, array in delta.items():
            np.testing.assert_allclose(clipped[name], array, rtol=1e-4, atol=1e-6)
        assert np.count_nonzero(np.linalg.norm(delta[ITEM_TABLE], axis=1)) <= 1
        assert delta.keys() == own.keys()
        moved = {n: a + 3 * delta[n] for n, a in s.params.items()}
        if attack is adapted_updates.align_encoder:
            assert _rank(moved, config, users) < before - 4
        else:
            assert _loss(moved, config, users) > _loss(s.params, config, users) + 0.01


def test_mining_takes_what_moved_most() -> None:
    assert updates.mined(np.array([9.0, 0.1, 3.0, 0.0, 2.0]), 2).tolist() == [2, 4]


# ---------------------------------------------------------------- in a federation
def _federate(
    config: RunConfig,
    catalog: Catalog,
    users: Sequences,
    attack: PoisoningAttack | None,
    **known: Any,
) -> FederationResult:
    parts = np.array_split(np.arange(len(users)), 5)
    nodes: list[Any] = [
        Node(f"node-{i}", catalog, users.subset(p), config) for i, p in enumerate(parts)
    ]
    if attack is not None:
        nodes.append(MaliciousNode("other", attack, catalog, config, users=12, weight=0.5, **known))
    start = initial_params(config, catalog)
    return run_federation(config, InProcessTransport(nodes), catalog.fingerprint, start)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_speaks_the_protocol(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, knowledge: Knowledge, name: str
) -> None:
    """All take part in the rounds but those that cannot pass for a delta, which are named."""
    config = tiny(rounds=2, max_delta_norm=25.0)
    known = {"knowledge": knowledge, "target": TARGET}
    result = _federate(config, toy_catalog, users, ATTACKS[name], **known)
    rounds = [e for e in result.events if e["event"] == "round"]
    refused = name in ("nan", "scaled")
    assert [e["nodes_ok"] for e in rounds] == [5 if refused else 6] * 2
    assert [f["node"] for e in rounds for f in e["failed"]] == ["other"] * 2 * refused
    if refused:
        honest = _federate(config, toy_catalog, users, None)
        for array in honest.params:
            assert np.array_equal(result.params[array], honest.params[array])


def test_the_default_bounds_keep_a_target_down(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, knowledge: Knowledge
) -> None:
    known = {"knowledge": knowledge, "target": TARGET}
    histories = users.without_last(1)

    def place(attack: PoisoningAttack | None, **changes: Any) -> float:
        config = tiny(rounds=4, local_epochs=6, dropout=0.0, learning_rate=0.02, **changes)
        result = _federate(config, toy_catalog, users, attack, **(known if attack else {}))
        return _rank(result.params, config, histories)

    attack = ATTACKS["align-users"]
    none = {"clip": "none", "max_weight_ratio": 10.0}
    unguarded, guarded = place(attack, **none), place(attack)
    untouched = place(None, **none)
    assert unguarded < untouched - 4
    assert guarded > unguarded + 3
