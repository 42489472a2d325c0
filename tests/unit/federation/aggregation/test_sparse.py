"""Clipping and sparse-aware rules by hand, and what a plain median does to items few nodes know."""

from collections.abc import Callable

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.federation.aggregation import (
    aggregate,
    clip_norms,
    clip_rows,
    median,
    sparse_median,
)
from lumos_core.federation.aggregation import sparse_trimmed_mean as trimmed
from lumos_core.federation.aggregation.sparse import touched_rows
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.learning.title_start import initial_params
from lumos_core.wire.deltas import norm

Tiny = Callable[..., RunConfig]
ITEMS, DIM = 12, 4


def _table(rows: dict[int, float], noise: float = 0.0, seed: int = 0) -> Params:
    """A delta whose given rows point along the first axis."""
    table = noise * np.random.default_rng(seed).normal(size=(ITEMS + 1, DIM))
    table[0] = 0.0
    for row, value in rows.items():
        table[row] = [value, 0, 0, 0]
    return {ITEM_TABLE: table.astype(np.float32), "bias": np.ones(2, np.float32)}


def _equal(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def test_norms_are_clipped_to_the_typical_one() -> None:
    deltas = [{"a": np.full(4, v, np.float32)} for v in (1, 1, 1.2, -50)]
    clipped = clip_norms(deltas, 1.5)
    assert [norm(d) for d in clipped] == pytest.approx([2, 2, 2.4, 1.5 * 2.2], rel=1e-5)
    assert (clipped[3]["a"] < 0).all()
    assert clipped[0] is deltas[0]


def test_rows_are_clipped_to_the_typical_row() -> None:
    honest = [_table(dict.fromkeys(range(1, 6), 1.0)) for _ in range(3)]
    boosted = _table({1: 1.0, 7: 90.0})
    *kept, clipped = clip_rows([*honest, boosted], 2.0)
    assert all(k is h for k, h in zip(kept, honest, strict=True))
    assert clipped[ITEM_TABLE][7].tolist() == [2.0, 0, 0, 0]
    assert clipped[ITEM_TABLE][1].tolist() == [1.0, 0, 0, 0]
    assert clipped["bias"] is boosted["bias"]


def test_clipping_of_nothing_is_nothing() -> None:
    still = [{n: np.zeros_like(a) for n, a in _table({}).items()} for _ in range(3)]
    assert all(norm(d) == 0 for d in clip_norms(clip_rows(still, 2.0), 1.5))


def test_a_norm_bound_alone_leaves_a_boosted_row_and_rows_bound_it(tiny: Tiny) -> None:
    deltas = [_table({}, noise=0.1, seed=s) for s in range(9)] + [_table({3: 1e4})]

    def moved(clip: str) -> float:
        table = aggregate(deltas, _equal(10), tiny(clip=clip))[ITEM_TABLE]
        return float(np.linalg.norm(table[3]))

    assert moved("none") > 900
    assert moved("norm") > 1.5 * moved("rows")
    assert moved("norm+rows") <= moved("rows") < 0.2


def test_touched_rows_of_a_sparse_delta_are_those_that_moved() -> None:
    touched = touched_rows(_table({2: 1.0, 5: -0.8, 9: 0.1})[ITEM_TABLE])
    assert np.flatnonzero(touched).tolist() == [2, 5]
    assert not touched_rows(np.zeros((4, 3), np.float32)).any()


def test_rows_that_merely_drift_are_not_touched() -> None:
    """As under the full softmax: what nobody bought moves most, but all of it alike."""
    table = _table({4: -0.2, 6: 0.1}, noise=0.02)[ITEM_TABLE]
    table[1:, 1] += np.where(np.isin(np.arange(1, ITEMS + 1), [4, 6]), 0.0, 1.0)
    assert np.flatnonzero(touched_rows(table)).tolist() == [4, 6]


def test_real_deltas_show_the_items_of_their_users(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Callable[..., Sequences]
) -> None:
    config = tiny(dim=16, local_epochs=8)
    # two users who walk over few of the 24 items
    node = Node("n", toy_catalog, Sequences.from_lists([[1, 2, 3, 4, 5, 6]] * 2), config)
    delta, _ = node.train(initial_params(config, toy_catalog), 1)
    table = delta[ITEM_TABLE]
    seen = np.isin(np.arange(1, 25), [2, 3, 4])
    share = touched_rows(table)[1:]
    assert share[seen].mean() > share[~seen].mean() + 0.5


def test_a_plain_median_freezes_rows_that_few_touch() -> None:
    deltas = [_table({1: 1.0, 5 if n < 2 else 7: 2.0}) for n in range(7)]
    assert median(deltas, _equal(7))[ITEM_TABLE][5].tolist() == [0.0] * DIM
    for rule in (sparse_median, trimmed):
        table = rule(deltas, _equal(7))[ITEM_TABLE]
        assert table[5, 0] == pytest.approx(2.0 * 2 / 7)  # as the mean would have it
        assert table[1, 0] == pytest.approx(1.0)


def test_a_liar_among_those_who_touch_is_outvoted() -> None:
    deltas = [_table({5: 1.0}) for _ in range(4)] + [_table({5: -1e6})] + [_table({6: 1.0})] * 5
    table = sparse_median(deltas, _equal(10))[ITEM_TABLE]
    assert table[5, 0] == pytest.approx(0.5)
    assert trimmed(deltas, _equal(10))[ITEM_TABLE][5, 0] == pytest.approx(0.5)


def test_a_lone_attacker_on_a_cold_item_counts_as_one_of_all(tiny: Tiny) -> None:
    """Nobody can outvote it there; with rows clipped the item moves by a share of a row."""
    deltas = [_table({n % 4 + 1: 1.0}) for n in range(9)] + [_table({11: 500.0})]
    config = tiny(aggregation="sparse-median", clip="rows", clip_row_factor=2.0)
    assert aggregate(deltas, _equal(10), config)[ITEM_TABLE][11, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("rule", [sparse_median, trimmed])
def test_other_arrays_are_aggregated_as_ever(rule: Callable[..., Params]) -> None:
    deltas = [{**_table({1: 1.0}), "bias": np.full(2, v, np.float32)} for v in (1, 2, 90)]
    assert rule(deltas, _equal(3))["bias"].tolist() == [2.0, 2.0]


def test_a_sum_of_all_nodes_is_not_clipped(tiny: Tiny) -> None:
    delta = _table({1: 1.0, 2: 1.0, 3: 1.0, 7: 90.0})
    found = aggregate([delta], np.ones(1), tiny(clip="norm+rows"))
    assert np.array_equal(found[ITEM_TABLE], delta[ITEM_TABLE])


def test_clip_auto_is_off_where_single_deltas_are_hidden_or_sums_must_be_plain() -> None:
    plain = RunConfig(clip="auto")
    assert plain.clipping == "norm+rows"
    assert plain.replace(clip="norm").clipping == "norm"
    assert plain.replace(secure_aggregation=True, min_nodes=3, min_replies=3).clipping == "none"
    noisy = plain.replace(dp="central", dp_noise_multiplier=1.0, weighting="uniform")
    assert noisy.clipping == "none"
