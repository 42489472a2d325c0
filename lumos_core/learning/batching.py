"""Batches of sequences: of similar length, trimmed to the longest, padded on the right."""

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK_BATCHES = 32
"""Users are shuffled first and sorted by length inside chunks of this many batches, so that batches
hold sequences of similar length and still differ from epoch to epoch."""


def pad(sequences: Sequence[np.ndarray], max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad the last ``max_len`` items of each sequence to the longest of them.

    Returns:
        int64 [B, T] items (0 = padding) and int64 [B] lengths; T ≥ 1.
    """
    lengths = np.array([min(len(s), max_len) for s in sequences], dtype=np.int64)
    width = max(int(lengths.max(initial=0)), 1)
    filled = np.arange(width) < lengths[:, None]
    out = np.zeros((len(sequences), width), dtype=np.int64)
    if filled.any():
        out[filled] = np.concatenate(
            [s[len(s) - n :] for s, n in zip(sequences, lengths, strict=True)]
        )
    return out, lengths


def shuffled_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of one epoch's batches, each of sequences of similar length, in random order.

    Args:
        lengths: int [U], number of items of each sequence.
        batch_size: sequences per batch; the last one may be smaller.
        rng: determines the order.
    """
    order = rng.permutation(len(lengths))
    chunk = batch_size * CHUNK_BATCHES
    batches = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]


def sorted_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of batches in order of length, for evaluation: this needs the least padding."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
