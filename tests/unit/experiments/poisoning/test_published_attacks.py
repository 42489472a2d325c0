"""Attacks of others' papers: each sends what its paper says, and no aggregation rule breaks."""

from collections.abc import Callable

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.experiments.poisoning import cluster_attack, hid_attack, poisoned_users, spattack
from lumos_core.experiments.poisoning.cluster_attack import PATIENCE, START, Clusters
from lumos_core.experiments.poisoning.hid_attack import ARMS, Bandit
from lumos_core.experiments.poisoning.knowledge import Knowledge
from lumos_core.experiments.poisoning.malicious_node import ATTACKS, MaliciousNode
from lumos_core.experiments.poisoning.scenarios import PUBLISHED, SUITES
from lumos_core.experiments.poisoning.updates import Situation
from lumos_core.federation import aggregation
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.learning.title_start import initial_params

Tiny = Callable[..., RunConfig]
ITEMS = 24
TARGET = 24
USERS = 12


@pytest.fixture
def knowledge() -> Knowledge:
    """40 users who walk round items 1 … 16; items 17 to 24 are met by nobody."""
    rng = np.random.default_rng(1)
    walks = [((rng.integers(16) + np.arange(7)) % 16 + 1).tolist() for _ in range(40)]
    users = Sequences.from_lists(walks)
    return Knowledge.of(users, ITEMS, 0.9, rng)


@pytest.fixture
def situation(tiny: Tiny, toy_catalog: Catalog, knowledge: Knowledge) -> Situation:
    config = tiny(dropout=0.0)
    rng = np.random.default_rng(0)
    made = poisoned_users.known_users(knowledge, TARGET, USERS, rng)
    node = Node("n", toy_catalog, made, config)
    params = initial_params(config, toy_catalog)
    return Situation(
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
        rng=rng,
        users=2,
        seed=3,
    )


def _rows(delta: Params) -> np.ndarray:
    found: np.ndarray = np.flatnonzero(np.abs(delta[ITEM_TABLE]).sum(axis=1))
    return found


# ---------------------------------------------------------------- Spattack
def test_spattack_o_makes_the_aggregate_stand_still(situation: Situation) -> None:
    honest, sent = situation.train(), spattack.opposite_dense(situation)
    mean = 0.75 * honest[ITEM_TABLE] + 0.25 * sent[ITEM_TABLE]
    assert np.abs(mean).max() < 1e-6
    for name in honest:
        if name != ITEM_TABLE:
            assert np.array_equal(sent[name], honest[name])


def test_spattack_l_sends_the_same_rows_from_all_nodes_and_in_all_rounds(
    situation: Situation,
) -> None:
    first = spattack.same_dense(situation)[ITEM_TABLE]
    situation.rng = np.random.default_rng(99)
    situation.memory = {}
    assert np.array_equal(spattack.same_dense(situation)[ITEM_TABLE], first)
    lengths = np.linalg.norm(first[1:], axis=1)
    assert lengths == pytest.approx(lengths[0], rel=1e-4)
    assert not first[0].any()
    situation.seed = 4
    assert not np.array_equal(spattack.same_dense(situation)[ITEM_TABLE], first)


@pytest.mark.parametrize("update", [spattack.opposite_sparse, spattack.same_sparse])
def test_sparse_variants_touch_as_many_popular_rows_as_a_node(
    situation: Situation, update: Callable[[Situation], Params]
) -> None:
    like_a_node = np.unique(np.concatenate(situation.knowledge.histories[:2]))
    rows = _rows(update(situation))
    assert len(rows) == len(like_a_node)
    assert rows.max() <= 16, "nobody met the other items"
    assert np.array_equal(_rows(update(situation)), rows), "the same rows in every round"
    situation.memory = {}
    drawn = [_rows(update(situation)).tolist() for _ in range(1)]
    assert drawn[0] != rows.tolist(), "another node draws other rows"


def test_sparse_variants_do_without_knowledge(situation: Situation) -> None:
    situation.knowledge = Knowledge(ITEMS, [])
    assert len(_rows(spattack.same_sparse(situation))) == ITEMS // 10


# ---------------------------------------------------------------- ClusterAttack
def test_cluster_attack_draws_items_together(situation: Situation) -> None:
    situation.params[ITEM_TABLE][1:] = np.random.default_rng(5).normal(size=(ITEMS, 8))
    table = situation.params[ITEM_TABLE][1:]
    moved = cluster_attack.cluster_items(situation)[ITEM_TABLE][1:]

    def within(rows: np.ndarray) -> float:
        from sklearn.cluster import KMeans

        found = KMeans(START, init="random", n_init=1, random_state=situation.seed)
        return float(found.fit(rows).inertia_)

    assert within(table + 0.25 * moved) < within(table)
    honest = np.linalg.norm(situation.train()[ITEM_TABLE][1:], axis=1)
    honest = honest[honest > 0]
    longest = honest.mean() + cluster_attack.SPREAD * honest.std()
    assert np.linalg.norm(moved, axis=1).max() <= longest * (1 + 1e-5)


def test_the_number_of_clusters_follows_the_loss() -> None:
    rising, falling = Clusters(), Clusters()
    for n in range(PATIENCE + 1):
        rising.after(1.0 + n)
        falling.after(10.0 - n)
    assert rising.k > START > falling.k
    for n in range(500):
        rising.after(10.0 + n)
        falling.after(-10.0 - n)
    assert rising.k == cluster_attack.LARGEST
    assert falling.k == cluster_attack.SMALLEST


# ---------------------------------------------------------------- HidAttack
def test_the_bandit_plays_what_works_and_sometimes_something_else() -> None:
    bandit, rng = Bandit(), np.random.default_rng(0)
    played = []
    for _ in range(300):
        arm = bandit.choose(rng)
        played.append(arm)
        bandit.learn(1.0 if arm == "known users" else 0.1)
    assert set(played) == set(ARMS)
    assert played[-100:].count("known users") > 80


def test_a_hidden_attack_sends_no_row_longer_than_an_honest_one(situation: Situation) -> None:
    longest = np.linalg.norm(situation.train()[ITEM_TABLE], axis=1).max()
    unhidden = max(float(np.linalg.norm(ARMS[arm](situation)[ITEM_TABLE][TARGET])) for arm in ARMS)
    assert unhidden > longest, "otherwise there is nothing to hide"
    for _ in range(8):
        sent = hid_attack.hidden(situation)
        assert np.linalg.norm(sent[ITEM_TABLE], axis=1).max() <= longest * (1 + 1e-5)
    bandit = situation.memory["bandit"]
    assert sum(bandit.played.values()) == 7
    assert not ATTACKS["hidden"].lies


def test_the_reward_is_the_targets_exposure(situation: Situation) -> None:
    before = hid_attack.exposure(situation)
    pushed = ARMS["known users"](situation)[ITEM_TABLE]
    situation.params = {
        **situation.params, ITEM_TABLE: situation.params[ITEM_TABLE] + 0.25 * pushed
    }  # fmt: skip
    assert hid_attack.exposure(situation) > before


# ---------------------------------------------------------------- all of them
@pytest.mark.parametrize("rule", list(aggregation.RULES))
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_rule_gets_over_every_attack(
    name: str, rule: str, tiny: Tiny, toy_catalog: Catalog, knowledge: Knowledge,
    toy_users: Callable[..., Sequences],
) -> None:  # fmt: skip
    config = tiny(aggregation=rule)
    params = initial_params(config, toy_catalog)
    honest = [Node(f"n{i}", toy_catalog, toy_users(6, seed=i), config) for i in range(4)]
    attackers = [
        MaliciousNode(f"other-{i}", ATTACKS[name], toy_catalog, config, knowledge, TARGET, 6, 2 / 6)
        for i in range(2)
    ]
    for round in (1, 2):
        sent = [node.train(params, round)[0] for node in (*honest, *attackers)]
        delta = aggregation.aggregate(sent, np.full(6, 1 / 6), config)
        params = {n: a + delta[n] for n, a in params.items()}
    assert all(np.isfinite(array).all() for array in params.values())


def test_the_suite_has_each_of_them_and_the_grid_is_as_before() -> None:
    assert set(PUBLISHED) <= {s.attack for s in SUITES["published"]}
    assert not set(PUBLISHED) & {s.attack for s in SUITES["grid"]}
    assert set(PUBLISHED) <= set(ATTACKS)
