"""Classes of rarity: every user is in one, and hits are counted in each."""

import numpy as np
import pytest

from lumos_core.data.sequences import Sequences
from lumos_core.experiments.comparison.rarity import CLASSES, RARE, hit_rate, target_counts


def test_every_count_is_in_exactly_one_class() -> None:
    counts = np.arange(102, dtype=np.float64)
    assert (sum(rarity.members(counts).astype(int) for rarity in CLASSES) == 1).all()
    firsts = [int(np.flatnonzero(rarity.members(counts))[0]) for rarity in CLASSES]
    assert firsts == [0, 5, 10, 20, 50]


def test_only_training_histories_are_counted() -> None:
    """Item 2 is once in training, once the validation item and once the target."""
    users = Sequences.from_lists([[2, 1, 1], [1, 2, 3], [1, 1, 2], [3, 3, 9]])
    assert target_counts(users).tolist() == [2, 1, 1, 0]


def test_hits_of_a_class_over_seeds() -> None:
    counts = np.array([0.0, 4.0, 5.0])
    ranks = [np.array([1.0, 30.0, 1.0]), np.array([20.0, 3.0, 99.0])]
    assert hit_rate(ranks, counts, RARE) == pytest.approx(0.75)
    assert hit_rate(ranks, counts, CLASSES[1]) == pytest.approx(0.5)
    assert hit_rate(ranks, counts, CLASSES[4]) is None
