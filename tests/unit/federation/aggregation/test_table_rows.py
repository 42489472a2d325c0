"""Deltas without the rows that did not move give what the whole ones give."""

from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.federation.aggregation import aggregate, aggregate_rows, mean
from lumos_core.federation.aggregation.table_rows import mean_table
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, Params, with_all_rows

ITEMS, DIM = 30, 4


def _deltas(nodes: int, seed: int = 0) -> tuple[list[Params], list[np.ndarray]]:
    """Each moves one to six rows; one node moves much further than the others."""
    rng = np.random.default_rng(seed)
    deltas, rows = [], []
    for node in range(nodes):
        met = np.sort(rng.choice(np.arange(1, ITEMS + 1), rng.integers(1, 7), replace=False))
        scale = 50.0 if node == 1 else 1.0
        deltas.append(
            {
                ITEM_BIAS: (scale * rng.normal(size=ITEMS + 1)).astype("f4"),
                ITEM_TABLE: (scale * rng.normal(size=(len(met), DIM))).astype("f4"),
                "blocks.0.w": (scale * rng.normal(size=(DIM, DIM))).astype("f4"),
            }
        )
        rows.append(met)
    return deltas, rows


def _whole(deltas: list[Params], rows: list[np.ndarray]) -> list[Params]:
    return [
        {**delta, ITEM_TABLE: with_all_rows(delta[ITEM_TABLE], numbers, ITEMS + 1)}
        for delta, numbers in zip(deltas, rows, strict=True)
    ]


@pytest.mark.parametrize("nodes", [1, 2, 7])
@pytest.mark.parametrize("clip", ["none", "rows", "norm", "norm+rows"])
@pytest.mark.parametrize("rule", ["mean", "median-encoder"])
def test_aggregation_of_rows_is_that_of_whole_tables(nodes: int, clip: Any, rule: str) -> None:
    config = RunConfig(aggregation=rule, clip=clip)
    deltas, rows = _deltas(nodes)
    weights = np.random.default_rng(1).random(nodes)
    weights /= weights.sum()
    expected = aggregate(_whole(deltas, rows), weights, config)
    found = aggregate_rows(deltas, rows, weights, config, ITEMS + 1)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
        assert array.any()


def test_a_mean_of_rows_is_that_of_whole_tables_to_the_bit() -> None:
    deltas, rows = _deltas(9)
    weights = np.full(9, 1 / 9)
    found = mean_table([delta[ITEM_TABLE] for delta in deltas], rows, weights, ITEMS + 1)
    expected = mean(_whole(deltas, rows), weights)[ITEM_TABLE]
    np.testing.assert_array_equal(found, expected)


def test_a_rule_that_looks_at_all_rows_is_refused() -> None:
    deltas, rows = _deltas(3)
    with pytest.raises(ValueError, match="median needs the whole item table"):
        aggregate_rows(deltas, rows, np.full(3, 1 / 3), RunConfig(aggregation="median"), ITEMS + 1)
