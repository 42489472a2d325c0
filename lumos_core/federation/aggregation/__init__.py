"""Aggregation of valid deltas: pure functions that make one delta of those of all nodes.

First deltas are clipped (:mod:`.clipping`), then a rule makes one of them (:mod:`.rules`,
:mod:`.sparse`). Every function gets deltas in a fixed order (node names sorted), so that the result
is the same to the last bit, in whatever order replies arrive. Begin with :func:`aggregate`.
"""

from collections.abc import Sequence

import numpy as np

from lumos_core import plugins
from lumos_core.config import RunConfig
from lumos_core.federation.aggregation.clipping import clip_norms, clip_rows
from lumos_core.federation.aggregation.rules import (
    Rule,
    mean,
    median,
    median_encoder,
    multi_krum,
    trimmed_mean,
)
from lumos_core.federation.aggregation.sparse import sparse_median, sparse_trimmed_mean
from lumos_core.federation.aggregation.table_rows import (
    SHARE_EXPONENTS,
    mean_table,
    over_movers,
    without_table,
)
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire.messages import Rows

__all__ = [
    "RULES", "Rule", "aggregate", "aggregate_rows", "clip_as_configured", "clip_norms", "clip_rows",
    "mean", "median", "median_encoder", "multi_krum", "rule", "sparse_median",
    "sparse_trimmed_mean", "trimmed_mean",
]  # fmt: skip

RULES: dict[str, Rule] = {
    made.name: made
    for made in (
        Rule("mean", mean, needs_single_deltas=False, averages_table=True),
        Rule("median", median, needs_single_deltas=True),
        Rule("median-encoder", median_encoder, needs_single_deltas=True, averages_table=True),
        Rule("trimmed-mean", trimmed_mean, needs_single_deltas=True),
        Rule("multi-krum", multi_krum, needs_single_deltas=True),
        Rule("sparse-median", sparse_median, needs_single_deltas=True),
        Rule("sparse-trimmed-mean", sparse_trimmed_mean, needs_single_deltas=True),
    )
}


def rule(name: str) -> Rule:
    """The rule of a name: LUMOS's own, or a plug-in's.

    Raises:
        ConfigError: neither has a rule of this name.
    """
    if name in RULES:
        return RULES[name]
    found: Rule = plugins.load("aggregation", name)
    return found


def aggregate(deltas: Sequence[Params], weights: np.ndarray, config: RunConfig) -> Params:
    """Make one delta of many.

    Args:
        deltas: valid ones, in order of their nodes' names; they are not changed.
        weights: float64 [nodes], positive, summing to 1.
        config: ``clip`` and its factors, ``aggregation``, ``row-mean``.

    Returns:
        float32 arrays with the names and shapes of the deltas.
    """
    clipped = clip_as_configured(deltas, config)
    found = rule(config.rule).function(clipped, weights)
    exponent = SHARE_EXPONENTS[config.row_mean]
    if not exponent:
        return found
    tables = [delta[ITEM_TABLE] for delta in clipped]
    return {**found, ITEM_TABLE: over_movers(found[ITEM_TABLE], tables, None, weights, exponent)}


def aggregate_rows(
    deltas: Sequence[Params],
    rows: Sequence[Rows],
    weights: np.ndarray,
    config: RunConfig,
    table_rows: int,
) -> Params:
    """:func:`aggregate` of deltas that have only some rows of the item table, by a rule that
    averages the table. Memory and time grow with these rows, not with the catalog.

    Args:
        deltas: of the item table they have only some rows, at least one; all others are zero.
        rows: the numbers of these rows, for every delta; rising.
        weights: as for :func:`aggregate`.
        config: likewise.
        table_rows: how many rows the item table has.

    Returns:
        Whole arrays, as :func:`aggregate`.
    """
    chosen = rule(config.rule)
    if not chosen.averages_table:
        raise ValueError(f"rule {chosen.name} needs the whole item table")
    clipped = clip_as_configured(deltas, config)
    rest = chosen.function([without_table(delta) for delta in clipped], weights)
    parts = [delta[ITEM_TABLE] for delta in clipped]
    table = mean_table(parts, rows, weights, table_rows)
    if exponent := SHARE_EXPONENTS[config.row_mean]:
        table = over_movers(table, parts, rows, weights, exponent)
    return {name: table if name == ITEM_TABLE else rest[name] for name in deltas[0]}


def clip_as_configured(deltas: Sequence[Params], config: RunConfig) -> Sequence[Params]:
    """Clip the deltas of a round as ``clip`` says.

    Rows come first: otherwise one boosted row would raise the norm of its delta, and clipping the
    norm would scale down all other rows of the node with it. One or two deltas are not clipped, nor
    is the single sum of secure aggregation: they do not tell what is typical.
    """
    if len(deltas) < 3:
        return deltas
    parts = config.clipping.split("+")
    if "rows" in parts:
        deltas = clip_rows(deltas, config.clip_row_factor)
    if "norm" in parts:
        deltas = clip_norms(deltas, config.clip_norm_factor)
    return deltas
