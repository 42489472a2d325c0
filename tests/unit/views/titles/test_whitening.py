"""Half-whitening, and that both who use it get the very numbers of its formula."""

import numpy as np
import pytest

from lumos_core.learning.title_start import principal_components
from lumos_core.views.titles.embeddings import half_whiten, unit
from lumos_core.views.titles.whitening import half_whitened


def _vectors(rows: int = 60, rank: int = 12, seed: int = 0) -> np.ndarray:
    """float32 [rows, 12] of a given rank, with spreads of several sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, rank)) * np.geomspace(8, 0.5, rank)
    return (mixed @ rng.normal(size=(rank, 12))).astype(np.float32)


def _centred(vectors: np.ndarray) -> np.ndarray:
    out: np.ndarray = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return out


def _start_by_formula(vectors: np.ndarray, dim: int) -> np.ndarray:
    """What models start from: spelled out, projected on all directions, weighted afterwards."""
    x = vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x -= x.mean(axis=0)
    variances, axes = np.linalg.eigh(x.T @ x / len(x))
    variances, axes = variances[::-1][:dim], axes[:, ::-1][:, :dim]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    kept = variances > max(variances[0] * 1e-9, 1e-9)
    weight = np.where(kept, np.maximum(variances, 1e-300) ** -0.25, 0.0)
    out = np.zeros((len(x), dim), dtype=np.float32)
    out[:, : len(weight)] = x @ axes * weight
    return out


def _embeddings_by_formula(states: np.ndarray, dim: int) -> np.ndarray:
    """What is cached and ships: spelled out."""
    centred = _centred(states)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    kept = np.flatnonzero(values > 1e-6 * max(values[-1], 1e-12))[::-1][:dim]
    return unit((centred @ vectors[:, kept] / values[kept] ** 0.25).astype(np.float32))


@pytest.mark.parametrize("rank", [12, 3])
@pytest.mark.parametrize("dim", [5, 12, 20])
def test_models_start_from_the_numbers_of_the_formula(rank: int, dim: int) -> None:
    vectors = _vectors(rank=rank)
    assert np.array_equal(principal_components(vectors, dim), _start_by_formula(vectors, dim))


@pytest.mark.parametrize("rank", [12, 3])
@pytest.mark.parametrize("dim", [5, 12, 20])
def test_embeddings_are_the_numbers_of_the_formula(rank: int, dim: int) -> None:
    states = _vectors(rank=rank)
    assert np.array_equal(half_whiten(states, dim), _embeddings_by_formula(states, dim))


def test_spreads_keep_their_order_and_get_their_square_root() -> None:
    centred = _centred(_vectors())
    scatter = centred.T @ centred
    found = half_whitened(centred, scatter, 12, negligible=1e-9, least=1e-12)
    spreads = np.linalg.eigvalsh(scatter)[::-1]
    np.testing.assert_allclose(found.T @ found, np.diag(np.sqrt(spreads)), atol=1e-6 * spreads[0])


def test_fixed_signs_do_not_depend_on_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    centred = _centred(_vectors())
    scatter = centred.T @ centred
    fixed = half_whitened(centred, scatter, 5, negligible=1e-9, least=1e-12, fixed_signs=True)
    spreads, axes = np.linalg.eigh(scatter)
    monkeypatch.setattr(np.linalg, "eigh", lambda _: (spreads, -axes))
    again = half_whitened(centred, scatter, 5, negligible=1e-9, least=1e-12, fixed_signs=True)
    free = half_whitened(centred, scatter, 5, negligible=1e-9, least=1e-12)
    assert np.array_equal(again, fixed)
    assert not np.array_equal(free, fixed)
    np.testing.assert_array_equal(np.abs(free), np.abs(fixed))


def test_negligible_directions_are_left_out() -> None:
    centred = _centred(_vectors(rank=3))
    scatter = centred.T @ centred
    assert half_whitened(centred, scatter, 12, negligible=1e-9, least=1e-12).shape == (60, 3)
    assert half_whitened(centred, scatter, 2, negligible=1e-9, least=1e-12).shape == (60, 2)
    assert half_whitened(centred, scatter, 12, negligible=1.0, least=1e-12).shape == (60, 0)
    assert half_whitened(centred, scatter, 12, negligible=1e-9, least=1e30).shape == (60, 0)


def test_rows_that_are_all_alike_have_no_direction() -> None:
    centred = np.zeros((4, 3))
    for fixed in (False, True):
        found = half_whitened(
            centred, centred.T @ centred, 2, negligible=1e-6, least=1e-12, fixed_signs=fixed
        )
        assert found.shape == (4, 0)
