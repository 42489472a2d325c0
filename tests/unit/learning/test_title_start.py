"""The start of a run: by seed, or with item embeddings that know the titles."""

from collections.abc import Callable

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params, place_titles, principal_components

Tiny = Callable[..., RunConfig]


def _clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Title vectors in four clusters: float32 [40, 12], int [40]."""
    rng = np.random.default_rng(seed)
    of = np.arange(40) % 4
    return (rng.normal(size=(4, 12))[of] + 0.2 * rng.normal(size=(40, 12))).astype("f4"), of


def _nearest(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


def test_without_titles_the_seed_is_all(tiny: Tiny, toy_catalog: Catalog) -> None:
    config = tiny(semantic_start="none", seed=4)
    found = initial_params(config, toy_catalog)
    expected = get_params(new_model(config, len(toy_catalog)))
    assert list(found) == list(expected)
    assert all(np.array_equal(found[n], expected[n]) for n in found)


def test_components_equal_a_singular_value_decomposition() -> None:
    vectors, _ = _clusters()
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit -= unit.mean(axis=0)
    left, singular, _ = np.linalg.svd(unit, full_matrices=False)
    expected = left * singular * (singular**2 / len(unit)) ** -0.25  # half-way whitened
    found = principal_components(vectors, 5)
    assert found.shape == (40, 5)
    assert found.dtype == np.float32
    for k in range(5):
        same = np.allclose(found[:, k], expected[:, k], atol=1e-4)
        assert same or np.allclose(found[:, k], -expected[:, k], atol=1e-4)


def test_components_are_centred_uncorrelated_and_ordered() -> None:
    vectors, _ = _clusters()
    found = principal_components(vectors, 8).astype(np.float64)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    covariance = found.T @ found
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-5 * covariance.max()
    assert (np.diff(np.diag(covariance)) <= 1e-9).all()


def test_length_and_common_part_of_title_vectors_do_not_matter() -> None:
    vectors, _ = _clusters()
    longer = vectors * np.linspace(0.5, 20, len(vectors), dtype="f4")[:, None]
    found, same = principal_components(vectors, 6), principal_components(longer, 6)
    np.testing.assert_allclose(found, same, atol=1e-4)


def test_more_dimensions_than_the_titles_have_are_zero() -> None:
    vectors, _ = _clusters()
    found = principal_components(vectors[:, :3], 8)
    assert found.shape == (40, 8)
    assert not found[:, 3:].any()
    low_rank = np.outer(vectors[:, 0], np.ones(12)).astype("f4")  # two directions: + and −
    found = principal_components(low_rank, 8)
    assert np.isfinite(found).all()
    assert not found[:, 1:].any()


def test_neighbours_by_title_start_as_neighbours(tiny: Tiny) -> None:
    vectors, of = _clusters()
    params = get_params(new_model(tiny(dim=8), 40))
    place_titles(params, vectors, 0.1)
    assert (of[_nearest(params["items.weight"][1:])] == of).all()


def test_scale_padding_and_the_rest_of_the_model(tiny: Tiny) -> None:
    vectors, _ = _clusters()
    params = get_params(new_model(tiny(dim=8), 40))
    before: Params = {n: a.copy() for n, a in params.items()}
    place_titles(params, vectors, 0.25)
    table = params["items.weight"]
    assert table[1:].std() == pytest.approx(0.25, rel=1e-5)
    assert not table[0].any()
    assert table.dtype == np.float32
    assert all(np.array_equal(a, before[n]) for n, a in params.items() if n != "items.weight")


@pytest.mark.parametrize(
    "vectors", [np.ones((40, 6), "f4"), np.zeros((40, 6), "f4")], ids=["all alike", "all zero"]
)
def test_titles_that_say_nothing_do_not_break_the_model(tiny: Tiny, vectors: np.ndarray) -> None:
    params = get_params(new_model(tiny(dim=8), 40))
    before = params["items.weight"].copy()
    place_titles(params, vectors, 0.1)
    assert np.array_equal(params["items.weight"], before)


def test_the_start_is_the_same_on_every_call(tiny: Tiny, toy_catalog: Catalog) -> None:
    config = tiny(semantic_start="tfidf")
    first, again = initial_params(config, toy_catalog), initial_params(config, toy_catalog)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    plain = initial_params(tiny(semantic_start="none"), toy_catalog)
    assert not np.array_equal(first["items.weight"], plain["items.weight"])
    assert all(np.array_equal(first[n], plain[n]) for n in first if n != "items.weight")
