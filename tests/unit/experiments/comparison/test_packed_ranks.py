"""Ranks in a few kilobytes: the metrics that follow from them are those of the ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.experiments.comparison.packed_ranks import (
    CLIP,
    pack_counts,
    pack_ranks,
    unpack_counts,
    unpack_ranks,
)
from lumos_core.learning.metrics import ranking_sums

ranks = st.lists(st.integers(2, 40_000).map(lambda twice: twice / 2), max_size=200)


@given(ranks)
def test_what_is_unpacked_is_what_was_packed_but_for_the_clip(values: list[float]) -> None:
    assert unpack_ranks(pack_ranks(values)).tolist() == [min(v, CLIP) for v in values]


@given(ranks.filter(bool))
def test_no_compared_metric_changes(values: list[float]) -> None:
    before = ranking_sums(np.array(values))
    after = ranking_sums(unpack_ranks(pack_ranks(values)))
    for name in before.keys() - {"mrr"}:
        assert after[name] == before[name]


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_counts_are_packed_too(counts: list[int]) -> None:
    assert unpack_ranks(pack_ranks(counts)).tolist() == [min(c, CLIP) for c in counts]


@given(st.lists(st.integers(0, 100_000), max_size=100))
def test_whole_numbers_are_not_clipped_like_ranks(counts: list[int]) -> None:
    assert unpack_counts(pack_counts(counts)).tolist() == [min(c, 65_535) for c in counts]


def test_it_takes_a_few_kilobytes() -> None:
    """As many users as Office has, ranks as spread as they get."""
    values = np.random.default_rng(0).geometric(0.01, 4905)
    assert len(pack_ranks(values)) < 7_000


@pytest.mark.parametrize("text", ["%", "AAAA", pack_ranks([1, 2, 3])[:-8]])
def test_damage_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_ranks(text)
