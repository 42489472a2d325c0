"""Intervals against a bootstrap in loops, and against the truth of synthetic data."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from lumos_core.experiments.comparison import intervals
from lumos_core.experiments.comparison.intervals import Bootstrap, drawn, user_metric


def slowly(ours: list[list[float]], base: list[list[float]], draws: int) -> tuple[float, float]:
    """Draw by draw, seed by seed, user by user."""
    users, seeds = len(ours[0]), len(ours)

    def rows(stream: int, size: int) -> Iterator[list[int]]:
        for block in drawn(stream, size, draws):
            yield from block.tolist()

    found = []
    for chosen, runs in zip(rows(0, users), rows(1, seeds), strict=True):
        over = sum(ours[s][u] for s in runs for u in chosen)
        under = sum(base[s][u] for s in runs for u in chosen)
        found.append(over / under - 1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("draws", [99, 250])
def test_it_equals_a_bootstrap_in_loops(seeds: int, draws: int) -> None:
    rng = np.random.default_rng(seeds)
    base = rng.random((seeds, 20)) + 0.1
    ours = base * rng.uniform(0.5, 2.0, (seeds, 20))
    found = Bootstrap(20, draws).relative(ours, base)
    assert found is not None
    assert found[1:] == pytest.approx(slowly(ours.tolist(), base.tolist(), draws))
    assert found.value == pytest.approx(ours.mean() / base.mean() - 1)


def test_with_one_seed_only_users_are_drawn() -> None:
    """Equal rows, repeated: seeds add nothing, so the interval is that of one seed."""
    rng = np.random.default_rng(0)
    ours, base = rng.random((1, 50)), rng.random((1, 50))
    bootstrap = Bootstrap(50, 200)
    once = bootstrap.relative(ours, base)
    thrice = bootstrap.relative(np.tile(ours, (3, 1)), np.tile(base, (3, 1)))
    assert once is not None
    assert thrice is not None
    assert once == pytest.approx(thrice)


def test_the_difference_to_oneself_is_exactly_zero() -> None:
    """It is paired: both get the same users and the same seeds."""
    values = np.random.default_rng(1).random((3, 40))
    assert Bootstrap(40, 100).relative(values, values) == (0.0, 0.0, 0.0)


def test_pairing_makes_a_difference_of_all_users_certain() -> None:
    base = np.random.default_rng(2).random((2, 60))
    found = Bootstrap(60, 100).relative(1.1 * base, base)
    assert found == pytest.approx((0.1, 0.1, 0.1))
    assert found is not None
    assert found.sign == 1


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0.0, 0.1, 0)]
)
def test_a_sign_needs_the_whole_interval(low: float, high: float, sign: int) -> None:
    assert intervals.Interval(0.0, low, high).sign == sign


def test_a_reference_of_zero_has_no_interval() -> None:
    assert Bootstrap(3, 50).relative(np.ones((1, 3)), np.zeros((1, 3))) is None
    rare = np.array([[1.0, 0.0, 0.0]])  # some draws are without this user
    assert Bootstrap(3, 50).relative(np.ones((1, 3)), rare) is None


def test_the_same_results_give_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    ours, base = rng.random((2, 30)), rng.random((2, 30))
    assert Bootstrap(30).relative(ours, base) == Bootstrap(30).relative(ours, base)


def test_another_number_of_users_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Bootstrap(30, 10).relative(np.ones((1, 29)), np.ones((1, 29)))


def test_the_interval_covers_the_truth() -> None:
    """Users differ, seeds differ, and both variants hit the same users more often than chance.
    Of 200 worlds, about 190 intervals must hold the true difference of 25 %."""
    rng, worlds, users, seeds = np.random.default_rng(4), 200, 150, 4
    bootstrap = Bootstrap(users, 300)
    covered = 0
    for _ in range(worlds):
        ease = rng.beta(2, 3, users)
        luck = rng.normal(1, 0.03, (2, seeds, 1))
        ours = rng.random((seeds, users)) < np.clip(0.75 * ease * luck[0], 0, 1)
        base = rng.random((seeds, users)) < np.clip(0.60 * ease * luck[1], 0, 1)
        found = bootstrap.relative(ours.astype(float), base.astype(float))
        assert found is not None
        covered += found.low <= 0.25 <= found.high
    assert 0.90 <= covered / worlds <= 1.0


def test_metrics_of_single_users() -> None:
    ranks = np.array([[1.0, 20.0, 20.5, 101.0]])
    assert user_metric(ranks, "hr@20").tolist() == [[1.0, 1.0, 0.0, 0.0]]
    expected = [1 / math.log2(2), 1 / math.log2(21), 0, 0]
    assert user_metric(ranks, "ndcg@20")[0].tolist() == pytest.approx(expected)


def test_users_and_seeds_are_drawn_independently() -> None:
    users, seeds = (np.concatenate(list(drawn(stream, 5, 250))) for stream in (0, 1))
    assert users.shape == seeds.shape == (250, 5)
    assert (users != seeds).mean() == pytest.approx(0.8, abs=0.05)
