"""Coverage and popularity lift against a slow reference that sorts lists of single users."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.data import Sequences
from lumos_core.learning.evaluation import target_ranks
from lumos_core.learning.shown_items import COVERAGE, LIFT, SHOWN, ShownItems


@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_as_a_slow_reference(items: int, users: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float32), (users, 1)), axis=1)
    longest = min(items, 8)
    histories = [
        rng.integers(1, items + 1, size=rng.integers(1, longest + 1)) for _ in range(users)
    ]
    targets, popularity = rng.integers(1, items + 1, size=users), rng.integers(0, 9, size=items)

    lists = []
    for user in range(users):
        unseen = [i for i in range(1, items + 1) if i not in histories[user]]
        lists.append(sorted(unseen, key=lambda i: -scores[user, i - 1])[:SHOWN])
    everything = [i for row in lists for i in row]

    shown = ShownItems(items)
    sequences = Sequences.from_lists([h.tolist() for h in histories])
    with_count = target_ranks(
        lambda rows: torch.from_numpy(scores[rows].copy()), sequences, targets, shown
    )
    without = target_ranks(lambda rows: torch.from_numpy(scores[rows].copy()), sequences, targets)
    assert with_count.tolist() == without.tolist(), "counting changes no rank"
    assert shown.counts.tolist() == [everything.count(i) for i in range(1, items + 1)]
    found = shown.metrics(popularity, targets)
    assert found[COVERAGE] == pytest.approx(len(set(everything)) / items)
    wanted = np.mean([popularity[t - 1] for t in targets])
    if everything and wanted:
        lift = np.mean([popularity[i - 1] for i in everything]) / wanted
        assert found[LIFT] == pytest.approx(lift)
    else:
        assert LIFT not in found


def test_the_same_list_for_everybody() -> None:
    shown = ShownItems(100)
    shown.add(torch.arange(100.0).repeat(7, 1))
    popularity = np.r_[np.zeros(80, dtype=int), np.full(20, 6)]
    assert shown.metrics(popularity, np.array([1, 100])) == {COVERAGE: 0.2, LIFT: 2.0}


def test_a_score_that_is_no_number_is_not_shown() -> None:
    shown = ShownItems(3)
    scores = torch.tensor([[1.0, float("nan"), 2.0]])
    history = Sequences.from_lists([[1]])
    target_ranks(lambda users: scores.clone(), history, np.array([2]), shown)
    assert shown.counts.tolist() == [0, 0, 1]
