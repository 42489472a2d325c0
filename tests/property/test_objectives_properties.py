"""Objectives: symmetries and bounds, for all inputs."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lumos_core.learning import objectives

temperatures = st.floats(0.05, 2.0)


def _matrices(count: int) -> st.SearchStrategy[list[torch.Tensor]]:
    values = st.floats(-10, 10, width=32)
    return st.tuples(st.integers(1, 4), st.integers(2, 5)).flatmap(
        lambda shape: st.lists(
            hnp.arrays(np.float64, shape, elements=values).map(torch.from_numpy),
            min_size=count,
            max_size=count,
        )
    )


@given(_matrices(4), temperatures)
def test_tri_view_is_never_below_its_bound(views: list[torch.Tensor], tau: float) -> None:
    loss = float(objectives.tri_view(*views, tau))
    assert loss >= 2 * math.log(2) - 1e-9
    assert math.isfinite(loss)


@given(_matrices(4), temperatures, st.integers(0, 2**32 - 1))
def test_losses_do_not_depend_on_the_order_of_users(
    views: list[torch.Tensor], tau: float, seed: int
) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(views[0])))
    shuffled = [v[order] for v in views]
    assert math.isclose(
        float(objectives.tri_view(*views, tau)),
        float(objectives.tri_view(*shuffled, tau)),
        rel_tol=1e-9,
    )
    assert math.isclose(
        float(objectives.two_view(views[0], views[1], tau)),
        float(objectives.two_view(shuffled[0], shuffled[1], tau)),
        rel_tol=1e-9,
        abs_tol=1e-9,
    )


@given(_matrices(3), temperatures)
def test_views_are_interchangeable_where_they_should_be(
    views: list[torch.Tensor], tau: float
) -> None:
    """Future and paraphrase play the same part in the loss; so do the two perturbations."""
    h, a, b = views
    for counterfactual in (None, h.flip(-1)):
        assert math.isclose(
            float(objectives.tri_view(h, a, b, counterfactual, tau)),
            float(objectives.tri_view(h, b, a, counterfactual, tau)),
            rel_tol=1e-9,
        )
    assert math.isclose(
        float(objectives.two_view(a, b, tau)),
        float(objectives.two_view(b, a, tau)),
        rel_tol=1e-9,
        abs_tol=1e-9,
    )


@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(-5, 5)),
    hnp.arrays(np.float64, (7, 4), elements=st.floats(-5, 5)),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
)
def test_next_item_losses_are_finite_and_not_negative(
    hidden: np.ndarray, table: np.ndarray, targets: list[int], negatives: list[int]
) -> None:
    h, t, y = torch.from_numpy(hidden), torch.from_numpy(table), torch.tensor(targets)
    for loss in (
        objectives.full_softmax(h, y, t),
        objectives.sampled_softmax(h, y, t, torch.tensor(negatives)),
    ):
        assert 0 <= float(loss) < 1e4
