"""Crop, mask, reorder: what they may and may not change."""

from collections.abc import Callable

import numpy as np
import pytest

from lumos_core.learning.batching import pad
from lumos_core.learning.perturbation import Batch, crop, mask, perturb, reorder

Operation = Callable[[np.ndarray, np.ndarray, np.random.Generator], Batch]


def _batch(seed: int = 0, users: int = 300, longest: int = 20) -> Batch:
    """Histories of distinct items, so that positions can be told apart; lengths from 1."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([np.arange(1, longest + 1), rng.integers(1, longest + 1, size=users)])
    return pad([rng.permutation(100)[:n] + 1 for n in lengths], longest)


def _rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.mark.parametrize("operation", [crop, mask, reorder, perturb])
def test_rows_stay_right_padded_and_inputs_whole(operation: Operation) -> None:
    items, lengths = _batch()
    before = items.copy(), lengths.copy()
    out, out_lengths = operation(items, lengths, _rng())
    assert np.array_equal(items, before[0])
    assert np.array_equal(lengths, before[1])
    assert out.shape == items.shape
    assert out.dtype == out_lengths.dtype == np.int64
    assert (out_lengths >= 1).all()
    assert (out_lengths <= lengths).all()
    columns = np.arange(items.shape[1])
    assert not out[columns >= out_lengths[:, None]].any()
    for row, source in zip(out, items, strict=True):
        assert set(row[row > 0]) <= set(source[source > 0]), "no foreign items"
        assert (row > 0).any(), "a view of nothing has no meaning"


def test_crop_keeps_a_contiguous_stretch() -> None:
    items, lengths = _batch()
    out, kept = crop(items, lengths, _rng())
    starts = set()
    for row, n, source, length in zip(out, kept, items, lengths, strict=True):
        assert n == max(int(length * 0.6), 1)
        start = source.tolist().index(row[0])
        assert row[:n].tolist() == source[start : start + n].tolist()
        starts.add((int(length), start))
    assert {s for length, s in starts if length == 20} > {0, 8}, "from the start to the end"


def test_mask_hides_about_a_third_in_place() -> None:
    items, lengths = _batch(users=3000)
    out, same = mask(items, lengths, _rng())
    assert np.array_equal(same, lengths)
    real = items > 0
    hidden = real & (out == 0)
    assert np.array_equal(out[real & ~hidden], items[real & ~hidden])
    long = lengths >= 10
    share = hidden[long].sum() / real[long].sum()
    assert 0.25 < share < 0.31  # .3, less the one that is spared
    assert np.array_equal(out[lengths == 1], items[lengths == 1])


def test_reorder_permutes_one_stretch() -> None:
    items, lengths = _batch()
    out, same = reorder(items, lengths, _rng())
    assert np.array_equal(same, lengths)
    moved = 0
    for row, source, length in zip(out, items, lengths, strict=True):
        assert sorted(row[:length]) == sorted(source[:length])
        places = np.flatnonzero(row != source)
        if len(places):
            assert places[-1] - places[0] < int(length * 0.6)
            moved += 1
    assert moved > 0.8 * (lengths >= 5).sum()


def test_reorder_is_uniform_over_permutations() -> None:
    """Five items: stretches of three, at three places, in six orders each."""
    items, lengths = pad([np.arange(1, 6)] * 6000, 5)
    out, _ = reorder(items, lengths, _rng())
    at_start = out[(out[:, 3] == 4) & (out[:, 4] == 5)]
    orders, counts = np.unique(at_start[:, :3], axis=0, return_counts=True)
    changed = counts[1:]  # the identity can come from the other places as well
    assert len(orders) == 6
    assert changed.min() > 0.4 * changed.max()


def test_perturb_uses_all_three_and_only_them() -> None:
    items, lengths = _batch(users=600, longest=20)
    out, out_lengths = perturb(items, lengths, _rng())
    long = lengths >= 10
    cropped = (out_lengths < lengths)[long]
    masked = (out_lengths == lengths)[long] & ((out == 0) & (items > 0)).any(axis=1)[long]
    rest = ~cropped & ~masked
    for kind in (cropped, masked, rest):
        assert 0.25 < kind.mean() < 0.42
    sources = items[long][rest]
    views = out[long][rest]
    assert all(sorted(v) == sorted(s) for v, s in zip(views, sources, strict=True))


@pytest.mark.parametrize("operation", [crop, mask, reorder, perturb])
def test_the_generator_determines_the_view(operation: Operation) -> None:
    items, lengths = _batch()
    first, again = operation(items, lengths, _rng()), operation(items, lengths, _rng())
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = operation(items, lengths, np.random.default_rng(5))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("operation", [crop, mask, reorder, perturb])
def test_a_history_of_nothing_is_no_error(operation: Operation) -> None:
    items, lengths = pad([np.array([], dtype=np.int64), np.arange(1, 4)], 5)
    out, out_lengths = operation(items, lengths, _rng())
    assert not out[0].any()
    assert out_lengths[1] >= 1
