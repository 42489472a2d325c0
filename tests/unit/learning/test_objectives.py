"""Objectives against slow loops in float64, and the bounds they must keep."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lumos_core.learning import objectives

N, D = 11, 6


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _targets(m: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, N + 1, size=m))


def _cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


# ---------------------------------------------------------------- next item
def test_full_softmax_equals_loop() -> None:
    hidden, table, targets = _normal(7, D), _normal(N + 1, D, seed=2), _targets(7)
    total = 0.0
    for h, target in zip(hidden, targets.tolist(), strict=True):
        scores = {j: float(h @ table[j]) for j in range(1, N + 1)}
        total -= scores[target] - math.log(sum(math.exp(s) for s in scores.values()))
    assert float(objectives.full_softmax(hidden, targets, table)) == pytest.approx(total / 7)


def test_a_bias_is_a_further_coordinate() -> None:
    """Of the item's embedding, where the state has a 1; its value at the padding row is ignored."""
    hidden, table, targets = _normal(7, D), _normal(N + 1, D, seed=2), _targets(7)
    bias = _normal(N + 1, seed=3)
    wider = torch.cat([hidden, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    longer = torch.cat([table, bias[:, None]], dim=1)
    negatives = torch.tensor([3, 3, 5, 1, 2, 9])
    for found, expected in (
        (
            objectives.full_softmax(hidden, targets, table, bias=bias),
            objectives.full_softmax(wider, targets, longer),
        ),
        (
            objectives.sampled_softmax(hidden, targets, table, negatives, bias=bias),
            objectives.sampled_softmax(wider, targets, longer, negatives),
        ),
    ):
        assert float(found) == pytest.approx(float(expected))
    moved = bias.clone()
    moved[0] = 1e6
    assert torch.equal(
        objectives.full_softmax(hidden, targets, table, bias=bias),
        objectives.full_softmax(hidden, targets, table, bias=moved),
    )


def test_full_softmax_ignores_the_padding_row() -> None:
    hidden, table, targets = _normal(7, D), _normal(N + 1, D, seed=2), _targets(7)
    before = objectives.full_softmax(hidden, targets, table)
    table[0] = 1e6
    assert torch.equal(objectives.full_softmax(hidden, targets, table), before)


def test_sampled_softmax_equals_loop_with_correction_and_hits() -> None:
    hidden, table = _normal(5, D), _normal(N + 1, D, seed=2)
    targets = torch.tensor([3, 1, 3, 7, 11])
    negatives = torch.tensor([3, 3, 5, 1, 2, 9])  # hits for items 3 (twice) and 1
    total = 0.0
    for h, target in zip(hidden, targets.tolist(), strict=True):
        own = float(h @ table[target])
        z = math.exp(own)
        for j in negatives.tolist():
            if j != target:
                z += math.exp(float(h @ table[j])) * N / len(negatives)
        total += math.log(z) - own
    found = objectives.sampled_softmax(hidden, targets, table, negatives)
    assert float(found) == pytest.approx(total / 5)


def test_sampled_softmax_with_hits_only_is_zero() -> None:
    hidden, table = _normal(2, D), _normal(N + 1, D, seed=2)
    loss = objectives.sampled_softmax(hidden, torch.tensor([4, 4]), table, torch.tensor([4, 4, 4]))
    assert float(loss) == pytest.approx(0.0, abs=1e-12)


def test_sampled_softmax_with_every_item_once_is_the_full_one() -> None:
    hidden, table, targets = _normal(7, D), _normal(N + 1, D, seed=2), _targets(7)
    every = torch.arange(1, N + 1)
    assert float(objectives.sampled_softmax(hidden, targets, table, every)) == pytest.approx(
        float(objectives.full_softmax(hidden, targets, table))
    )


def test_sampled_denominator_is_unbiased() -> None:
    """exp(loss) = Z / e^{s(target)}: its mean over many draws must be that of the full softmax."""
    rng = np.random.default_rng(0)
    hidden, table = 0.7 * _normal(1, D), _normal(N + 1, D, seed=2)
    target = torch.tensor([5])
    full = math.exp(float(objectives.full_softmax(hidden, target, table)))
    draws = np.array(
        [
            math.exp(float(objectives.sampled_softmax(hidden, target, table, torch.from_numpy(n))))
            for n in rng.integers(1, N + 1, size=(4000, 4))
        ]
    )
    error = draws.std() / math.sqrt(len(draws))
    assert error < 0.05 * full  # otherwise the next line says nothing
    assert abs(draws.mean() - full) < 4 * error


def test_next_item_losses_have_the_gradient_of_their_value() -> None:
    hidden = _normal(3, D).requires_grad_()
    table = _normal(N + 1, D, seed=2).requires_grad_()
    targets, negatives = torch.tensor([3, 1, 3]), torch.tensor([3, 5, 1, 9])

    def full(h: Tensor, t: Tensor) -> Tensor:
        return objectives.full_softmax(h, targets, t)

    def sampled(h: Tensor, t: Tensor) -> Tensor:
        return objectives.sampled_softmax(h, targets, t, negatives)

    assert torch.autograd.gradcheck(full, (hidden, table))
    assert torch.autograd.gradcheck(sampled, (hidden, table))


# ---------------------------------------------------------------- tri-view
def _tri_view_loop(
    anchor: Tensor, future: Tensor | None, para: Tensor | None, counter: Tensor | None, tau: float
) -> float:
    b = len(anchor)
    positives = [view for view in (future, para) if view is not None]
    total = 0.0
    for u in range(b):
        z = 0.0
        for view in positives:
            for other in range(b):
                z += math.exp(_cosine(anchor[u], view[other]) / tau)
        if counter is not None:
            z += math.exp(_cosine(anchor[u], counter[u]) / tau)
        for view in positives:
            total -= math.log(math.exp(_cosine(anchor[u], view[u]) / tau) / z)
    return total / b


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("tau", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("given", ["fpc", "fp", "fc", "pc", "f", "p"], ids=lambda g: f"views={g}")
def test_tri_view_equals_loop(batch: int, tau: float, given: str) -> None:
    anchor = _normal(batch, D)
    views = {name: _normal(batch, D, seed=i) for i, name in enumerate("fpc", start=5)}
    chosen = [views[name] if name in given else None for name in "fpc"]
    found = objectives.tri_view(anchor, *chosen, tau)
    assert float(found) == pytest.approx(_tri_view_loop(anchor, *chosen, tau))


@pytest.mark.parametrize("counterfactual", [None, _normal(2, D)])
def test_tri_view_needs_a_positive(counterfactual: Tensor | None) -> None:
    with pytest.raises(ValueError, match="needs a future or a paraphrase"):
        objectives.tri_view(_normal(2, D), None, None, counterfactual, 0.2)


def test_tri_view_of_one_user_is_at_least_twice_log_two() -> None:
    """Each positive sits in the other's denominator; equality when the negative is far away."""
    for seed in range(200):
        views = [_normal(1, D, seed=seed * 10 + i) for i in range(4)]
        loss = objectives.tri_view(views[0], views[1], views[2], views[3], 0.2)
        assert float(loss) >= 2 * math.log(2) - 1e-12
    h = _normal(1, D)
    best = objectives.tri_view(h, 3 * h, 0.5 * h, -h, 0.07)
    assert float(best) == pytest.approx(2 * math.log(2), abs=1e-9)


def test_tri_view_pulls_to_positives_and_pushes_the_counterfactual_away() -> None:
    anchor = _normal(3, D).requires_grad_()
    views = [_normal(3, D, seed=s) for s in (5, 6, 7)]
    (gradient,) = torch.autograd.grad(objectives.tri_view(anchor, *views, 0.2), anchor)
    moved = anchor.detach() - 1e-3 * gradient

    def similarity(h: Tensor, v: Tensor) -> float:
        return float(torch.cosine_similarity(h, v).sum())

    pulled = sum(similarity(moved, v) - similarity(anchor.detach(), v) for v in views[:2])
    pushed = similarity(moved, views[2]) - similarity(anchor.detach(), views[2])
    assert pulled > 0
    assert pulled > pushed


def test_tri_view_gradient_and_scale_invariance() -> None:
    inputs = [_normal(2, D, seed=s).requires_grad_() for s in range(4)]

    def loss(*views: Tensor) -> Tensor:
        return objectives.tri_view(*views, 0.5)

    assert torch.autograd.gradcheck(loss, tuple(inputs))
    views = [v.detach() for v in inputs]
    scaled = [v * (i + 2) for i, v in enumerate(views)]
    assert float(loss(*scaled)) == pytest.approx(float(loss(*views)))


# ---------------------------------------------------------------- two-view
@pytest.mark.parametrize("batch", [2, 3, 6])
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_two_view_equals_loop(batch: int, tau: float) -> None:
    first, second = _normal(batch, D), _normal(batch, D, seed=9)
    views = [*first, *second]
    total = 0.0
    for i, view in enumerate(views):
        partner = (i + batch) % (2 * batch)
        others = [math.exp(_cosine(view, v) / tau) for j, v in enumerate(views) if j != i]
        total -= math.log(math.exp(_cosine(view, views[partner]) / tau) / sum(others))
    found = objectives.two_view(first, second, tau)
    assert float(found) == pytest.approx(total / (2 * batch))


def test_two_view_of_a_single_user_is_zero_with_a_finite_gradient() -> None:
    first = _normal(1, D).requires_grad_()
    loss = objectives.two_view(first, _normal(1, D, seed=9), 0.2)
    (gradient,) = torch.autograd.grad(loss, first)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) < 1e-9


def test_two_view_gradient() -> None:
    inputs = (_normal(3, D).requires_grad_(), _normal(3, D, seed=9).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: objectives.two_view(a, b, 0.5), inputs)


@pytest.mark.parametrize(
    "loss",
    [
        lambda v: objectives.tri_view(v, v.roll(1, 0), v.roll(2, 0), v.flip(0), 0.07),
        lambda v: objectives.two_view(v, v.roll(1, 0), 0.07),
    ],
    ids=["tri_view", "two_view"],
)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e18])
def test_contrast_stays_finite_at_extreme_norms(
    loss: Callable[[Tensor], Tensor], size: float
) -> None:
    """A collapsed or exploded encoder must not turn the model into NaN."""
    v = (_normal(4, D).float() * size).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(v), v)
    assert math.isfinite(float(loss(v).detach()))
    assert bool(torch.isfinite(gradient).all())
