"""Padding and batches."""

import numpy as np

from lumos_core.learning.batching import CHUNK_BATCHES, pad, shuffled_batches, sorted_batches


def _rows(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int32) for row in lists]


def test_pad_keeps_the_last_items_and_trims_to_the_longest() -> None:
    items, lengths = pad(_rows([1, 2, 3, 4, 5], [6], [7, 8]), max_len=3)
    assert items.tolist() == [[3, 4, 5], [6, 0, 0], [7, 8, 0]]
    assert lengths.tolist() == [3, 1, 2]
    assert items.dtype == lengths.dtype == np.int64
    items, _ = pad(_rows([1, 2], [6]), max_len=50)
    assert items.shape == (2, 2)


def test_pad_of_nothing() -> None:
    items, lengths = pad(_rows([], []), max_len=3)
    assert items.tolist() == [[0], [0]]
    assert lengths.tolist() == [0, 0]
    assert pad([], max_len=3)[0].shape == (0, 1)
    items, lengths = pad(_rows([], [4, 5]), max_len=3)
    assert items.tolist() == [[0, 0], [4, 5]]


def test_shuffled_batches_differ_by_seed_and_epoch_only() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, size=200)

    def epoch(rng: np.random.Generator) -> list[list[int]]:
        return [b.tolist() for b in shuffled_batches(lengths, 16, rng)]

    rng = np.random.default_rng(1)
    first, second = epoch(rng), epoch(rng)
    assert first == epoch(np.random.default_rng(1))
    assert first != second
    assert first != epoch(np.random.default_rng(2))


def test_batches_hold_sequences_of_like_length() -> None:
    """Padding is what this saves: with buckets it must stay small where lengths vary a lot."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 51, size=16 * CHUNK_BATCHES)
    batches = list(shuffled_batches(lengths, 16, rng))
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.1 * lengths.sum()
    longest = [int(lengths[b].max()) for b in batches]
    assert longest != sorted(longest), "short ones first would be a curriculum nobody asked for"


def test_sorted_batches_rise_in_length() -> None:
    lengths = np.array([5, 1, 3, 1, 9])
    batches = [b.tolist() for b in sorted_batches(lengths, 2)]
    assert batches == [[1, 3], [2, 0], [4]]
    assert not list(sorted_batches(np.array([], dtype=np.int64), 2))
