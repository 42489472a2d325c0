"""Padding and batches, for all lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.learning.batching import pad, shuffled_batches, sorted_batches

histories = st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=12)


@given(histories, st.integers(1, 10))
def test_pad_loses_only_what_is_beyond_max_len(rows: list[list[int]], max_len: int) -> None:
    items, lengths = pad([np.array(r, dtype=np.int32) for r in rows], max_len)
    assert len(items) == len(lengths) == len(rows)
    assert items.shape[1] == max([1, *(min(len(r), max_len) for r in rows)])
    for row, padded, length in zip(rows, items.tolist(), lengths.tolist(), strict=True):
        assert padded[:length] == row[-max_len:]
        assert not any(padded[length:])


@given(st.lists(st.integers(0, 60), max_size=200), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_every_user_is_in_exactly_one_batch(lengths: list[int], size: int, seed: int) -> None:
    found = np.array(lengths, dtype=np.int64)
    for batches in (
        list(shuffled_batches(found, size, np.random.default_rng(seed))),
        list(sorted_batches(found, size)),
    ):
        assert all(1 <= len(b) <= size for b in batches)
        assert sorted(u for b in batches for u in b.tolist()) == list(range(len(lengths)))
