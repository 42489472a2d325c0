"""Aggregation rules, for all deltas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lumos_core.federation.aggregation import RULES, clip_norms, clip_rows
from lumos_core.learning.parameters import Params
from lumos_core.wire.deltas import norm

stacks = st.integers(1, 9).flatmap(
    lambda n: hnp.arrays(np.float32, (n, 4, 3), elements=st.floats(-100, 100, width=32))
)


def _deltas(stack: np.ndarray) -> list[Params]:
    return [{"a": a[0], "items.weight": a[1:]} for a in stack]


@pytest.mark.parametrize("rule", RULES)
@given(stack=stacks, seed=st.integers(0, 2**32 - 1))
def test_every_value_lies_between_those_of_the_nodes(
    rule: str, stack: np.ndarray, seed: int
) -> None:
    weights = np.random.default_rng(seed).random(len(stack)) + 0.01
    found = RULES[rule].function(_deltas(stack), weights / weights.sum())
    values = np.concatenate([found["a"][None], found["items.weight"]])
    assert (values >= stack.min(axis=0) - 1e-4).all()
    assert (values <= stack.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"multi-krum"}))
@given(stack=stacks, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_nodes_does_not_matter(rule: str, stack: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(len(stack)) + 0.01
    weights /= weights.sum()
    order = rng.permutation(len(stack))
    first = RULES[rule].function(_deltas(stack), weights)
    second = RULES[rule].function(_deltas(stack[order]), weights[order])
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5, atol=1e-4)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
def test_multi_krum_does_not_depend_on_the_order_either(seed: int, n: int) -> None:
    """Without ties, that is: among equally distant deltas any choice is as good."""
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(n, 4, 3)).astype(np.float32)
    order = rng.permutation(n)
    weights = np.full(n, 1 / n)
    first = RULES["multi-krum"].function(_deltas(stack), weights)
    second = RULES["multi-krum"].function(_deltas(stack[order]), weights)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
@given(stack=stacks)
def test_rules_follow_a_shift_and_a_scale(rule: str, stack: np.ndarray) -> None:
    weights = np.full(len(stack), 1 / len(stack))
    base = RULES[rule].function(_deltas(stack), weights)
    moved = RULES[rule].function(_deltas(stack * np.float32(2) + np.float32(1)), weights)
    for name in base:
        np.testing.assert_allclose(moved[name], base[name] * 2 + 1, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rule", ["multi-krum", "sparse-median", "sparse-trimmed-mean"])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
def test_rules_that_choose_follow_as_well(rule: str, seed: int, n: int) -> None:
    """Without ties, on which rounding errors would decide."""
    stack = np.random.default_rng(seed).normal(size=(n, 6, 3)).astype(np.float32)
    weights = np.full(n, 1 / n)
    base = RULES[rule].function(_deltas(stack), weights)
    moved = RULES[rule].function(_deltas(stack * np.float32(2) + np.float32(1)), weights)
    for name in base:
        np.testing.assert_allclose(moved[name], base[name] * 2 + 1, rtol=1e-4, atol=1e-4)


lies = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(4), st.just(3)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)  # fmt: skip


@given(lies=lies, extra=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_fewer_than_half_cannot_move_the_median_beyond_the_honest(
    lies: np.ndarray, extra: int, seed: int
) -> None:
    honest = np.random.default_rng(seed).normal(size=(len(lies) + extra, 4, 3)).astype(np.float32)
    stack = np.concatenate([lies, honest])
    found = RULES["median"].function(_deltas(stack), np.full(len(stack), 1 / len(stack)))
    values = np.concatenate([found["a"][None], found["items.weight"]])
    assert (values >= honest.min(axis=0)).all()
    assert (values <= honest.max(axis=0)).all()


@given(lies=lies, extra=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_fewer_than_half_cannot_raise_the_bounds_of_clipping(
    lies: np.ndarray, extra: int, seed: int
) -> None:
    honest = np.random.default_rng(seed).normal(size=(len(lies) + extra, 4, 3)).astype(np.float32)
    alone, together = _deltas(honest), _deltas(np.concatenate([lies, honest]))
    largest = max(norm(d) for d in alone)
    assert all(norm(d) <= 1.5 * largest * 1.001 for d in clip_norms(together, 1.5))
    rows = np.linalg.norm(honest[:, 1:], axis=2).max()
    for delta in clip_rows(together, 2.0):
        assert (np.linalg.norm(delta["items.weight"], axis=1) <= 2 * rows * 1.001).all()


@given(stack=stacks, factor=st.floats(0.5, 3.0))
def test_clipping_shortens_and_never_turns(stack: np.ndarray, factor: float) -> None:
    deltas = _deltas(stack)
    for before, after in zip(deltas, clip_norms(deltas, factor), strict=True):
        size = norm(before)
        if size > 0:
            share = norm(after) / size
            assert share <= 1.0001
            np.testing.assert_allclose(after["a"], before["a"] * share, rtol=1e-3, atol=1e-3)
    for before, after in zip(deltas, clip_rows(deltas, factor), strict=True):
        old, new = before["items.weight"], after["items.weight"]
        assert (np.abs(new) <= np.abs(old)).all()
        assert (new * old >= 0).all()
        assert after["a"] is before["a"]
