"""Whom a variant serves: by length of the history, by node, and the worst tenth."""

import numpy as np
import pytest

from lumos_core.data.sequences import Sequences
from lumos_core.experiments.comparison.fairness import (
    LENGTHS,
    node_spread,
    training_lengths,
    user_spread,
)
from lumos_core.learning.metrics import worst_tenth


def test_every_length_is_in_exactly_one_class() -> None:
    lengths = np.arange(1, 60, dtype=np.float64)
    assert (sum(c.members(lengths).astype(int) for c in LENGTHS) == 1).all()
    firsts = [int(lengths[c.members(lengths)][0]) for c in LENGTHS]
    assert firsts == [1, 4, 8, 16, 32]
    assert [c.name for c in LENGTHS] == ["1–3", "4–7", "8–15", "16–31", "≥ 32"]


def test_a_length_is_that_of_the_training_history() -> None:
    assert training_lengths(Sequences.from_lists([[1, 2, 3], [1, 2, 3, 4, 5]])).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("values", "mean"), [([3.0, 1.0], 1.0), (range(10), 0.0), (range(11), 0.5), (range(20), 0.5)]
)
def test_the_worst_tenth_is_of_at_least_one(values: list[float], mean: float) -> None:
    assert worst_tenth(list(values)) == mean


def test_nodes_count_the_same_whatever_their_size() -> None:
    owners = np.array([0, 0, 0, 0, 2, 2])  # node 1 has nobody
    ranks = np.array([1.0, 20.0, 20.5, 60.0, 70.0, 80.0])
    found = node_spread([(ranks, owners)])
    assert found is not None
    assert (found.mean, found.deviation, found.worst_tenth) == (0.25, 0.25, 0.0)


def test_each_seed_has_its_own_nodes() -> None:
    ranks = np.array([1.0, 1.0, 60.0, 60.0])
    apart, mixed = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    found = node_spread([(ranks, apart), (ranks, mixed)])
    assert found is not None
    assert (found.mean, found.deviation, found.worst_tenth) == (0.5, 0.25, 0.25)
    assert node_spread([]) is None


def test_a_user_counts_over_all_seeds_and_splits() -> None:
    ranks = [np.array([1.0, 60.0, 60.0, 3.0]), np.array([2.0, 60.0, 20.0, 60.0])]
    found = user_spread(ranks)
    assert found is not None
    assert (found.worst_tenth, found.never) == (0.0, 0.25)
    everybody = user_spread([np.array([1.0, 60.0]), np.array([60.0, 1.0])])
    assert everybody is not None
    assert (everybody.worst_tenth, everybody.never) == (0.5, 0.0)
    assert user_spread([]) is None
