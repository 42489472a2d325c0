"""Deltas without the rows that did not move give what the whole ones give."""

from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.config.run_keys import RULES_THAT_AVERAGE_ROWS
from lumos_core.errors import ConfigError
from lumos_core.federation.aggregation import RULES, aggregate, aggregate_rows, mean
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
@pytest.mark.parametrize("over", ["all", "root", "movers"])
def test_aggregation_of_rows_is_that_of_whole_tables(
    nodes: int, clip: Any, rule: str, over: Any
) -> None:
    config = RunConfig(aggregation=rule, clip=clip, row_mean=over)
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


def _movers(*moved: dict[int, float], over: Any = "movers") -> np.ndarray:
    """The first column of the aggregated table of nodes that moved these rows, with ``row-mean =
    OVER``, equal weights and no clipping."""
    deltas = []
    for rows in moved:
        table = np.zeros((ITEMS + 1, DIM), dtype="f4")
        for row, value in rows.items():
            table[row] = value
        deltas.append({ITEM_TABLE: table, "w": np.ones(2, dtype="f4")})
    config = RunConfig(aggregation="mean", clip="none", row_mean=over)
    found = aggregate(deltas, np.full(len(moved), 1 / len(moved)), config)
    np.testing.assert_allclose(found["w"], 1.0, rtol=1e-6)  # all moved it
    return found[ITEM_TABLE][:, 0]


def test_a_row_that_one_node_moved_moves_as_far_as_that_node_found() -> None:
    table = _movers({3: 1.0}, {4: 2.0}, {4: 4.0}, {})
    np.testing.assert_allclose(table[3], 1.0, rtol=1e-6)
    np.testing.assert_allclose(table[4], 3.0, rtol=1e-6)
    assert not np.delete(table, [3, 4]).any()


def test_movers_count_by_their_weights() -> None:
    table = np.zeros((2, ITEMS + 1, DIM), dtype="f4")
    table[0, 5], table[1, 5] = 1.0, 4.0
    deltas = [{ITEM_TABLE: t} for t in (*table, np.zeros_like(table[0]))]
    config = RunConfig(aggregation="mean", clip="none", row_mean="movers")
    found = aggregate(deltas, np.array([0.1, 0.2, 0.7]), config)
    np.testing.assert_allclose(found[ITEM_TABLE][5], (0.1 * 1 + 0.2 * 4) / 0.3, rtol=1e-6)


def test_rows_that_all_nodes_moved_are_averaged_as_ever() -> None:
    rng = np.random.default_rng(0)
    deltas = [{ITEM_TABLE: rng.normal(size=(ITEMS + 1, DIM)).astype("f4")} for _ in range(5)]
    weights = np.full(5, 0.2)
    of_all, of_movers, of_both = (
        aggregate(deltas, weights, RunConfig(aggregation="mean", clip="none", row_mean=over))
        for over in ("all", "movers", "root")
    )
    np.testing.assert_allclose(of_movers[ITEM_TABLE], of_all[ITEM_TABLE], rtol=1e-6)
    np.testing.assert_allclose(of_both[ITEM_TABLE], of_all[ITEM_TABLE], rtol=1e-6)


def test_the_root_is_the_geometric_mean_of_both_means() -> None:
    moved = [{3: 1.0}, {4: 2.0}, {4: 4.0}, {}]
    of_all, of_movers, of_both = (_movers(*moved, over=over) for over in ("all", "movers", "root"))
    np.testing.assert_allclose(of_both, np.sqrt(of_all * of_movers), rtol=1e-6)
    assert of_all[3] < of_both[3] < of_movers[3]


def test_with_the_root_all_rows_are_equally_noisy() -> None:
    """Nodes that add independent noise to 4, 25 or all 100 tables: its variance in the aggregate is
    that of a mean over all of them, for each row."""
    rng = np.random.default_rng(0)
    tables = np.zeros((100, ITEMS + 1, 4_000), dtype="f4")
    movers = {2: 4, 3: 25, 4: 100}
    for row, count in movers.items():
        tables[:count, row] = rng.normal(size=(count, 4_000))
    config = RunConfig(aggregation="mean", clip="none", row_mean="root")
    found = aggregate([{ITEM_TABLE: t} for t in tables], np.full(100, 0.01), config)[ITEM_TABLE]
    np.testing.assert_allclose(found[[*movers]].std(axis=1), 0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"secure-aggregation": True}, "row-mean = movers with secure-aggregation = true"),
        ({"dp": "central", "weighting": "uniform"}, "row-mean = movers with dp = central"),
        ({"aggregation": "median"}, "row-mean = movers with aggregation = median"),
    ],
)
def test_movers_are_refused_where_nobody_can_tell_who_they_are(
    keys: dict[str, Any], message: str
) -> None:
    for over in ("movers", "root"):
        with pytest.raises(ConfigError, match=message.replace("movers", over)):
            RunConfig.from_flat({"row-mean": over, **keys})


def test_the_configuration_knows_the_rules_that_average_rows() -> None:
    assert {name for name, r in RULES.items() if r.averages_table} == {*RULES_THAT_AVERAGE_ROWS}
