"""The rows of the item table that each of many clients reads and moves, while they train together.

A client's copy of the item table differs from the global one only in the rows that it may move.
With ``item-rows = met`` these are the items of its history: :class:`OwnRows` keeps just them,
[C, R, D], and reads all other rows from the one global table, so that no copy of the catalog
exists. With ``item-rows = all`` every row moves, if only by weight decay: :class:`WholeTables`
keeps C tables.

Shapes: C clients, N items, D hidden size, R rows of a client, M examples, K sampled negatives.
Methods whose arguments have no C are for *one* client, and run under ``torch.func.vmap``.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lumos_core.learning import objectives

Ids = npt.NDArray[np.int64]
Context = tuple[Tensor, ...]
"""What the methods for one client need to know of it, beside the rows that it moves."""
_HIDDEN = -1e30  # added to a logit that must not count; finite, so that no gradient is a NaN


class Moved(NamedTuple):
    """How far a client has moved the item table.

    Attributes:
        by: float32 [K, D], or the whole table.
        rows: int64 [K], rising, the numbers of these rows; all others are where they were. None:
            ``by`` is the whole table.
    """

    by: np.ndarray
    rows: Ids | None


class ClientRows(Protocol):
    """The item tables of C clients."""

    own: Tensor
    """float [C, R, D], a leaf: the rows that clients move."""
    context: Context
    """By client, each [C, …]."""
    decays: bool
    """Whether weight decay applies to the rows."""

    def local(self, items: Ids) -> Ids:
        """Catalog indices as indices of :meth:`table`: int64 [C, …] → the same shape."""

    def drawn(self, negatives: Ids) -> Context:
        """Of sampled negatives, int64 [C, K], what :meth:`sampled` needs, each [C, …]."""

    def table(self, own: Tensor, context: Context) -> Tensor:
        """The rows that a client's sequences name; row 0 is padding."""

    def full(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """:func:`~lumos_core.learning.objectives.full_softmax` of one client; ``targets`` are
        indices of :meth:`table`, at padded positions 0 with weight 0."""

    def sampled(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor, negatives: Context,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """:func:`~lumos_core.learning.objectives.sampled_softmax` of one client, the same way."""

    def moved(self) -> Iterator[Moved]:
        """How far each client has moved the table. The rows are not used after this."""


class WholeTables:
    """A whole table for each client.

    Args:
        table: float [N + 1, D], the global one.
        clients: C.
    """

    decays = True
    context: Context = ()

    def __init__(self, table: Tensor, clients: int) -> None:
        self._base = table
        self.own = table.repeat(clients, 1, 1).requires_grad_()

    def local(self, items: Ids) -> Ids:
        return items

    def drawn(self, negatives: Ids) -> Context:
        return (torch.from_numpy(negatives).to(self._base.device),)

    def table(self, own: Tensor, context: Context) -> Tensor:
        return own

    def full(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        # as objectives.full_softmax, but the gradient is made in the order of memory of `own`, and
        # the padding row is not cut off, which would copy the gradient
        logits = (own @ hidden.T).T  # [M, N + 1]
        hide = torch.where(torch.arange(len(own), device=own.device) == 0, _HIDDEN, 0.0)
        logits = logits + (hide if bias is None else hide + bias)
        return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()

    def sampled(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor, negatives: Context,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        (drawn,) = negatives
        return objectives.sampled_softmax(hidden, targets.clamp_min(1), own, drawn, weights, bias)

    def moved(self) -> Iterator[Moved]:
        moved: np.ndarray = self.own.detach().sub_(self._base).cpu().numpy()
        return (Moved(table, None) for table in moved.astype(np.float32, copy=False))


class OwnRows:
    """The rows that each client moves, and the global table for all others.

    Args:
        table: float [N + 1, D], the global one; it is only read.
        met: for each client, the items that it may move, rising.
        others: for each client, further items that its sequences name, rising.
        hides: whether :meth:`full` will be called; it needs N numbers a client.
    """

    decays = False

    def __init__(
        self, table: Tensor, met: Sequence[Ids], others: Sequence[Ids], hides: bool
    ) -> None:
        self._base, self._items = table, _filled(met)
        ids = np.concatenate([np.zeros((len(met), 1), np.int64), self._items, _filled(others)], 1)
        self._lookups = [_Lookup(row) for row in ids]
        rows = torch.from_numpy(self._items).to(table.device)
        self.own = table[rows].requires_grad_()
        numbers = torch.from_numpy(ids).to(table.device)
        hidden = torch.zeros(len(met), len(table) if hides else 1, device=table.device)
        if hides:
            hidden.scatter_(1, rows, _HIDDEN)  # padding hides row 0, which is no candidate
        frozen = table[numbers[:, 1 + self._items.shape[1] :]]
        self.context: Context = (numbers, frozen, hidden)

    def local(self, items: Ids) -> Ids:
        return np.stack([at(row) for at, row in zip(self._lookups, items, strict=True)])

    def drawn(self, negatives: Ids) -> Context:
        last = self._items.shape[1]
        own = np.stack([at(row) for at, row in zip(self._lookups, negatives, strict=True)])
        own[own > last] = 0  # a row that the client reads but does not move is the global one
        return tuple(torch.from_numpy(a).to(self._base.device) for a in (negatives, own))

    def table(self, own: Tensor, context: Context) -> Tensor:
        return torch.cat([torch.zeros_like(own[:1]), own, context[1]])

    def full(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        numbers, _, hide = context
        mine = numbers[1 : 1 + len(own)]
        padding = (mine == 0) * _HIDDEN
        others = hidden @ self._base[1:].T + (hide if bias is None else hide + bias)[1:]
        ours = hidden @ own.T + (padding if bias is None else padding + bias[mine])
        log_z = torch.logaddexp(torch.logsumexp(others, -1), torch.logsumexp(ours, -1))
        positive = self._positive(own, context, hidden, targets, bias)
        return ((log_z - positive) * weights).sum()

    def sampled(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor, negatives: Context,
        weights: Tensor, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        drawn, mine = negatives
        table = torch.cat([torch.zeros_like(own[:1]), own])
        rows = torch.where(mine[:, None] > 0, table[mine], self._base[drawn])
        logits = hidden @ rows.T + math.log((len(self._base) - 1) / len(drawn))
        if bias is not None:
            logits = logits + bias[drawn]
        same = context[0][targets][:, None] == drawn
        positive = self._positive(own, context, hidden, targets, bias)
        joined = torch.cat([positive[:, None], torch.where(same, _HIDDEN, logits)], dim=1)
        return ((torch.logsumexp(joined, 1) - positive) * weights).sum()

    def moved(self) -> Iterator[Moved]:
        rows = torch.from_numpy(self._items).to(self._base.device)
        own = (self.own.detach() - self._base[rows]).cpu().numpy().astype(np.float32, copy=False)
        for items, by in zip(self._items, own, strict=True):
            met = int((items > 0).sum())  # the rest is padding
            yield Moved(by[:met], items[:met])

    def _positive(
        self, own: Tensor, context: Context, hidden: Tensor, targets: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The targets' logits: float [M]."""
        logits = (hidden * self.table(own, context)[targets]).sum(-1)
        return logits if bias is None else logits + bias[context[0][targets]]


class _Lookup:
    """Items of a client → their places in its table; 0 for those that are not in it.

    Args:
        ids: int64 [rows], the item of each row; 0 where a row is padding.
    """

    def __init__(self, ids: Ids) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __call__(self, items: Ids) -> Ids:
        at = np.searchsorted(self._sorted, items).clip(max=len(self._sorted) - 1)
        found: Ids = np.where(self._sorted[at] == items, self._order[at], 0)
        return found


def _filled(rows: Sequence[Ids]) -> Ids:
    """Rows of different lengths, filled up with zeros on the right; at least one column."""
    out = np.zeros((len(rows), max([1, *map(len, rows)])), dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
