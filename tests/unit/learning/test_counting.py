"""Yardsticks against counting by hand, with loops and dicts."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from lumos_core.data.sequences import Sequences
from lumos_core.learning import counting
from lumos_core.learning.counting import HALF_LIVES, TITLE_WEIGHTS, YARDSTICKS, count
from lumos_core.learning.metrics import means, ranking_sums
from lumos_core.views.titles.tfidf import tfidf_vectors

Users = Callable[..., Sequences]
ITEMS = 8
TITLES = [f"{'red' if i % 2 else 'blue'} {'pen' if i % 3 else 'ink'} no {i}" for i in range(ITEMS)]

histories = st.lists(st.integers(1, ITEMS), min_size=3, max_size=7)
people = st.lists(histories, min_size=1, max_size=8)


# ---------------------------------------------------------------- by hand
def popularity(train: list[list[int]]) -> dict[int, int]:
    return {i: sum(row.count(i) for row in train) for i in range(1, ITEMS + 1)}


def markov(train: list[list[int]], history: list[int], steps: int) -> dict[int, float]:
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    for row in train:
        for position, before in enumerate(row):
            for distance in range(1, steps + 1):
                if position + distance < len(row):
                    pairs[before, row[position + distance]] += 1 / distance
    total = {i: sum(v for (before, _), v in pairs.items() if before == i) for i in popularity([])}
    return {
        item: sum(
            pairs[last, item] / math.sqrt(total[last]) / rank
            for rank, last in enumerate(history[::-1][:steps], start=1)
            if total[last]
        )
        for item in popularity([])
    }


def nearness(history: list[int], half_life: float) -> dict[int, float]:
    cosines = cosine_similarity(tfidf_vectors(TITLES))
    weights = [2 ** (-age / half_life) for age in range(len(history))][::-1]
    return {
        item: sum(w * cosines[i - 1, item - 1] for w, i in zip(weights, history, strict=True))
        / sum(weights)
        for item in popularity([])
    }


def z(scores: dict[int, float]) -> dict[int, float]:
    values = list(scores.values())
    spread = float(np.std(values))
    return {i: (v - float(np.mean(values))) / spread if spread > 1e-9 else 0.0
            for i, v in scores.items()}  # fmt: skip


def rank(keys: dict[int, tuple[float, ...]], history: list[int], target: int) -> float:
    """Larger keys are better; where the first entries are nearly equal, the next ones decide."""
    place = 1.0
    for item, key in keys.items():
        if item == target or item in history:
            continue
        for mine, other in zip(keys[target], key, strict=True):
            if not math.isclose(mine, other, abs_tol=1e-7):
                place += other > mine
                break
        else:
            place += 0.5
    return place


def expected(
    users: list[list[int]], back: int, score: Callable[[list[int]], dict[int, tuple[float, ...]]]
) -> list[float]:
    return [rank(score(row[:-back]), row[:-back], row[-back]) for row in users]


# ---------------------------------------------------------------- golden
@given(people, st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_markov_equals_counting(users: list[list[int]], steps: int) -> None:
    train = [row[:-2] for row in users]
    popular = popularity(train)

    def score(history: list[int]) -> dict[int, tuple[float, ...]]:
        return {i: (v, popular[i]) for i, v in markov(train, history, steps).items()}

    found = count(f"markov-{steps}", Sequences.from_lists(users), TITLES)
    assert found.chosen == {}
    assert found.validation.tolist() == expected(users, 2, score)
    assert found.test.tolist() == expected(users, 1, score)


@given(people)
@settings(max_examples=30, deadline=None)
def test_popularity_equals_counting(users: list[list[int]]) -> None:
    popular = popularity([row[:-2] for row in users])
    found = count("popularity", Sequences.from_lists(users), TITLES)
    for back, ranks in ((2, found.validation), (1, found.test)):
        assert ranks.tolist() == expected(
            users, back, lambda h: {i: (v,) for i, v in popular.items()}
        )


@given(people)
@settings(max_examples=15, deadline=None)
def test_the_half_life_is_the_best_on_validation(users: list[list[int]]) -> None:
    found = count("title-knn", Sequences.from_lists(users), TITLES)

    def ranks(half_life: float, back: int) -> list[float]:
        return expected(users, back, lambda h: {i: (v,) for i, v in nearness(h, half_life).items()})

    def value(half_life: float) -> float:
        return ranking_sums(np.array(ranks(half_life, 2)))["ndcg@20"]

    assert found.chosen["half-life"] in HALF_LIVES
    assert value(found.chosen["half-life"]) == pytest.approx(max(map(value, HALF_LIVES)))
    assert found.validation.tolist() == ranks(found.chosen["half-life"], 2)
    assert found.test.tolist() == ranks(found.chosen["half-life"], 1)


@given(people)
@settings(max_examples=10, deadline=None)
def test_transitions_and_titles_are_added_as_z_scores(users: list[list[int]]) -> None:
    train = [row[:-2] for row in users]
    found = count("markov-titles", Sequences.from_lists(users), TITLES)
    half_life, weight = found.chosen["half-life"], found.chosen["title-weight"]
    assert (half_life in HALF_LIVES, weight in TITLE_WEIGHTS) == (True, True)
    popular = popularity(train)

    def score(history: list[int]) -> dict[int, tuple[float, ...]]:
        counted, near = z(markov(train, history, 3)), z(nearness(history, half_life))
        if not any(markov(train, history, 3).values()):  # popularity alone then counts
            counted = z({i: float(v) for i, v in popular.items()})
        return {i: (counted[i] + weight * near[i], popular[i]) for i in popular}

    assert found.test.tolist() == expected(users, 1, score)


# ---------------------------------------------------------------- properties
@pytest.mark.parametrize("name", YARDSTICKS)
def test_held_out_items_are_not_counted(name: str, toy_users: Users) -> None:
    """Another test item changes nothing about the validation ranks, nor about other users."""
    users = [row.tolist() for row in toy_users(20, shortest=5)]
    titles = [f"thing {i}" for i in range(24)]
    before = count(name, Sequences.from_lists(users), titles)
    others = [[*users[0][:-1], users[0][-1] % 24 + 1], *users[1:]]
    after = count(name, Sequences.from_lists(others), titles)
    assert after.validation.tolist() == before.validation.tolist()
    assert after.test[1:].tolist() == before.test[1:].tolist()


@pytest.mark.parametrize("name", YARDSTICKS)
def test_ranks_do_not_depend_on_batches(
    name: str, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [f"thing {i} {'of tin' if i % 3 else 'of oak'}" for i in range(24)]
    whole = count(name, toy_users(30), titles)
    monkeypatch.setattr(counting, "EVALUATION_BATCH", 7)
    assert count(name, toy_users(30), titles).test.tolist() == whole.test.tolist()


def test_a_cycle_is_learned_by_counting_alone() -> None:
    """Everybody walks the same circle, so the next item is always known."""
    circle = [[(start + t) % ITEMS + 1 for t in range(5)] for start in range(ITEMS)]
    found = count("markov-1", Sequences.from_lists(circle), TITLES)
    assert means(ranking_sums(found.test))["hr@5"] == 1.0
    assert found.test.tolist() == [1.0] * ITEMS


def test_a_row_without_spread_is_zero() -> None:
    found = counting.standardised(np.array([[2.0, 2.0, 2.0], [0.0, 1.0, 2.0]]))
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert found[1].mean() == pytest.approx(0.0)
    assert found[1].std() == pytest.approx(1.0)


def test_transitions_of_a_history() -> None:
    """1 2 1 2: 1 → 2 twice, 2 → 1 once; at distance 2, each item follows itself once, for half."""
    table = counting.transitions(Sequences.from_lists([[1, 2, 1, 2]]), 2, 2).toarray()
    first, second = np.array([0.5, 2.0]), np.array([1.0, 0.5])
    np.testing.assert_allclose(table, [first / np.sqrt(2.5), second / np.sqrt(1.5)])
