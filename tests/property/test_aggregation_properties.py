"""Aggregation rules, for all deltas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lumos_core.aggregation import RULES
from lumos_core.model import Params

stacks = st.integers(1, 9).flatmap(
    lambda n: hnp.arrays(np.float32, (n, 2, 3), elements=st.floats(-100, 100, width=32))
)


def _deltas(stack: np.ndarray) -> list[Params]:
    return [{"a": a[0], "b": a[1:]} for a in stack]


@pytest.mark.parametrize("rule", RULES)
@given(stack=stacks, seed=st.integers(0, 2**32 - 1))
def test_every_value_lies_between_those_of_the_nodes(
    rule: str, stack: np.ndarray, seed: int
) -> None:
    weights = np.random.default_rng(seed).random(len(stack)) + 0.01
    found = RULES[rule](_deltas(stack), weights / weights.sum())
    values = np.concatenate([found["a"][None], found["b"]])
    assert (values >= stack.min(axis=0) - 1e-4).all()
    assert (values <= stack.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
@given(stack=stacks, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_nodes_does_not_matter(rule: str, stack: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(len(stack)) + 0.01
    weights /= weights.sum()
    order = rng.permutation(len(stack))
    first = RULES[rule](_deltas(stack), weights)
    second = RULES[rule](_deltas(stack[order]), weights[order])
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5, atol=1e-4)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9))
def test_multi_krum_does_not_depend_on_the_order_either(seed: int, n: int) -> None:
    """Without ties, that is: among equally distant deltas any choice is as good."""
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(n, 2, 3)).astype(np.float32)
    order = rng.permutation(n)
    weights = np.full(n, 1 / n)
    first = RULES["multi-krum"](_deltas(stack), weights)
    second = RULES["multi-krum"](_deltas(stack[order]), weights)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@given(stack=stacks)
def test_rules_follow_a_shift_and_a_scale(rule: str, stack: np.ndarray) -> None:
    if rule == "multi-krum" and len(stack) > 4:
        return  # its choice among ties is free
    weights = np.full(len(stack), 1 / len(stack))
    base = RULES[rule](_deltas(stack), weights)
    moved = RULES[rule](_deltas(stack * np.float32(2) + np.float32(1)), weights)
    for name in base:
        np.testing.assert_allclose(moved[name], base[name] * 2 + 1, rtol=1e-4, atol=1e-3)
