"""Crop, mask, reorder: the views of CL4SRec (Xie et al., ICDE 2022) that ConFedSRS trains on.

All three are vectorised over a right-padded batch: int64 [B, T] items and int64 [B] lengths in,
the same out. A masked item becomes index 0 inside the sequence: its position stays, its identity
is gone.
"""

import numpy as np

CROP_SHARE = 0.6
MASK_SHARE = 0.3
REORDER_SHARE = 0.6

Batch = tuple[np.ndarray, np.ndarray]


def crop(items: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Batch:
    """Keep a contiguous stretch of 60 % of each history (at least one item, unless it is empty)."""
    kept = np.maximum((lengths * CROP_SHARE).astype(np.int64), np.minimum(lengths, 1))
    start = _random_start(lengths, kept, rng)
    columns = np.arange(items.shape[1])
    source = np.minimum(start[:, None] + columns, items.shape[1] - 1)
    shifted = np.take_along_axis(items, source, axis=1)
    return np.where(columns < kept[:, None], shifted, 0), kept


def mask(items: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Batch:
    """Hide each item with probability 0.3, but never all of a history."""
    columns = np.arange(items.shape[1])
    hidden = rng.random(items.shape) < MASK_SHARE
    spared = rng.integers(0, np.maximum(lengths, 1))
    hidden &= columns != spared[:, None]
    return np.where(hidden, 0, items), lengths


def reorder(items: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Batch:
    """Shuffle a contiguous stretch of 60 % of each history."""
    size = (lengths * REORDER_SHARE).astype(np.int64)
    start = _random_start(lengths, size, rng)
    columns = np.arange(items.shape[1])
    inside = (columns >= start[:, None]) & (columns < (start + size)[:, None])
    # Sorting keys: outside the stretch a position keeps its own number; inside, it draws a random
    # one between the stretch's ends, so that the stretch is permuted in place.
    drawn = start[:, None] + rng.random(items.shape) * size[:, None]
    keys = np.where(inside, drawn, columns)
    return np.take_along_axis(items, np.argsort(keys, axis=1, kind="stable"), axis=1), lengths


def perturb(items: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> Batch:
    """One random view of each history: crop, mask or reorder, drawn per history."""
    choice = rng.integers(0, 3, size=len(items))[:, None]
    versions = [op(items, lengths, rng) for op in (crop, mask, reorder)]
    out = np.select([choice == i for i in range(3)], [v[0] for v in versions])
    out_lengths = np.select([choice[:, 0] == i for i in range(3)], [v[1] for v in versions])
    return out, out_lengths


def _random_start(lengths: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    starts: np.ndarray = rng.integers(0, lengths - size + 1)
    return starts
