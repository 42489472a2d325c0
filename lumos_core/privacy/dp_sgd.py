"""DP-SGD over users (``dp = user``): the influence of one user on a node's delta is bounded.

Abadi et al., CCS 2016, with a user as the unit: every step draws each user independently with
probability q = ``batch-size`` / users (Poisson sampling, secret), clips the gradient of each user's
whole loss to ``dp-clip``, adds N(0, (z · dp-clip)²) to the sum and divides by the *expected* batch
size. Adam on noisy gradients is post-processing and costs no privacy.

A user's loss is that of a batch of this user alone: the next-item loss over the user's history and,
for ``lumos``, the contrastive loss of the user's views, without other users' views as negatives.
The loss must not depend on which other users were drawn: otherwise removing one user would change
the gradients of all others. For this reason negatives are the same for all users of a step, and
there is no dropout, whose masks would depend on a user's place in the batch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumos_core.config import RunConfig
from lumos_core.learning import objectives
from lumos_core.learning.adam import Adam
from lumos_core.learning.model import SASRec, last_position, scaled_bias
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE
from lumos_core.learning.training import (
    Padded,
    TrainingSet,
    TrainSums,
    never_ends,
    uses_full_softmax,
)
from lumos_core.privacy.budget import private_steps
from lumos_core.privacy.noise import Entropy

Tensors = dict[str, Tensor]


def protected_arrays(data: TrainingSet) -> dict[str, np.ndarray]:
    """All arrays of a training set, by name: the values that the noise must depend on."""
    views = ("history", "future", "future_items", "paraphrase", "counterfactual")
    return {name: getattr(data, name).items for name in views}


@dataclass
class PrivateTrainer:
    """Trains a model with DP-SGD; one call of :meth:`train` runs all ``local-epochs`` epochs.

    Args:
        model: trained in place.
        data: the users.
        config: ``dp-clip``, ``dp-noise-multiplier``, ``batch-size``, objective, learning rate.
        seed: non-negative integers that determine the negatives; others may know them.
        entropy: determines the noise and the sampling of users; nobody else may know them.
        before_step: called before every step; the training ends if it raises.
    """

    model: SASRec
    data: TrainingSet
    config: RunConfig
    seed: tuple[int, ...]
    entropy: Entropy
    before_step: Callable[[], None] = never_ends
    _negatives: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._negatives = np.random.default_rng([*self.seed, 0])

    def train(self) -> TrainSums:
        """Run all steps. Of the sums only the number of users and the seconds are set: the privacy
        budget covers no other facts about the data, so the rest stays zero."""
        started = time.perf_counter()
        users = len(self.data)
        rate, steps = private_steps(users, self.config)
        optimizer = Adam(
            self.model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        for _ in range(steps):
            self.before_step()
            chosen = np.flatnonzero(self.entropy.uniform(users) < rate)
            total = self.clipped_sum(chosen, self.draw_negatives())
            self._noisy_step(optimizer, total, expected=rate * users)
        return TrainSums(users=users, seconds=time.perf_counter() - started)

    def clipped_sum(self, users: np.ndarray, negatives: Tensor | None = None) -> Tensors:
        """Sum of these users' gradients, each clipped to ``dp-clip`` over all parameters.

        Args:
            users: indices of the users that were drawn.
            negatives: int64 [num-negatives], those of the step; None with the full softmax.
        """
        self.model.eval()  # no dropout
        params = {n: p.detach() for n, p in self.model.named_parameters()}
        total = {n: torch.zeros_like(p) for n, p in params.items()}
        for start in range(0, len(users), self.config.batch_size):
            part = users[start : start + self.config.batch_size]
            gradients = self.user_gradients(params, part, negatives)
            squares = [g.flatten(1).double().square().sum(1) for g in gradients.values()]
            norms = torch.stack(squares).sum(0).sqrt()  # [B]
            factors = (self.config.dp_clip / norms.clamp_min(1e-12)).clamp_max(1.0)
            factors = factors.nan_to_num(0.0) * norms.isfinite()  # a diverged user adds nothing
            for name, gradient in gradients.items():
                safe = gradient.nan_to_num(0.0, 0.0, 0.0)
                total[name] += torch.tensordot(factors.float(), safe, dims=1)
        return total

    def user_gradients(
        self, params: Tensors, users: np.ndarray, negatives: Tensor | None
    ) -> Tensors:
        """The gradient of each user's own loss: [B, …] by parameter."""
        device = self.model.items.weight.device
        data = self.data
        tensors = [
            tensor
            for view in (data.history, data.future, data.paraphrase, data.counterfactual)
            for tensor in _rows(view, users, device)
        ]
        targets, _ = _rows(data.future_items, users, device)
        having = torch.from_numpy(data.has_views[users].astype(np.float32)).to(device)
        loss = self._user_loss(negatives)
        per_user = vmap(grad(loss), in_dims=(None, 0, 0, 0))  # raises if the loss draws randomness
        with sdpa_kernel(SDPBackend.MATH):  # the only backend that vmap can batch
            found: Tensors = per_user(params, tuple(tensors), targets, having)
        return found

    def _noisy_step(self, optimizer: Adam, total: Tensors, expected: float) -> None:
        std = self.config.dp_noise_multiplier * self.config.dp_clip
        for name, parameter in self.model.named_parameters():
            noise = torch.from_numpy(self.entropy.normal(tuple(parameter.shape), std))
            noisy = total[name] + noise.to(parameter.device, parameter.dtype)
            parameter.grad = noisy / expected
        if (padding := self.model.items.weight.grad) is not None:
            padding[0] = 0.0  # the padding row is not a parameter
        optimizer.step()

    def draw_negatives(self) -> Tensor | None:
        """The negatives of one step: int64 [num-negatives]; None with the full softmax."""
        items = self.model.shape.num_items
        if uses_full_softmax(self.config, items):
            return None
        drawn = self._negatives.integers(1, items + 1, size=self.config.num_negatives)
        return torch.from_numpy(drawn).to(self.model.items.weight.device)

    def _user_loss(self, negatives: Tensor | None) -> Callable[..., Tensor]:
        """A function from parameters and *one* user's padded rows to a scalar."""
        config, model = self.config, self.model

        def next_item(params: Tensors, hidden: Tensor, targets: Tensor) -> Tensor:
            real = targets > 0
            weights = real / real.sum().clamp_min(1)
            table, bias = params[ITEM_TABLE], scaled_bias(params.get(ITEM_BIAS))
            if negatives is None:
                return objectives.full_softmax(hidden, targets.clamp_min(1), table, weights, bias)
            return objectives.sampled_softmax(
                hidden, targets.clamp_min(1), table, negatives, weights, bias
            )

        def loss(
            params: Tensors, rows: tuple[Tensor, ...], view_targets: Tensor, has_views: Tensor
        ) -> Tensor:
            def encode(at: int) -> Tensor:  # [1, T, D]
                encoded: Tensor = functional_call(model, params, (rows[at][None],))
                return encoded

            hidden = encode(0)
            total = next_item(params, hidden[0, :-1], rows[0][1:])
            if config.objective != "tri-view":
                return total
            anchor = last_position(hidden, rows[1][None])
            if config.contrastive_weight:
                used = (config.use_future, config.use_paraphrase, config.use_counterfactual)
                views = [
                    last_position(encode(at), rows[at + 1][None]) if use else None
                    for at, use in zip((2, 4, 6), used, strict=True)
                ]
                contrast = objectives.tri_view(
                    anchor, views[0], views[1], views[2], config.temperature
                )
                total = total + has_views * config.contrastive_weight * contrast
            if config.view_target_weight and config.use_future:
                repeated = anchor.expand(len(view_targets), -1)
                as_targets = next_item(params, repeated, view_targets)
                total = total + has_views * config.view_target_weight * as_targets
            return total

        return loss


def _rows(padded: Padded, users: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch, padded to at least two columns, so that every history has an input and a target."""
    items, lengths = padded.rows(users, device)
    return (F.pad(items, (0, 2 - items.shape[1])) if items.shape[1] < 2 else items), lengths
