"""The softmax over the whole catalog of many clients at a time, with its gradient.

Autograd would keep the logits of all clients, [C, M, N], and go through them a dozen times: bias,
maximum, exponential, sum, and again on the way back. Here the gradient is computed where the loss
is, for a few clients at a time whose logits stay in the cache, and no logits are kept.

Rows of the item table that no client moves are read from one table for all: their logits are one
product of matrices, and no gradient of them is needed. Examples at the end that do not count are
left out: with the clients in order of length hardly a logit is computed of padding.

Shapes: C clients, M examples, R rows of a client, N items, D hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_LOGITS = 2**18
"""Logits that are computed at a time, roughly: 1 MiB of float32, half of a core's cache."""
HIDDEN = -1e30
"""Added to a logit that must not count; finite, so that no gradient is a NaN."""


class Gradients(NamedTuple):
    """Of the sum of all clients' losses."""

    hidden: Tensor
    own: Tensor
    own_shift: Tensor
    shift: Tensor


def log_partition(
    hidden: Tensor, own: Tensor, own_shift: Tensor, weights: Tensor,
    table: Tensor | None = None, shift: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Every client's weighted sum of log Σᵢ exp(logit of item i) over its examples.

    Args:
        hidden: float [C, M, D].
        own: float [C, R, D], the clients' rows.
        own_shift: float [C, R], added to their logits.
        weights: float [C, M], of the examples, 0 where there is none; without a gradient.
        table: float [N + 1, D], the same for all clients and without a gradient; None: there are
            no rows but the clients' own.
        shift: float [C, N + 1], added to the logits of the table; with a table only.

    Returns:
        float [C].
    """
    found: Tensor = _LogPartition.apply(hidden, own, own_shift, weights, table, shift)  # type: ignore[no-untyped-call]
    return found


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, own: Tensor, own_shift: Tensor, weights: Tensor,
        table: Tensor | None, shift: Tensor | None,
    ) -> Tensor:  # fmt: skip
        sums, gradients = _of_clients(hidden, own, own_shift, weights, table, shift)
        ctx.gradients, ctx.has_table = gradients, table is not None
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if bool((of_sums != 1).any()):  # in place, as nobody goes back twice
            for gradient in gradients:
                gradient *= of_sums.reshape(-1, *[1] * (gradient.dim() - 1))
        of_hidden, own, own_shift, shift = gradients
        return of_hidden, own, own_shift, None, None, shift if ctx.has_table else None


def _of_clients(
    hidden: Tensor, own: Tensor, own_shift: Tensor, weights: Tensor,
    table: Tensor | None, shift: Tensor | None,
) -> tuple[Tensor, Gradients]:  # fmt: skip
    """The clients' sums, float [C], and the gradients of their total."""
    clients = len(hidden)
    sums = hidden.new_empty(clients)
    gradients = Gradients(
        torch.zeros_like(hidden, memory_format=torch.contiguous_format),
        torch.empty_like(own, memory_format=torch.contiguous_format),
        own_shift.new_empty(own_shift.shape),
        hidden.new_empty(clients, 0) if shift is None else shift.new_empty(shift.shape),
    )
    rows = own.shape[1] + (0 if table is None else len(table))
    for block, examples in _blocks(_examples(weights), BLOCK_LOGITS // rows):
        few = (hidden[block, :examples], own[block], own_shift[block], weights[block, :examples])
        into = Gradients(
            few[0].new_empty(few[0].shape), *(gradient[block] for gradient in gradients[1:])
        )
        if table is None or shift is None:
            sums[block] = _of_own_rows(*few, into)
        else:
            sums[block] = _of_all_rows(*few, table, shift[block], into)
        gradients.hidden[block, :examples] = into.hidden
    return sums, gradients


def _examples(weights: Tensor) -> list[int]:
    """Up to where each client has examples that count; at least 1."""
    numbers = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    found: list[int] = ((weights != 0) * numbers).amax(1).clamp_min(1).tolist()
    return found


def _blocks(examples: Sequence[int], most: int) -> Iterator[tuple[slice, int]]:
    """Clients that come one after another, with the most examples that one of them has: as many
    clients as have, with that, ``most`` examples together; at least one.

    >>> list(_blocks([2, 2, 3, 9, 1], most=6))
    [(slice(0, 2, None), 2), (slice(2, 3, None), 3), (slice(3, 4, None), 9), (slice(4, 5, None), 1)]
    """
    first, longest = 0, 0
    for client, own in enumerate(examples):
        if client > first and (client + 1 - first) * max(longest, own) > most:
            yield slice(first, client), longest
            first, longest = client, 0
        longest = max(longest, own)
    yield slice(first, len(examples)), longest


def _of_own_rows(
    hidden: Tensor, own: Tensor, own_shift: Tensor, weights: Tensor, into: Gradients
) -> Tensor:
    logits = torch.baddbmm(own_shift[:, None], hidden, own.mT)  # [C, M, R]
    top = logits.amax(-1, keepdim=True)
    total = logits.sub_(top).exp_().sum(-1)
    share = weights / total  # of a term of the sum, what it is of the gradient
    _gradient_of_own(logits, hidden, own, share, into)
    into.hidden.mul_(share[..., None])
    return ((total.log() + top[..., 0]) * weights).sum(-1)


def _of_all_rows(
    hidden: Tensor, own: Tensor, own_shift: Tensor, weights: Tensor, table: Tensor, shift: Tensor,
    into: Gradients,
) -> Tensor:  # fmt: skip
    clients, examples, dim = hidden.shape
    ours = torch.baddbmm(own_shift[:, None], hidden, own.mT)  # [C, M, R]
    others = (hidden.reshape(-1, dim) @ table.T).view(clients, examples, -1)
    others += shift[:, None]
    top = torch.maximum(ours.amax(-1, keepdim=True), others.amax(-1, keepdim=True))
    total = ours.sub_(top).exp_().sum(-1) + others.sub_(top).exp_().sum(-1)
    share = weights / total
    _gradient_of_own(ours, hidden, own, share, into)
    into.hidden.add_((others.view(-1, len(table)) @ table).view(hidden.shape))
    into.hidden.mul_(share[..., None])
    torch.bmm(share[:, None], others, out=into.shift[:, None])
    return ((total.log() + top[..., 0]) * weights).sum(-1)


def _gradient_of_own(
    terms: Tensor, hidden: Tensor, own: Tensor, share: Tensor, into: Gradients
) -> None:
    """Fill in what own rows add to the gradients; that of ``hidden`` still lacks the shares."""
    torch.bmm(terms, own, out=into.hidden)
    torch.bmm(terms.mT, share[..., None] * hidden, out=into.own)
    torch.bmm(share[:, None], terms, out=into.own_shift[:, None])
