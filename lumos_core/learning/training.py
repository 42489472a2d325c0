"""Training SASRec on the histories of one node (or of all users, for the centralised baseline)."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.learning import objectives
from lumos_core.learning.adam import Adam
from lumos_core.learning.batching import pad, shuffled_batches
from lumos_core.learning.model import SASRec, last_position, scaled_bias
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, OF_ITEMS
from lumos_core.learning.perturbation import perturb
from lumos_core.views.view import UserViews


@dataclass(frozen=True)
class Padded:
    """Right-padded sequences: int64 [U, T] items (0 = padding), int64 [U] lengths."""

    items: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], max_len: int) -> "Padded":
        return cls(*pad(sequences, max_len))

    def rows(self, users: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """A batch, trimmed to its longest sequence."""
        lengths = self.lengths[users]
        items = self.items[users, : max(int(lengths.max()), 1)]
        return torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)


@dataclass(frozen=True)
class TrainingSet:
    """A node's users, padded once: their histories and, where written, their views.

    Attributes:
        history: each user's items; the next-item loss trains on every position.
        has_views: bool [U]; the views of a user without any are padding only.
        future: history + new items, as the encoder sees it.
        future_items: the new items alone.
    """

    history: Padded
    has_views: np.ndarray
    future: Padded
    future_items: Padded
    paraphrase: Padded
    counterfactual: Padded

    @classmethod
    def build(
        cls, train: Sequences, max_len: int, views: Mapping[int, UserViews] | None = None
    ) -> "TrainingSet":
        views = views or {}
        histories = [train[u] for u in range(len(train))]
        nothing = UserViews((), (), ())
        per_user = [views.get(u, nothing) for u in range(len(train))]
        extended = [
            np.concatenate([h, np.asarray(v.future, dtype=h.dtype)])
            for h, v in zip(histories, per_user, strict=True)
        ]

        def padded(view: int) -> Padded:
            return Padded.of([np.asarray(v[view], dtype=np.int64) for v in per_user], max_len)

        return cls(
            history=Padded.of(histories, max_len),
            has_views=np.array([u in views for u in range(len(train))], dtype=bool),
            future=Padded.of(extended, max_len),
            future_items=padded(0),
            paraphrase=padded(1),
            counterfactual=padded(2),
        )

    def __len__(self) -> int:
        return len(self.history.lengths)


@dataclass
class TrainSums:
    """Sums over one or more epochs; the only facts about training that leave a node."""

    users: int = 0
    examples: int = 0
    loss: float = 0.0  # next-item loss, summed over examples
    contrastive: float = 0.0  # contrastive loss, summed over ``contrastive_users``
    contrastive_users: int = 0
    seconds: float = 0.0

    def add(self, other: "TrainSums") -> None:
        self.users = max(self.users, other.users)
        self.examples += other.examples
        self.loss += other.loss
        self.contrastive += other.contrastive
        self.contrastive_users += other.contrastive_users
        self.seconds += other.seconds


def uses_full_softmax(config: RunConfig, num_items: int) -> bool:
    """Whether the next-item loss ranks the target against the whole catalog."""
    return config.loss == "full" or (
        config.loss == "auto" and num_items <= config.full_softmax_max_items
    )


def undecayed(config: RunConfig, num_items: int) -> frozenset[str]:
    """Names of the parameters that weight decay does not apply to.

    Items have no other gradient in a step than decay if the sampled softmax did not draw them, or
    if the node never met them. Adam makes full steps of a gradient however small it is: their
    embeddings would shrink by the learning rate in every step.
    """
    if not uses_full_softmax(config, num_items):
        return frozenset(OF_ITEMS)
    return frozenset({ITEM_TABLE} if config.trains_met_rows else ())


def met_rows(data: TrainingSet, rows: int) -> Tensor:
    """Which rows of the item table belong to items of the histories.

    The softmax pushes the embeddings of all items away that did not come next, also of those that
    no user of the node met. Adam makes full steps of these small, steady gradients, and what a rare
    item's title said at the start is lost. A row of an item that the node never met is therefore
    left alone with ``item-rows = met``: other nodes, who met it, train it.

    Args:
        data: the node's users; their views do not count.
        rows: N + 1.

    Returns:
        float [N + 1, 1], 1 or 0.
    """
    met = torch.zeros(rows, 1)
    met[torch.from_numpy(np.unique(data.history.items))] = 1.0
    met[0] = 0.0
    return met


def never_ends() -> None:
    """Does nothing: a training without a limit of time."""


@dataclass
class Trainer:
    """One model, one optimiser, one set of users; :meth:`epoch` goes through them once.

    Args:
        model: trained in place.
        data: the users.
        config: method, objective and optimiser settings.
        seed: non-negative integers that determine batches, negatives, perturbations, dropout.
        before_step: called before every step; the training ends if it raises.
    """

    model: SASRec
    data: TrainingSet
    config: RunConfig
    seed: Sequence[int]
    before_step: Callable[[], None] = never_ends
    _epochs_done: int = field(default=0, init=False)
    _met: Tensor | None = field(default=None, init=False)
    _optimizers: list[Adam] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        table = self.model.items.weight
        if self.config.trains_met_rows:
            self._met = met_rows(self.data, len(table)).to(table.device)
        rate, decay = self.config.learning_rate, self.config.weight_decay
        kept = undecayed(self.config, len(table) - 1)
        named = list(self.model.named_parameters())
        self._optimizers = [
            Adam([p for n, p in named if n in kept], lr=rate, weight_decay=0.0),
            Adam([p for n, p in named if n not in kept], lr=rate, weight_decay=decay),
        ]

    def epoch(self) -> TrainSums:
        """Train on every user once."""
        started = time.perf_counter()
        rng = np.random.default_rng([*self.seed, self._epochs_done])
        self._epochs_done += 1
        sums = TrainSums(users=len(self.data))
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            batches = shuffled_batches(self.data.history.lengths, self.config.batch_size, rng)
            for users in batches:
                self.before_step()
                self._step(users, rng, sums)
        sums.seconds = time.perf_counter() - started
        return sums

    def _step(self, users: np.ndarray, rng: np.random.Generator, sums: TrainSums) -> None:
        device = self.model.items.weight.device
        items, lengths = self.data.history.rows(users, device)
        hidden = self.model(items)  # [B, T, D]
        loss = torch.zeros((), device=device)

        targets = items[:, 1:]
        real = targets > 0
        examples = int(real.sum())
        if examples:
            next_item = self.next_item(hidden[:, :-1][real], targets[real], rng)
            loss = loss + next_item
            sums.loss += float(next_item.detach()) * examples
            sums.examples += examples

        auxiliary = OBJECTIVES[self.config.objective]
        if auxiliary is not None:
            anchor = last_position(hidden, lengths)  # [B, D]
            loss = loss + auxiliary(self, anchor, users, rng, sums)
        further = self.regulariser(items, lengths, hidden)
        if further is not None:
            loss = loss + further

        if not loss.requires_grad:  # a lone user with a single item and no views
            return
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = self.model.items.weight.grad
        if self._met is not None and gradient is not None:
            gradient *= self._met
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        for optimizer in self._optimizers:
            optimizer.step()

    def regulariser(self, items: Tensor, lengths: Tensor, hidden: Tensor) -> Tensor | None:
        """A further loss of a batch, for subclasses; it is not in the reported sums.

        Args:
            items, lengths: int64 [B, T], int64 [B], the histories.
            hidden: float [B, T, D], the state after each item.
        """
        return None

    def next_item(self, hidden: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean loss of float [M, D] states against int64 [M] targets."""
        table, bias = self.model.items.weight, scaled_bias(getattr(self.model, ITEM_BIAS, None))
        num_items = len(table) - 1
        if uses_full_softmax(self.config, num_items):
            return objectives.full_softmax(hidden, targets, table, bias=bias)
        drawn = rng.integers(1, num_items + 1, size=self.config.num_negatives)
        negatives = torch.from_numpy(drawn).to(table.device)
        return objectives.sampled_softmax(hidden, targets, table, negatives, bias=bias)


def tri_view_loss(
    trainer: Trainer, anchor: Tensor, users: np.ndarray, rng: np.random.Generator, sums: TrainSums
) -> Tensor:
    """LUMOS: contrast with the three views, and future items as further targets.

    Only users with views count; 0 if there are none.
    """
    config, data, device = trainer.config, trainer.data, anchor.device
    having = data.has_views[users]
    chosen = users[having]
    total = torch.zeros((), device=device)
    if not len(chosen):
        return total
    anchor = anchor[torch.from_numpy(having).to(device)]

    def encode(view: Padded, use: bool) -> Tensor | None:
        return trainer.model.encode_last(*view.rows(chosen, device)) if use else None

    if config.contrastive_weight:
        contrast = objectives.tri_view(
            anchor,
            encode(data.future, config.use_future),
            encode(data.paraphrase, config.use_paraphrase),
            encode(data.counterfactual, config.use_counterfactual),
            config.temperature,
        )
        sums.contrastive += float(contrast.detach()) * len(chosen)
        sums.contrastive_users += len(chosen)
        total = total + config.contrastive_weight * contrast
    if config.view_target_weight and config.use_future:
        targets, _ = data.future_items.rows(chosen, device)  # [B, F]
        real = targets > 0
        if bool(real.any()):
            repeated = anchor[:, None].expand(-1, targets.shape[1], -1)[real]
            as_targets = trainer.next_item(repeated, targets[real], rng)
            total = total + config.view_target_weight * as_targets
    return total


def two_view_loss(
    trainer: Trainer, anchor: Tensor, users: np.ndarray, rng: np.random.Generator, sums: TrainSums
) -> Tensor:
    """ConFedSRS: InfoNCE between two perturbations of each history."""
    device = anchor.device
    if (
        not trainer.config.contrastive_weight or len(users) < 2
    ):  # one alone has no other to differ from
        return torch.zeros((), device=device)
    history = trainer.data.history
    longest = max(int(history.lengths[users].max()), 1)
    items, lengths = history.items[users, :longest], history.lengths[users]
    encoded = []
    for _ in range(2):
        view, view_lengths = perturb(items, lengths, rng)
        encoded.append(
            trainer.model.encode_last(
                torch.from_numpy(view).to(device), torch.from_numpy(view_lengths).to(device)
            )
        )
    contrast = objectives.two_view(encoded[0], encoded[1], trainer.config.temperature)
    sums.contrastive += float(contrast.detach()) * len(users)
    sums.contrastive_users += len(users)
    return trainer.config.contrastive_weight * contrast


Auxiliary = Callable[[Trainer, Tensor, np.ndarray, np.random.Generator, TrainSums], Tensor]
"""A weighted loss that is added to the next-item loss. Its arguments: the trainer, float [B, D]
states after last items, int64 [B] users, a generator for random draws, and the sums to add to."""
OBJECTIVES: dict[str, Auxiliary | None] = {
    "next-item": None,
    "two-view": two_view_loss,
    "tri-view": tri_view_loss,
}
"""The loss beside the next-item loss, by ``Method.objective``; None for no other loss."""
