"""Defences in the training of honest nodes: further losses that make the item table harder to bend.

Both are for the bench alone; no run of a federation has them.

``PieckNode``: the two regularisers against PIECK (Zhang et al., ICDE 2024, arXiv 2502.12958). With
the embeddings v of the s popular items (mined as the attacker mines them, by how far the received
rows move; rank k has weight κ_k ∝ (s + 1 − k)²), β = γ = 1:

    L + β · Re1 + γ · Re2
    Re1 = − Σ_k κ_k · mean over unpopular items j of cos(v_k, v_j)
    Re2 = − Σ_k κ_k · KL(softmax(u) ‖ softmax(v_k)) / D

Re1 makes the embeddings of popular items less special, so that nothing is gained by looking like
one; Re2 keeps a user's embedding u away from those of popular items, so that these do not tell what
users look for. Signs, weights and s = 10 are those of the authors' code (junzhang-zj/PIECK);
gradients flow into the unpopular items and into u only. Differences: u is the encoding of a whole
history, as there is no embedding of a user; unpopular items are those of the batch's histories.

``UnionNode``: the contrastive task of UNION (Yu et al., AAAI 2023, arXiv 2212.05399), which spreads
the item embeddings evenly: an item of a history, another one of the same history, and K = 15 random
items, on normalised embeddings. α = 1 and K are those of the authors' code (yflyl613/FedRec); the
temperature is ours. The server's part is in :mod:`.uniformity_filter`.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lumos_core.experiments.poisoning.updates import mined
from lumos_core.federation.node import Node
from lumos_core.learning.model import SASRec, last_position
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.learning.training import Trainer, TrainingSet

POPULAR = 10
BETA, GAMMA = 1.0, 1.0
ALPHA, NEGATIVES, TEMPERATURE = 1.0, 15, 0.2


@dataclass
class PieckTrainer(Trainer):
    """Trains with the regularisers against PIECK.

    Args:
        popular: int64 [s], the popular items, the most popular first; none before the second round.
        received: float [N + 1, D], the item table that the node received.
    """

    popular: Tensor | None = None
    received: Tensor | None = None

    def regulariser(self, items: Tensor, lengths: Tensor, hidden: Tensor) -> Tensor | None:
        if self.popular is None or self.received is None:
            return None
        weights = torch.arange(len(self.popular), 0, -1, dtype=hidden.dtype).square()
        weights = weights / weights.sum()  # [s]
        known = self.received[self.popular]  # [s, D]
        met = torch.unique(items[items > 0])
        unpopular = met[~torch.isin(met, self.popular)]
        users = F.log_softmax(last_position(hidden, lengths), dim=-1)  # [B, D]
        apart = users[:, None] - F.log_softmax(known, dim=-1)  # [B, s, D]
        divergence = (users.exp()[:, None] * apart).mean(-1).mean(0)  # [s]
        total = -GAMMA * (weights * divergence).sum()
        if len(unpopular):
            rows = F.normalize(self.model.items.weight[unpopular], dim=-1)
            cosine = (F.normalize(known, dim=-1) @ rows.T).mean(1)  # [s]
            total = total - BETA * (weights * cosine).sum()
        return total


@dataclass
class UnionTrainer(Trainer):
    """Trains with the contrastive task of UNION."""

    def regulariser(self, items: Tensor, lengths: Tensor, hidden: Tensor) -> Tensor | None:
        many = lengths > 1
        if not bool(many.any()):
            return None
        items, lengths = items[many], lengths[many]
        table = F.normalize(self.model.items.weight, dim=-1)
        batch, longest = items.shape
        real = items > 0  # [B, T]
        step = 1 + (torch.rand(batch, longest) * (lengths[:, None] - 1)).long()
        other = (torch.arange(longest) + step) % lengths[:, None]
        positive = items.gather(1, other)
        drawn = torch.randint(1, len(table), (batch, NEGATIVES))
        own = (drawn[:, :, None] == items[:, None]).any(-1)  # [B, K]
        anchors = table[items]  # [B, T, D]
        near = (anchors * table[positive]).sum(-1, keepdim=True)
        far = torch.einsum("btd,bkd->btk", anchors, table[drawn])
        far = far.masked_fill(own[:, None], -torch.inf)
        logits = torch.cat([near, far], dim=-1)[real] / TEMPERATURE
        return ALPHA * F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


class PieckNode(Node):
    """A node that trains with the regularisers against PIECK."""

    _seen: np.ndarray | None = None
    _change: np.ndarray | None = None

    def _trainer(
        self, model: SASRec, data: TrainingSet, params: Params, seed: tuple[int, ...]
    ) -> Trainer:
        table = params[ITEM_TABLE]
        if self._seen is not None:
            moved = np.linalg.norm(table - self._seen, axis=1)
            self._change = moved if self._change is None else self._change + moved
        self._seen = table.copy()
        trainer = PieckTrainer(model, data, self.config, seed, self._timer())
        if self._change is not None:
            trainer.popular = torch.from_numpy(mined(self._change, POPULAR))
            trainer.received = torch.from_numpy(self._seen)
        return trainer


class UnionNode(Node):
    """A node that trains with the contrastive task of UNION."""

    def _trainer(
        self, model: SASRec, data: TrainingSet, params: Params, seed: tuple[int, ...]
    ) -> Trainer:
        return UnionTrainer(model, data, self.config, seed, self._timer())
