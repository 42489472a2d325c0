"""Deltas: subtracted, applied, measured, clipped."""

import warnings

import numpy as np
import pytest

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import Params
from lumos_core.wire.deltas import add, check_norm, clip, norm, subtract


def _params(seed: int = 0, size: float = 1.0) -> Params:
    rng = np.random.default_rng(seed)
    shapes = {"items.weight": (6, 4), "blocks.0.w": (2, 3, 4), "norm.bias": (4,)}
    return {n: (size * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def test_subtract_and_add_are_inverse() -> None:
    received, local = _params(0), _params(1)
    delta = subtract(local, received)
    assert list(delta) == list(received)
    again = add(received, delta)
    for name in received:
        assert again[name].dtype == delta[name].dtype == np.float32
        np.testing.assert_allclose(again[name], local[name], atol=1e-6)


def test_norm_is_that_of_all_values_together() -> None:
    delta = _params()
    flat = np.concatenate([a.ravel() for a in delta.values()]).astype(np.float64)
    assert norm(delta) == pytest.approx(np.linalg.norm(flat))
    assert norm({}) == 0


def test_norm_does_not_overflow() -> None:
    huge = {"a": np.full((10, 10), 3e38, dtype=np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert norm(huge) == pytest.approx(3e39)


def test_absurd_norms_are_refused() -> None:
    delta = {"a": np.full(4, 3.0, dtype=np.float32)}
    assert check_norm(delta, 6.0) == pytest.approx(6.0)
    with pytest.raises(ReplyError, match=r"norm 6, more than max-delta-norm = 5.9"):
        check_norm(delta, 5.9)
    for bad in (np.nan, np.inf):
        with pytest.raises(ReplyError, match="more than max-delta-norm"):
            check_norm({"a": np.array([bad], dtype=np.float32)}, 1e30)


def test_clipping_shortens_and_keeps_the_direction() -> None:
    delta = _params()
    short = clip(delta, 0.5)
    assert norm(short) == pytest.approx(0.5, rel=1e-5)
    assert norm(short) <= 0.5
    ratio = short["items.weight"] / delta["items.weight"]
    assert np.allclose(ratio, ratio.flat[0])
    assert np.array_equal(clip(delta, 1e6)["items.weight"], delta["items.weight"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clipping_bounds_even_a_diverged_delta(bad: float) -> None:
    delta = _params()
    delta["norm.bias"][1] = bad
    assert norm(clip(delta, 2.0)) <= 2.0
