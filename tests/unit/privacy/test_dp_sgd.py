"""DP-SGD over users: every user's part is bounded, whatever they did."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.learning.adam import Adam
from lumos_core.learning.model import SASRec, new_model
from lumos_core.learning.training import Trainer, TrainingSet, TrainSums
from lumos_core.privacy.budget import private_steps
from lumos_core.privacy.dp_sgd import PrivateTrainer
from lumos_core.privacy.noise import Entropy
from lumos_core.views.view import UserViews

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
ITEMS = 24
KEY = bytes(32)


def _views(train: Sequences) -> dict[int, UserViews]:
    rng = np.random.default_rng(0)

    def some(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, ITEMS + 1, size=n).tolist())

    return {u: UserViews(some(3), some(len(train[u])), some(4)) for u in range(0, len(train), 2)}


def _trainer(config: RunConfig, users: Sequences, **options: Any) -> PrivateTrainer:
    train = LeaveOneOut(users).train()
    data = TrainingSet.build(train, config.max_len, _views(train))
    entropy = options.get("entropy", Entropy(KEY))
    return PrivateTrainer(new_model(config, ITEMS), data, config, (1, 2), entropy)


def _params(model: SASRec) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("method", ["fedavg", "lumos"])
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_a_users_gradient_is_that_of_a_batch_of_this_user_alone(
    tiny: Tiny,
    toy_users: Users,
    method: str,
    loss: str,
    bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All users at once give what the ordinary trainer computes for each alone."""
    config = tiny(
        method=method, loss=loss, dp="user", dropout=0.0, contrastive_weight=0.3, layers=2,
        view_target_weight=0.4, num_negatives=30, grad_clip=1e9,
        item_bias="learned" if bias else "none",
    )  # fmt: skip
    private = _trainer(config, toy_users(6))
    drawn = np.arange(1, ITEMS + 1).repeat(2)[:30]
    negatives = torch.from_numpy(drawn) if loss == "sampled" else None
    gradients = private.user_gradients(_params(private.model), np.arange(6), negatives)

    class Fixed:
        def integers(self, low: int, high: int, size: int) -> np.ndarray:
            return drawn

    for user in range(6):
        model = new_model(config, ITEMS)
        plain = Trainer(model, private.data, config, (0,))
        monkeypatch.setattr(plain, "_optimizers", [torch.optim.SGD(model.parameters(), lr=0.0)])
        plain._step(np.array([user]), Fixed(), TrainSums())  # type: ignore[arg-type]
        for name, parameter in model.named_parameters():
            if parameter.grad is None:  # a lone user with a single item and no views
                assert not gradients[name][user].any()
            else:
                torch.testing.assert_close(
                    gradients[name][user], parameter.grad, rtol=1e-3, atol=5e-5
                )


def test_no_user_adds_more_than_the_clip(tiny: Tiny, toy_users: Users) -> None:
    config = tiny(dp="user", dp_clip=0.01, dropout=0.3, batch_size=4)
    trainer = _trainer(config, toy_users(10))
    for user in range(10):
        alone = trainer.clipped_sum(np.array([user]))
        length = torch.stack([g.double().square().sum() for g in alone.values()]).sum().sqrt()
        assert length <= 0.01 * (1 + 1e-5)
    assert float(length) > 0


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_taking_a_user_away_moves_the_sum_by_the_clip_at_most(
    tiny: Tiny, toy_users: Users, loss: str
) -> None:
    """Whatever the place of the user in the batch, and however many batches a step has."""
    config = tiny(dp="user", dp_clip=0.01, dropout=0.3, batch_size=4, loss=loss, num_negatives=9)
    trainer = _trainer(config, toy_users(9))  # three batches, or two without one of them
    trainer.model.train()
    negatives = trainer.draw_negatives()
    whole = trainer.clipped_sum(np.arange(9), negatives)
    for user in range(9):
        rest = trainer.clipped_sum(np.delete(np.arange(9), user), negatives)
        moved = torch.stack([(whole[n] - rest[n]).double().square().sum() for n in whole]).sum()
        assert 0 < moved.sqrt() <= 0.01 * (1 + 1e-4)


def test_a_steps_negatives_are_drawn_once(
    tiny: Tiny, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(dp="user", loss="sampled", batch_size=2, num_negatives=9)
    trainer = _trainer(config, toy_users(6))
    seen: list[torch.Tensor | None] = []
    gradients = trainer.user_gradients

    def watch(params: Any, users: Any, negatives: torch.Tensor | None) -> Any:
        seen.append(negatives)
        return gradients(params, users, negatives)

    monkeypatch.setattr(trainer, "user_gradients", watch)
    trainer.clipped_sum(np.arange(6), trainer.draw_negatives())
    assert len(seen) == 3
    assert all(negatives is seen[0] and negatives is not None for negatives in seen)


def test_the_sum_over_users_does_not_depend_on_how_they_are_cut_up(
    tiny: Tiny, toy_users: Users
) -> None:
    config = tiny(dp="user", dp_clip=0.5, dropout=0.0)
    users = toy_users(10)
    whole = _trainer(config.replace(batch_size=10), users).clipped_sum(np.arange(10))
    parts = _trainer(config.replace(batch_size=3), users).clipped_sum(np.arange(10))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_a_diverged_model_adds_nothing(tiny: Tiny, toy_users: Users) -> None:
    trainer = _trainer(tiny(dp="user"), toy_users(4))
    with torch.no_grad():
        trainer.model.norm.weight[0] = torch.nan
    total = trainer.clipped_sum(np.arange(4))
    assert not any(bool(g.any()) for g in total.values())


def test_noise_of_a_step_is_that_of_the_accountant(
    tiny: Tiny, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients set aside, what reaches the optimiser is N(0, (z · C / expected batch)²)."""
    config = tiny(
        dp="user", dim=32, batch_size=5, local_epochs=3, dp_clip=0.5, dp_noise_multiplier=4.0
    )
    trainer = _trainer(config, toy_users(20))
    rate, steps = private_steps(20, config)
    seen: list[np.ndarray] = []
    sizes: list[int] = []

    def nothing(users: np.ndarray, negatives: None) -> dict[str, torch.Tensor]:
        sizes.append(len(users))
        return {n: torch.zeros_like(p) for n, p in trainer.model.named_parameters()}

    def note(optimizer: Adam) -> None:
        grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        seen.append(torch.cat(grads).numpy())

    monkeypatch.setattr(trainer, "clipped_sum", nothing)
    monkeypatch.setattr(Adam, "step", note)
    sums = trainer.train()
    assert (sums.users, sums.examples, sums.loss) == (20, 0, 0.0)
    assert len(seen) == steps == 12
    assert len(set(sizes)) > 1, "Poisson sampling has no fixed batch size"
    noise = np.concatenate([g[g != 0] for g in seen])
    assert noise.std() == pytest.approx(4.0 * 0.5 / (rate * 20), rel=0.02)
    assert abs(np.corrcoef(seen[0], seen[1])[0, 1]) < 0.05


def test_users_are_drawn_at_the_rate_that_is_accounted(tiny: Tiny) -> None:
    config = tiny(batch_size=8)
    rate, _ = private_steps(100, config)
    entropy = Entropy(KEY)
    drawn = np.array([(entropy.uniform(100) < rate).sum() for _ in range(500)])
    assert drawn.mean() == pytest.approx(8.0, rel=0.05)
    assert drawn.var() == pytest.approx(100 * 0.08 * 0.92, rel=0.25), "independent draws"


def test_it_learns_when_noise_is_small(tiny: Tiny, toy_users: Users) -> None:
    from lumos_core.learning.evaluation import evaluate

    config = tiny(
        dp="user", dp_noise_multiplier=0.01, dp_clip=1.0, local_epochs=30, learning_rate=0.02,
        dropout=0.0, batch_size=30, dim=16,
    )  # fmt: skip
    users = toy_users(60, shortest=5)
    split = LeaveOneOut(users)
    trainer = _trainer(config, users)
    before = evaluate(trainer.model, *split.validation())[0.0]["ndcg@10"]
    trainer.train()
    after = evaluate(trainer.model, *split.validation())[0.0]["ndcg@10"]
    assert after > 1.5 * before
    assert not trainer.model.items.weight[0].any(), "the padding row stays zero"
