"""The nearest titles: equal to a plain sort up to a size, near to it above, in bounded time."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from lumos_core.views.titles import neighbours
from lumos_core.views.titles.embeddings import unit
from lumos_core.views.titles.neighbours import nearest, top_k

RNG = np.random.default_rng(0)


def plainly(scores: Any, k: int) -> Any:
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


@pytest.mark.parametrize("items", [1, 5, 1024, 3000])
@pytest.mark.parametrize("k", [0, 1, 6, 100])
@pytest.mark.parametrize("kinds", [3, 50, 10**6])  # of scores: many ties, few, none
def test_the_best_are_those_of_a_plain_sort_also_among_equals(
    items: int, k: int, kinds: int
) -> None:
    scores = RNG.integers(0, kinds, (7, items)).astype(np.float32)
    scores[RNG.random(scores.shape) < 0.1] = -np.inf
    scores[0] = -np.inf
    scores[1] = 0.0
    np.testing.assert_array_equal(top_k(scores, k), plainly(scores, k))


def clustered(titles: int, kinds: int, spread: float = 0.3) -> Any:
    """Rows of length 1 around some directions."""
    centres = unit(RNG.standard_normal((kinds, 24)).astype(np.float32))
    noise = RNG.standard_normal((titles, 24)).astype(np.float32) * spread / 24**0.5
    return unit(centres[RNG.integers(0, kinds, titles)] + noise)


def compared_with_all(vectors: Any, k: int) -> tuple[Any, Any]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    rows = plainly(scores, k)
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("titles", [1, 4, 1500])
def test_up_to_a_size_all_are_compared(kind: Any, titles: int) -> None:
    vectors = clustered(titles, 9)
    rows, cosines = nearest(kind(vectors), 6)
    expected, values = compared_with_all(vectors, min(6, titles - 1))
    assert rows.shape == (titles, min(6, titles - 1))
    assert (rows == expected).mean() > 0.999 if rows.size else True  # equal but for rounding
    np.testing.assert_allclose(cosines, values, atol=1e-6)


@pytest.fixture
def in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 0)
    monkeypatch.setattr(neighbours, "GROUP", 16)
    monkeypatch.setattr(neighbours, "GROUPS", 19)


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_in_groups_nearly_all_are_found_and_no_other_is_named(kind: Any) -> None:
    vectors = clustered(3000, 200)
    rows, cosines = nearest(kind(vectors), 6)
    expected, values = compared_with_all(vectors, 6)
    found = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(rows, expected, strict=True)])
    assert found > 0.95  # though one title in ten is compared
    assert (cosines <= values + 1e-6).all()
    assert (np.diff(cosines, axis=1) <= 0).all(), "nearest first"
    for row, others in enumerate(rows):
        assert row not in others
        assert len(set(others)) == 6
    near = np.einsum("nkh,nh->nk", vectors[rows], vectors)
    np.testing.assert_allclose(cosines, near, atol=1e-6)
    again, _ = nearest(kind(vectors), 6)
    np.testing.assert_array_equal(rows, again)


@pytest.mark.usefixtures("in_groups")
def test_titles_that_are_all_alike_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    plainly = neighbours.dense

    def noting(product: Any) -> Any:
        nonlocal compared
        compared += product.shape[0] * product.shape[1]
        return plainly(product)

    monkeypatch.setattr(neighbours, "dense", noting)
    vectors = unit(np.ones((4000, 3), dtype=np.float32))
    rows, cosines = nearest(vectors, 6)
    assert compared < 4000 * 2000
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    assert not (rows == np.arange(4000)[:, None]).any()
