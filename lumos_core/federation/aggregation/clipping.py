"""Clipping: no node moves the model, or one item, much further than the typical node does.

Bounds are computed from medians of the round's own deltas, so that they fit every model, learning
rate and stage of training. Among the nodes that changed anything, fewer than half cannot raise a
bound beyond the values of honest nodes.
"""

from collections.abc import Sequence

import numpy as np

from lumos_core.learning.parameters import OF_ITEMS, Params
from lumos_core.wire.deltas import norm


def clip_norms(deltas: Sequence[Params], factor: float) -> list[Params]:
    """Scale down the deltas whose L2 norm exceeds ``factor`` times the median norm.

    After adaptive clipping (Andrew et al., NeurIPS 2021), but the bound need not be tracked slowly
    over rounds: the norms of all deltas of a round are known.
    """
    norms = np.array([norm(delta) for delta in deltas])
    bound = factor * _typical(norms)
    return [
        {n: a * np.float32(bound / size) for n, a in delta.items()} if size > bound else delta
        for delta, size in zip(deltas, norms, strict=True)
    ]


def clip_rows(deltas: Sequence[Params], factor: float) -> list[Params]:
    """Scale down the rows of the item table, and the values of the item bias, that exceed
    ``factor`` times the typical one.

    The typical row is the median over nodes of the median norm of the rows that the node changed.
    With norm clipping alone a node could put its whole norm, that of a typical row times √N, into
    the row of one item.
    """
    for name in OF_ITEMS:
        if name in deltas[0]:
            deltas = _clip_rows_of(name, deltas, factor)
    return list(deltas)


def _clip_rows_of(name: str, deltas: Sequence[Params], factor: float) -> list[Params]:
    rows = [delta[name].reshape(len(delta[name]), -1) for delta in deltas]  # a bias: [N + 1, 1]
    sizes = [row_norms(array) for array in rows]
    bound = factor * _typical(np.array([typical_row(size) for size in sizes]))
    clipped = []
    for delta, array, size in zip(deltas, rows, sizes, strict=True):
        if (size > bound).any():
            scale = np.where(size > bound, bound / np.maximum(size, bound), 1.0)
            changed = (array * scale[:, None]).astype(np.float32)
            delta = {**delta, name: changed.reshape(delta[name].shape)}
        clipped.append(delta)
    return clipped


def _typical(sizes: np.ndarray) -> float:
    """Median over the nodes that changed anything; the smallest of one or two; 0 if there are none.

    Nodes whose users have no example to learn from send zeros. These do not tell what is typical.
    """
    changed = sizes[sizes > 0]
    return float(changed.min()) if 0 < len(changed) < 3 else typical_row(sizes)


def typical_row(sizes: np.ndarray) -> float:
    """Median norm of the rows that a delta changes, 0 if it changes none.

    Args:
        sizes: float64 [rows], the norms of all its rows; 0 for a row that it does not change.
    """
    changed = sizes[sizes > 0]
    return float(np.median(changed)) if len(changed) else 0.0


def row_norms(table: np.ndarray) -> np.ndarray:
    """L2 norm of every row: float [rows, D] → float64 [rows]; cannot overflow float32."""
    out: np.ndarray = np.sqrt(np.square(table, dtype=np.float64).sum(axis=1))
    return out
