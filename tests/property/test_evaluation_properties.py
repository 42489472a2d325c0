"""Ranks, for all scores and histories."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.data.sequences import Sequences
from lumos_core.learning.evaluation import target_ranks
from lumos_core.learning.metrics import ranking_sums
from lumos_core.learning.suggestions import Suggestions

ITEMS = 8
few_values = st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 2.0])  # many ties
users = st.lists(
    st.tuples(
        st.lists(few_values, min_size=ITEMS, max_size=ITEMS),
        st.lists(st.integers(1, ITEMS), max_size=6),
        st.integers(1, ITEMS),
    ),
    min_size=1,
    max_size=6,
)


@given(users)
def test_ranks_equal_those_of_a_loop(rows: list[tuple[list[float], list[int], int]]) -> None:
    table = torch.tensor([scores for scores, _, _ in rows])
    found = target_ranks(
        lambda chosen: table[torch.from_numpy(chosen)],
        Sequences.from_lists([history for _, history, _ in rows]),
        np.array([target for _, _, target in rows]),
    )
    for rank, scores, (_, history, target) in zip(found, table.tolist(), rows, strict=True):
        rivals = [s for i, s in enumerate(scores, 1) if i != target and i not in history]
        own = scores[target - 1]
        assert rank == 1 + sum(s > own for s in rivals) + sum(s == own for s in rivals) / 2


@given(st.lists(st.integers(2, 200).map(lambda n: n / 2), max_size=30))
def test_sums_are_within_their_bounds(ranks: list[float]) -> None:
    sums = ranking_sums(np.array(ranks))
    n = len(ranks)
    assert sums["users"] == n
    assert 0 <= sums["hr@5"] <= sums["hr@10"] <= sums["hr@20"] <= n
    for k in (5, 10, 20):
        assert 0 <= sums[f"ndcg@{k}"] <= sums[f"hr@{k}"]
    assert 0 <= sums["mrr"] <= n
    assert all(math.isfinite(v) for v in sums.values())


@given(users, st.integers(1, 10))
def test_what_is_suggested_equals_a_loop(
    rows: list[tuple[list[float], list[int], int]], first: int
) -> None:
    """Each score is made unique, as it does not matter which of two equal items is suggested."""
    table = torch.tensor([[s + i / 1e3 for i, s in enumerate(scores)] for scores, _, _ in rows])
    suggested = Suggestions(ITEMS, first)
    target_ranks(
        lambda chosen: table[torch.from_numpy(chosen)],
        Sequences.from_lists([history for _, history, _ in rows]),
        np.array([target for _, _, target in rows]),
        suggested,
    )
    lists = []
    for scores, (_, history, _) in zip(table.tolist(), rows, strict=True):
        unseen = [i for i in range(1, ITEMS + 1) if i not in history]
        lists.append(sorted(unseen, key=lambda i: -scores[i - 1])[:first])
    shown = [item for items in lists for item in items]
    assert suggested.counts.tolist() == [shown.count(i) for i in range(ITEMS + 1)]
    assert suggested.coverage == len(set(shown)) / ITEMS
    uses = np.arange(ITEMS + 1) ** 2
    expected = sum(item**2 for item in shown) / len(shown) if shown else 0.0
    assert suggested.mean_uses(uses) == pytest.approx(expected)
