"""Local training of many clients with one user each, all at the same time.

Such a client trains with batches of one sequence: hundreds of tiny operations a step, which cost
many times their arithmetic. Here the parameters of some clients are stacked, [C, …], and each
operation works on all of them. A client's loss depends on its own slice alone, so the gradient of
the sum of losses is every client's own gradient.

What a client computes is what :class:`~lumos_core.learning.training.Trainer` computes: the same
losses, seeds, negatives, dropout masks, gradient clipping and Adam, as many steps. Only sums are
taken in another order, so results agree up to rounding.

Clients are trained in chunks of bounded memory, each of histories of similar length.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.learning import objectives
from lumos_core.learning.adam import Adam
from lumos_core.learning.batching import shuffled_batches
from lumos_core.learning.client_rows import ClientRows, Context, OwnRows, WholeTables
from lumos_core.learning.given_dropout import GivenDropout, draw_masks
from lumos_core.learning.model import build_model, last_position, scaled_bias
from lumos_core.learning.parameters import (
    ITEM_BIAS,
    ITEM_TABLE,
    ModelShape,
    Params,
    with_all_rows,
)
from lumos_core.learning.stacked_encoder import encode
from lumos_core.learning.threads import in_threads
from lumos_core.learning.training import TrainingSet, TrainSums, undecayed, uses_full_softmax
from lumos_core.views.view import Views

CHUNK_BYTES = 128 * 2**20
"""Memory that the tensors of a chunk may take, roughly. A client that needs more trains alone."""
FEW = 8  # clients: smaller chunks than that cost more than they keep threads busy
COPIES = 6  # of a trained tensor: itself, its gradient, Adam's two, and what steps need in passing

Tensors = dict[str, Tensor]
Seed = tuple[int, ...]


@dataclass(frozen=True)
class Trained:
    """What one client's training gave.

    Attributes:
        client: its number.
        arrays: its delta: names of the model and, but for the item table, its shapes.
        rows: the numbers of the item table's rows in ``arrays``, rising; None: all of them. Rows
            that are not there have not moved.
        table_rows: how many rows the item table has, N + 1.
        sums: of its training.
    """

    client: int
    arrays: Params
    rows: np.ndarray | None
    table_rows: int
    sums: TrainSums

    @property
    def delta(self) -> Params:
        """The whole delta: names and shapes of the model."""
        if self.rows is None:
            return self.arrays
        table = with_all_rows(self.arrays[ITEM_TABLE], self.rows, self.table_rows)
        return {**self.arrays, ITEM_TABLE: table}


class _Kind(NamedTuple):
    """What of its loss a client has; clients of a chunk are of one kind."""

    examples: bool
    views: bool
    view_targets: bool


class _Rows(NamedTuple):
    """The sequences of a chunk's clients: the history and, of clients with views, the views."""

    sequences: Tensor  # int64 [C, S, T], as indices of the clients' tables
    lengths: Tensor  # int64 [C, S]
    view_targets: Tensor  # int64 [C, F], as indices of the clients' tables


class _Draws(NamedTuple):
    """The random draws of a step, each [C, …]."""

    negatives: Context = ()
    view_negatives: Context = ()
    masks: tuple[Tensor, ...] = ()


class StackedTrainer:
    """Trains clients of one user each for ``local-epochs`` epochs from the same parameters.

    Args:
        config: method, objective and optimiser settings.
        num_items: N.
        chunk_bytes: see :data:`CHUNK_BYTES`.
        device: torch device of training.
    """

    def __init__(
        self,
        config: RunConfig,
        num_items: int,
        chunk_bytes: int = CHUNK_BYTES,
        device: str = "cpu",
    ) -> None:
        self.config, self._bytes, self._device = config, chunk_bytes, device
        self._model = build_model(ModelShape.of(config, num_items)).to(device)
        dropout = GivenDropout.placed_in(self._model)
        self._model(torch.ones(1, 2, dtype=torch.int64, device=device))
        self._calls = dropout.calls
        self.matrices = {
            f"{name}.weight"
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear)
        }
        self._full = uses_full_softmax(config, num_items)

    def train(
        self, params: Params, train: Sequences, views: Views, seeds: Sequence[Seed]
    ) -> Iterator[Trained]:
        """Train every client.

        Args:
            params: the global parameters.
            train: the clients' training histories, one user each.
            views: by client, the views of those that have some.
            seeds: by client, see :class:`~lumos_core.learning.training.Trainer`.

        Returns:
            The trained clients, chunk by chunk, in no particular order.
        """
        dtype = self._model.items.weight.dtype
        start = {n: torch.from_numpy(a).to(self._device, dtype) for n, a in params.items()}

        def trained(kind: _Kind, clients: np.ndarray) -> list[Trained]:
            found = {i: views[c] for i, c in enumerate(clients.tolist()) if c in views}
            data = TrainingSet.build(train.subset(clients), self.config.max_len, found)
            chunk = _Chunk(self, start, data, kind, [seeds[c] for c in clients])
            return [
                Trained(client, arrays, rows, len(start[ITEM_TABLE]), sums)
                for client, (arrays, rows, sums) in zip(
                    clients.tolist(), chunk.train(), strict=True
                )
            ]

        threads = torch.get_num_threads()
        chunks = list(self._chunks(train, views, threads))
        for found in in_threads(trained, chunks, threads):
            yield from found

    def _chunks(
        self, train: Sequences, views: Views, threads: int = 1
    ) -> Iterator[tuple[_Kind, np.ndarray]]:
        """Clients of one kind each, in order of length, within the bound of memory, of which each
        thread has a share. What takes longest comes first, so that threads end together."""
        kinds = [
            self._kind(length, views.get(c) is not None, bool(c in views and views[c].future))
            for c, length in enumerate(train.lengths.tolist())
        ]
        for kind in sorted(set(kinds), reverse=True):
            alike = np.array([c for c, found in enumerate(kinds) if found == kind])
            alike = alike[np.argsort(-train.lengths[alike], kind="stable")]
            most = len(alike) if threads == 1 else max(-(-len(alike) // (2 * threads)), FEW)
            while len(alike):
                fitting = self._fitting(int(train.lengths[alike[0]]), kind, self._bytes // threads)
                yield kind, alike[: min(fitting, most)]
                alike = alike[min(fitting, most) :]

    def _kind(self, length: int, has_views: bool, has_future: bool) -> _Kind:
        config = self.config
        uses_views = config.objective == "tri-view" and has_views
        targets = uses_views and has_future and config.use_future and config.view_target_weight > 0
        return _Kind(length > 1, uses_views and config.contrastive_weight > 0, targets)

    def _fitting(self, length: int, kind: _Kind, chunk_bytes: int) -> int:
        """How many clients, the longest of this length, fit into a chunk."""
        longest = min(length, self.config.max_len)
        if kind.views:
            longest = min(longest + self.config.view_items, self.config.max_len)
        trained = sum(p.numel() for n, p in self._model.named_parameters() if n != ITEM_TABLE)
        items, dim = self._model.shape.num_items, self.config.dim
        # rows of the table and, of an example, logits: each with its gradient and passing copies;
        # the logits of the whole catalog are not kept, but what is added to them
        rows = longest if self.config.trains_met_rows else items
        logits = items if self._full else longest * self.config.num_negatives
        states = longest * dim * 16 * (self.config.layers + 1) * (4 if kind.views else 1)
        floats = COPIES * (trained + rows * dim) + 4 * logits + states
        return max(chunk_bytes // (4 * floats), 1)

    # --- what a chunk needs of it

    def client_rows(self, table: Tensor, data: TrainingSet, sequences: np.ndarray) -> ClientRows:
        """The item tables of a chunk's clients.

        Args:
            sequences: int64 [C, …], all items that the clients' sequences name.
        """
        named = [np.unique(row[row > 0]) for row in sequences.reshape(len(data), -1)]
        if not self.config.trains_met_rows:
            return WholeTables(table, named)
        met = [np.unique(row[row > 0]) for row in data.history.items]
        others = [np.setdiff1d(n, m, assume_unique=True) for n, m in zip(named, met, strict=True)]
        return OwnRows(table, met, others, hides=self._full)

    def draws(
        self, seeds: Sequence[Seed], epoch: int, kind: _Kind, rows: ClientRows, lengths: Tensor,
        width: int,
    ) -> _Draws:  # fmt: skip
        """The draws of every client in an epoch, from the generator that a Trainer would use."""
        config = self.config
        if self._full and not config.dropout:
            return _Draws()
        of_dropout: list[int] = []
        negatives: list[np.ndarray] = []
        of_views: list[np.ndarray] = []
        for seed in seeds:
            rng = np.random.default_rng([*seed, epoch])
            of_dropout.append(int(rng.integers(2**31)))
            if self._full:
                continue
            for _ in shuffled_batches(np.ones(1, dtype=np.int64), config.batch_size, rng):
                for wanted, drawn in ((kind.examples, negatives), (kind.view_targets, of_views)):
                    if wanted:
                        drawn.append(self._negatives(rng))
        masks: tuple[Tensor, ...] = ()
        if config.dropout:
            drawn_masks = draw_masks(
                of_dropout, lengths, self._calls, width, config.dim, config.dropout
            )
            masks = (drawn_masks.to(self._device),)
        return _Draws(
            rows.drawn(np.stack(negatives)) if negatives else (),
            rows.drawn(np.stack(of_views)) if of_views else (),
            masks,
        )

    def _negatives(self, rng: np.random.Generator) -> np.ndarray:
        items = self._model.shape.num_items
        return rng.integers(1, items + 1, size=self.config.num_negatives)

    def losses(
        self, kind: _Kind, tables: ClientRows, params: Tensors, rows: _Rows, draws: _Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every client's whole loss, next-item loss and contrastive loss: three of float [C]."""
        config, sequences = self.config, rows.sequences
        masks = list(draws.masks[0].unbind(1)) if draws.masks else []
        named = tables.read()
        hidden = encode(self._model.shape, params, named, sequences, masks)  # [C, S, T, D]
        bias = scaled_bias(params.get(ITEM_BIAS))

        def next_item(states: Tensor, targets: Tensor, negatives: Context) -> Tensor:
            real = targets > 0
            weights = real / real.sum(1, keepdim=True).clamp_min(1)
            if self._full:
                return tables.full(named, states, targets, weights, bias)
            return tables.sampled(named, states, targets, negatives, weights, bias)

        item_loss = contrast = total = hidden.new_zeros(len(hidden))
        if kind.examples:
            item_loss = next_item(hidden[:, 0, :-1], sequences[:, 0, 1:], draws.negatives)
            total = item_loss
        last = last_position(hidden.flatten(0, 1), rows.lengths.flatten())
        last = last.view(*rows.lengths.shape, 1, -1)  # [C, S, 1, D]
        if kind.views:
            contrast = vmap(self._contrast)(last)
            total = total + config.contrastive_weight * contrast
        if kind.view_targets:
            repeated = last[:, 0].expand(-1, rows.view_targets.shape[1], -1)
            as_targets = next_item(repeated, rows.view_targets, draws.view_negatives)
            total = total + config.view_target_weight * as_targets
        return total, item_loss, contrast

    def _contrast(self, last: Tensor) -> Tensor:
        """The contrastive loss of one client: its history and its views, float [S, 1, D]."""
        views = iter(last[1:])
        future, paraphrase, counterfactual = (
            next(views) if used else None for used in self.used_views()
        )
        return objectives.tri_view(
            last[0], future, paraphrase, counterfactual, self.config.temperature
        )

    def used_views(self) -> tuple[bool, bool, bool]:
        """Whether future, paraphrase and counterfactual are used."""
        config = self.config
        return config.use_future, config.use_paraphrase, config.use_counterfactual


class _Chunk:
    """The training of some clients of one kind."""

    def __init__(
        self, trainer: StackedTrainer, start: Tensors, data: TrainingSet, kind: _Kind,
        seeds: Sequence[Seed],
    ) -> None:  # fmt: skip
        self._trainer, self._start, self._kind, self._seeds = trainer, start, kind, seeds
        self._examples = np.maximum(data.history.lengths - 1, 0)
        views = [data.history]
        if kind.views:
            three = (data.future, data.paraphrase, data.counterfactual)
            views += [v for v, used in zip(three, trainer.used_views(), strict=True) if used]
        width = max(2, *(view.items.shape[1] for view in views))
        sequences = np.stack([_wide(view.items, width) for view in views], axis=1)  # [C, S, T]
        targets = data.future_items.items
        device = start[ITEM_TABLE].device
        named = np.concatenate([sequences.reshape(len(data), -1), targets], axis=1)
        self._tables = trainer.client_rows(start[ITEM_TABLE], data, named)
        self._rows = _Rows(
            torch.from_numpy(self._tables.local(sequences)).to(device),
            torch.from_numpy(np.stack([view.lengths for view in views], axis=1)).to(device),
            torch.from_numpy(self._tables.local(targets)).to(device),
        )
        self._leaves = {
            name: _stored(tensor, name in trainer.matrices)
            .repeat(len(data), *[1] * tensor.dim())
            .requires_grad_()
            for name, tensor in start.items()
            if name != ITEM_TABLE
        }
        self._optimizers = self._made_optimizers()

    def train(self) -> Iterator[tuple[Params, np.ndarray | None, TrainSums]]:
        """Train for all epochs; the arrays, rows and sums of each client (:class:`Trained`)."""
        started = time.perf_counter()
        clients, kind = len(self._examples), self._kind
        item_loss, contrast = np.zeros(clients), np.zeros(clients)
        epochs = self._trainer.config.local_epochs
        if any(kind):
            for epoch in range(epochs):
                of_items, of_views = self._step(epoch)
                item_loss += of_items
                contrast += of_views
        seconds = (time.perf_counter() - started) / clients
        encoders = self._encoders() if any(kind) else self._unmoved()
        for client, (examples, encoder, table) in enumerate(
            zip(self._examples.tolist(), encoders, self._tables.moved(), strict=True)
        ):
            yield (
                {n: table.by if n == ITEM_TABLE else encoder[n] for n in self._start},
                table.rows,
                TrainSums(
                    users=1,
                    examples=examples * epochs,
                    loss=float(item_loss[client]) * examples,
                    contrastive=float(contrast[client]),
                    contrastive_users=epochs if kind.views else 0,
                    seconds=seconds,
                ),
            )

    def _step(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """One step of every client: its next-item loss and its contrastive loss before the step."""
        trainer, rows = self._trainer, self._rows
        draws = trainer.draws(
            self._seeds, epoch, self._kind, self._tables, rows.lengths, rows.sequences.shape[2]
        )
        params = {n: _stored(leaf, n in trainer.matrices) for n, leaf in self._leaves.items()}
        total, item_loss, contrast = trainer.losses(self._kind, self._tables, params, rows, draws)
        leaves = [*self._leaves.values(), *self._tables.leaves()]
        found = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
        others = len(self._leaves)
        gradients = [*found[:others], self._tables.gradient(found[others:])]
        _clip(gradients, trainer.config.grad_clip)
        trained = [*self._leaves.values(), self._tables.own]
        for leaf, gradient in zip(trained, gradients, strict=True):
            # None: no client of this kind has a use for the parameter. Fused Adam reads a gradient
            # in the order of memory, whatever its strides say.
            leaf.grad = None if gradient is None else gradient.contiguous()
        for optimizer in self._optimizers:
            optimizer.step()
        return item_loss.detach().cpu().numpy(), contrast.detach().cpu().numpy()

    def _made_optimizers(self) -> list[Adam]:
        """As those of a Trainer, for all clients together: Adam treats each value by itself."""
        config = self._trainer.config
        kept = undecayed(config, len(self._start[ITEM_TABLE]) - 1)
        named = {**self._leaves, ITEM_TABLE: self._tables.own}
        rate, decay = config.learning_rate, config.weight_decay
        return [
            Adam([p for n, p in named.items() if n in kept], lr=rate, weight_decay=0.0),
            Adam([p for n, p in named.items() if n not in kept], lr=rate, weight_decay=decay),
        ]

    def _encoders(self) -> Iterator[Params]:
        """How far each client has moved everything but the item table; the stacked parameters are
        not used after this."""
        matrices = self._trainer.matrices
        moved: dict[str, np.ndarray] = {}
        for name, leaf in self._leaves.items():
            by = leaf.detach().sub_(_stored(self._start[name], name in matrices))
            found = _stored(by, name in matrices).contiguous().cpu().numpy()
            moved[name] = found.astype(np.float32, copy=False)
        for client in range(len(self._examples)):
            yield {name: arrays[client] for name, arrays in moved.items()}

    def _unmoved(self) -> Iterator[Params]:
        """The same of clients that have nothing to learn from."""
        for _ in self._examples:
            yield {
                name: np.zeros(tuple(tensor.shape), dtype=np.float32)
                for name, tensor in self._start.items()
                if name != ITEM_TABLE
            }


def _clip(gradients: Sequence[Tensor | None], limit: float) -> None:
    """``clip_grad_norm_`` for every client by itself, in place."""
    used = [gradient for gradient in gradients if gradient is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in used])
    factors = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_max(1.0)  # [C]
    if bool((factors < 1).any()):
        for gradient in used:
            gradient *= factors.reshape(-1, *[1] * (gradient.dim() - 1))


def _stored(tensor: Tensor, matrix: bool) -> Tensor:
    """A parameter as its copies are stored, or a stored one as the model wants it: the matrix of a
    linear layer is transposed, because its gradient is made in that order of memory."""
    return tensor.mT if matrix else tensor


def _wide(items: np.ndarray, width: int) -> np.ndarray:
    return np.pad(items, ((0, 0), (0, width - items.shape[1])))
