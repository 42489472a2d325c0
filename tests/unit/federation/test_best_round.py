"""The best round is chosen by the honest majority, whatever one node says of its users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.federation.best_round import bounded_mean
from lumos_core.learning.metrics import SELECTION_METRIC
from lumos_core.runs.history import value_of

LIE = 10**9
counts = st.integers(1, 2_000).map(float)


def _honest(nodes: int, users: int, mean: float, seed: int) -> tuple[list[float], list[float]]:
    """NDCG-like values: most users have nothing, some have something."""
    rng = np.random.default_rng(seed)
    hits = rng.random((nodes, users)) < 2 * mean
    return [float(users)] * nodes, (hits * rng.random((nodes, users))).sum(axis=1).tolist()


@pytest.mark.parametrize(("nodes", "users"), [(8, 89), (19, 37), (236, 3), (30, 1), (2, 10)])
@pytest.mark.parametrize("seed", range(5))
def test_honest_nodes_of_like_size_have_the_plain_mean(nodes: int, users: int, seed: int) -> None:
    counts_, sums = _honest(nodes, users, 0.1, seed)
    found = bounded_mean(counts_, sums, 2.0)
    assert found.value == sum(sums) / sum(counts_)
    assert not found.doubted.any()


@pytest.mark.parametrize("said", [0.0, 1.0])
def test_one_of_twenty_moves_little(said: float) -> None:
    users, sums = _honest(19, 37, 0.1, 0)
    honest = bounded_mean(users, sums, 2.0).value
    found = bounded_mean([*users, LIE], [*sums, said * LIE], 2.0)
    assert abs(found.value - honest) < 0.025
    assert found.doubted.tolist() == [False] * 19 + [said == 1.0]
    assert abs(sums[0] / users[0] - (sum(sums) + said * LIE) / (sum(users) + LIE)) > 0.05


def test_nodes_that_differ_are_not_doubted_for_their_size() -> None:
    """Thousands of users leave chance no room; that nodes serve different people remains."""
    means = np.array([0.10, 0.12, 0.14, 0.16, 0.20])
    users = np.full(5, 5_000.0)
    found = bounded_mean(users.tolist(), (users * means).tolist(), 2.0)
    assert not found.doubted.any()
    assert found.value == pytest.approx(means.mean())


def test_the_largest_node_has_a_bounded_weight() -> None:
    found = bounded_mean([100.0, 100.0, 1_000.0], [10.0, 10.0, 120.0], 2.0)
    assert found.value == pytest.approx((0.1 + 0.1 + 2 * 0.12) / 4)


def test_of_two_nodes_the_smaller_is_the_typical_one() -> None:
    assert bounded_mean([10.0, LIE], [1.0, LIE], 2.0).value == pytest.approx((0.1 + 2) / 3)


def test_two_nodes_only_share_the_weight() -> None:
    found = bounded_mean([10.0, 10.0], [0.0, 10.0], 2.0)
    assert (found.value, found.doubted.tolist()) == (0.5, [False, False])


@given(st.lists(st.tuples(counts, st.floats(0, 1)), min_size=1, max_size=30), st.floats(1, 10))
def test_the_value_lies_between_the_nodes(nodes: list[tuple[float, float]], ratio: float) -> None:
    users, means = zip(*nodes, strict=True)
    found = bounded_mean(users, [u * m for u, m in nodes], ratio)
    assert min(means) - 1e-9 <= found.value <= max(means) + 1e-9
    assert found.doubted.sum() <= len(nodes) / 2


def test_histories_of_before_are_compared_by_their_metric() -> None:
    assert value_of({SELECTION_METRIC: 0.3}) == 0.3
    assert value_of({SELECTION_METRIC: 0.3, "selection": 0.2}) == 0.2
