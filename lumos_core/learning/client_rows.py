"""The rows of the item table that each of many clients reads and moves, while they train together.

A client's copy of the item table differs from the global one only in the rows that it may move.
With ``item-rows = met`` these are the items of its history: :class:`OwnRows` keeps just them,
[C, R, D], and reads all other rows from the one global table, so that no copy of the catalog
exists. With ``item-rows = all`` every row may move, if only by weight decay: :class:`WholeTables`
keeps C tables.

Shapes: C clients, N items, D hidden size, R rows that a client may move, U rows that its sequences
name, M examples, K sampled negatives.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lumos_core.learning.softmax_of_clients import HIDDEN, log_partition
from lumos_core.learning.stacked_encoder import in_one_table, picked

Ids = npt.NDArray[np.int64]
Context = tuple[Tensor, ...]
"""What :meth:`ClientRows.sampled` needs to know of sampled negatives, each [C, …]."""


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

    def local(self, items: Ids) -> Ids:
        """Catalog indices that sequences name as indices of :meth:`read`: int64 [C, …]."""

    def read(self) -> Tensor:
        """The rows that the clients' sequences name, once for every step: float [C, U, D]; row 0 is
        padding."""

    def leaves(self) -> list[Tensor]:
        """Of which tensors a step needs the gradient, after :meth:`read`."""

    def gradient(self, of_leaves: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of :attr:`own` from those of :meth:`leaves`."""

    def drawn(self, negatives: Ids) -> Context:
        """What :meth:`sampled` needs of sampled negatives: int64 [C, K]."""

    def full(
        self, named: Tensor, hidden: Tensor, targets: Tensor, weights: Tensor, bias: Tensor | None
    ) -> Tensor:
        """:func:`~lumos_core.learning.objectives.full_softmax` of every client: float [C].

        Args:
            named: what :meth:`read` returned in this step.
            hidden: float [C, M, D].
            targets: int64 [C, M], indices of ``named``, at padded positions 0 with weight 0.
            weights: float [C, M].
            bias: float [C, N + 1], added to the items' logits.
        """

    def sampled(
        self, named: Tensor, hidden: Tensor, targets: Tensor, negatives: Context, weights: Tensor,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """:func:`~lumos_core.learning.objectives.sampled_softmax` of every client, the same way."""

    def moved(self) -> Iterator[Moved]:
        """How far each client has moved the table. The rows are not used after this."""


class WholeTables:
    """A whole table for each client.

    Args:
        table: float [N + 1, D], the global one.
        named: for each client, the items that its sequences name, rising.
    """

    def __init__(self, table: Tensor, named: Sequence[Ids]) -> None:
        self._base = table
        ids = _with_padding(named)
        self._lookups = [_Lookup(row) for row in ids]
        self._numbers = torch.from_numpy(ids).to(table.device)  # [C, U]
        self.own = table.repeat(len(named), 1, 1).requires_grad_()
        self._named = self.own

    def local(self, items: Ids) -> Ids:
        return np.stack([at(row) for at, row in zip(self._lookups, items, strict=True)])

    def read(self) -> Tensor:
        # A leaf, because a gradient that goes back through the choice of rows would be a table of
        # zeros, to be added to that of the softmax.
        self._named = picked(self.own.detach(), self._numbers).requires_grad_()
        return self._named

    def leaves(self) -> list[Tensor]:
        return [self.own, self._named]

    def gradient(self, of_leaves: Sequence[Tensor | None]) -> Tensor | None:
        own, named = of_leaves
        if named is None:
            return own
        own = torch.zeros_like(self.own) if own is None else own
        named[self._numbers == 0] = 0.0  # padding
        at, dim = in_one_table(self._numbers, own).flatten(), own.shape[2]
        own.view(-1, dim).index_add_(0, at, named.view(-1, dim))
        return own

    def drawn(self, negatives: Ids) -> Context:
        return (torch.from_numpy(negatives).to(self._base.device),)

    def full(
        self, named: Tensor, hidden: Tensor, targets: Tensor, weights: Tensor, bias: Tensor | None
    ) -> Tensor:
        shift = torch.zeros_like(self.own[:, :, 0]) if bias is None else bias
        hide = torch.zeros_like(shift[0])
        hide[0] = HIDDEN
        log_z = log_partition(hidden, self.own, shift + hide, weights)
        positive = _positive(named, hidden, targets, self._numbers, bias)
        return log_z - (positive * weights).sum(1)

    def sampled(
        self, named: Tensor, hidden: Tensor, targets: Tensor, negatives: Context, weights: Tensor,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        (drawn,) = negatives
        rows = picked(self.own, drawn)
        positive = _positive(named, hidden, targets, self._numbers, bias)
        same = self._numbers.gather(1, targets)[..., None] == drawn[:, None]
        items = self.own.shape[1] - 1
        return _against(positive, hidden, rows, items, drawn, same, weights, bias)

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

    def __init__(
        self, table: Tensor, met: Sequence[Ids], others: Sequence[Ids], hides: bool
    ) -> None:
        self._base, self._items = table, _filled(met)
        ids = np.concatenate([np.zeros((len(met), 1), np.int64), self._items, _filled(others)], 1)
        self._lookups = [_Lookup(row) for row in ids]
        rows = torch.from_numpy(self._items).to(table.device)
        self.own = table[rows].requires_grad_()
        self._numbers = torch.from_numpy(ids).to(table.device)
        self._mine = rows
        self._hide = torch.zeros(len(met), len(table) if hides else 1, device=table.device)
        if hides:
            self._hide.scatter_(1, rows, HIDDEN)
            self._hide[:, 0] = HIDDEN  # padding, which is no candidate
        self._frozen = table[self._numbers[:, 1 + self._items.shape[1] :]]

    def local(self, items: Ids) -> Ids:
        return np.stack([at(row) for at, row in zip(self._lookups, items, strict=True)])

    def read(self) -> Tensor:
        return torch.cat([torch.zeros_like(self.own[:, :1]), self.own, self._frozen], 1)

    def leaves(self) -> list[Tensor]:
        return [self.own]

    def gradient(self, of_leaves: Sequence[Tensor | None]) -> Tensor | None:
        return of_leaves[0]

    def drawn(self, negatives: Ids) -> Context:
        last = self._items.shape[1]
        own = self.local(negatives)
        own[own > last] = 0  # a row that the client reads but does not move is the global one
        return tuple(torch.from_numpy(a).to(self._base.device) for a in (negatives, own))

    def full(
        self, named: Tensor, hidden: Tensor, targets: Tensor, weights: Tensor, bias: Tensor | None
    ) -> Tensor:
        padding = torch.where(self._mine == 0, HIDDEN, 0.0).to(hidden.dtype)
        ours = padding if bias is None else padding + bias.gather(1, self._mine)
        others = self._hide if bias is None else self._hide + bias
        log_z = log_partition(hidden, self.own, ours, weights, self._base, others)
        positive = _positive(named, hidden, targets, self._numbers, bias)
        return log_z - (positive * weights).sum(1)

    def sampled(
        self, named: Tensor, hidden: Tensor, targets: Tensor, negatives: Context, weights: Tensor,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        drawn, mine = negatives
        rows = torch.where(mine[..., None] > 0, picked(named, mine), self._base[drawn])
        positive = _positive(named, hidden, targets, self._numbers, bias)
        same = self._numbers.gather(1, targets)[..., None] == drawn[:, None]
        items = len(self._base) - 1
        return _against(positive, hidden, rows, items, drawn, same, weights, bias)

    def moved(self) -> Iterator[Moved]:
        own = (self.own.detach() - self._base[self._mine]).cpu().numpy()
        for items, by in zip(self._items, own.astype(np.float32, copy=False), strict=True):
            met = int((items > 0).sum())  # the rest is padding
            yield Moved(by[:met], items[:met])


def _positive(
    named: Tensor, hidden: Tensor, targets: Tensor, numbers: Tensor, bias: Tensor | None
) -> Tensor:
    """The targets' logits: float [C, M]. ``numbers``: int64 [C, U], the items of ``named``."""
    logits = (hidden * picked(named, targets)).sum(-1)
    return logits if bias is None else logits + bias.gather(1, numbers.gather(1, targets))


def _against(
    positive: Tensor, hidden: Tensor, rows: Tensor, items: int, drawn: Tensor, same: Tensor,
    weights: Tensor, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """The sampled softmax of every client: float [C].

    Args:
        positive: float [C, M], the targets' logits.
        rows: float [C, K, D], of the negatives ``drawn``, int64 [C, K].
        items: N.
        same: bool [C, M, K], where a negative is the example's own target.
    """
    logits = hidden @ rows.mT + math.log(items / drawn.shape[1])
    if bias is not None:
        logits = logits + bias.gather(1, drawn)[:, None]
    joined = torch.cat([positive[..., None], torch.where(same, HIDDEN, logits)], dim=2)
    return ((torch.logsumexp(joined, 2) - positive) * weights).sum(1)


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


def _with_padding(rows: Sequence[Ids]) -> Ids:
    """A column of zeros, then :func:`_filled`."""
    return np.pad(_filled(rows), ((0, 0), (1, 0)))


def _filled(rows: Sequence[Ids]) -> Ids:
    """Rows of different lengths, filled up with zeros on the right; at least one column."""
    out = np.zeros((len(rows), max([1, *map(len, rows)])), dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
