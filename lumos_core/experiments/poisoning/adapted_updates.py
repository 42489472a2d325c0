"""Updates adapted to the server's bounds: projected gradient descent within all of them.

Nothing that these nodes send is clipped: each update serves one aim and is as large as the bounds
allow. The bounds follow the typical delta; the attacker estimates that by its own honest delta.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from lumos_core.experiments.poisoning.updates import Situation, global_model, surrogates
from lumos_core.federation.aggregation.clipping import row_norms, typical_row
from lumos_core.learning.model import last_position, scaled_bias
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, OF_ITEMS, Params
from lumos_core.wire import deltas

STEPS = 20
ENCODER_STEPS = 10
AHEAD = 3.0
"""The encoder is optimised as if moved by this multiple of a delta: momentum and later rounds
repeat it."""

Tensors = dict[str, Tensor]


def align_all(s: Situation) -> Params:
    """Promote the target with all rows of the item table, so that no row is conspicuous.

    Projected gradient descent on the cross-entropy of "the target comes next" for the users that
    the attacker knows, over the whole item table as the aggregate will change it. The target's row
    moves as far as the bound on rows permits, the other rows as far as this bound and the bound on
    norms permit; other parameters do not move.
    """
    own = s.train()
    rows = len(own[ITEM_TABLE])
    row_bound, norm_bound = _bounds(s, own)
    rest = math.sqrt(max(norm_bound**2 - row_bound**2, 0.0) / max(rows - 2, 1))
    longest = torch.full((rows, 1), min(rest, row_bound))
    longest[0], longest[s.target] = 0.0, row_bound

    model = global_model(s)
    items, lengths = surrogates(s)
    wanted = torch.full((len(items),), s.target - 1)
    start = torch.from_numpy(s.params[ITEM_TABLE] + s.carried)
    moved = torch.zeros_like(start)
    for _ in range(STEPS):
        with torch.no_grad():
            model.items.weight.copy_(start + s.weight * moved)
        loss = F.cross_entropy(model.scores(model.encode_last(items, lengths)), wanted)
        (slope,) = torch.autograd.grad(loss, model.items.weight)
        moved -= 2 * longest / STEPS * F.normalize(slope, dim=1)
        moved *= (longest / moved.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1.0)
    return {n: moved.numpy() if n == ITEM_TABLE else np.zeros_like(a) for n, a in own.items()}


def align_encoder(s: Situation) -> Params:
    """Change the encoder so that every history is encoded close to the target.

    The norm is used for the parameters that no bound on rows covers, except for the target's own
    row, which moves towards the users' encodings.
    """
    own = s.train()
    row_bound, norm_bound = _bounds(s, own)
    items, lengths = surrogates(s)
    wanted = torch.full((len(items),), s.target - 1)
    room = math.sqrt(max(norm_bound**2 - row_bound**2, 0.0))
    moved, hidden = _move_encoder(
        s, items, lengths, room, lambda scores: F.cross_entropy(scores, wanted)
    )
    still = _still(own)
    still[ITEM_TABLE][s.target] = row_bound * F.normalize(hidden.mean(dim=0), dim=0).numpy()
    return {**still, **moved}


def ruin_encoder(s: Situation) -> Params:
    """Change the encoder so that the true next items of the known histories become unlikely."""
    own = s.train()
    _, norm_bound = _bounds(s, own)
    items, lengths = surrogates(s)
    came = items[torch.arange(len(items)), lengths - 1] - 1
    before = (lengths - 1).clamp_min(1)
    moved, _ = _move_encoder(
        s, items, before, norm_bound, lambda scores: -F.cross_entropy(scores, came)
    )
    return {**_still(own), **moved}


def _still(own: Params) -> Params:
    """Zeros for what the bound on rows covers."""
    return {n: np.zeros_like(a) for n, a in own.items() if n in OF_ITEMS}


def _bounds(s: Situation, own: Params) -> tuple[float, float]:
    """The bounds on the norms of an item row and of a delta, as the attacker estimates them."""
    row = s.row_factor * typical_row(row_norms(own[ITEM_TABLE]))
    return row, s.norm_factor * deltas.norm(own)


def _move_encoder(
    s: Situation,
    items: Tensor,
    lengths: Tensor,
    room: float,
    loss_of: Callable[[Tensor], Tensor],
) -> tuple[Params, Tensor]:
    """Move everything that the bound on rows does not cover, so that a loss decreases: all but the
    item table and the item bias.

    Args:
        items, lengths: int64 [B, T] and [B], histories.
        room: largest L2 norm of the delta.
        loss_of: the loss of float [B, N], the scores of all items behind the histories.

    Returns:
        The delta without these two, and the histories encoded after it: float [B, D].
    """
    model = global_model(s)
    start = {n: torch.from_numpy(a.copy()) for n, a in s.params.items()}
    table = start[ITEM_TABLE][1:].T
    moved = {n: torch.zeros_like(a) for n, a in start.items() if n not in OF_ITEMS}

    def look(leaves: Tensors) -> Tensor:
        return last_position(functional_call(model, {**start, **leaves}, (items,)), lengths)

    def score(leaves: Tensors) -> Tensor:
        scores = look(leaves) @ table
        bias = scaled_bias(start.get(ITEM_BIAS))
        return scores if bias is None else scores + bias[1:]

    def ahead() -> Tensors:
        return {n: (start[n] + AHEAD * s.weight * a).requires_grad_() for n, a in moved.items()}

    for _ in range(ENCODER_STEPS):
        leaves = ahead()
        slopes = torch.autograd.grad(loss_of(score(leaves)), list(leaves.values()))
        step = 2 * room / ENCODER_STEPS / _length(slopes)
        further = {n: moved[n] - step * g for n, g in zip(moved, slopes, strict=True)}
        shrink = (room / _length(further.values())).clamp(max=1.0)
        moved = {n: a * shrink for n, a in further.items()}
    with torch.no_grad():
        hidden = look(ahead())
    return {n: a.numpy() for n, a in moved.items()}, hidden


def _length(arrays: Iterable[Tensor]) -> Tensor:
    """L2 norm of all arrays together."""
    length: Tensor = torch.stack([a.norm() for a in arrays]).norm()
    return length.clamp_min(1e-12)
