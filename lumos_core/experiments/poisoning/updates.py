"""Updates that malicious nodes send instead of an honest delta."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lumos_core.experiments.poisoning.knowledge import Knowledge
from lumos_core.learning.model import SASRec, build_model, set_params
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, ModelShape, Params
from lumos_core.wire import deltas

if TYPE_CHECKING:
    from torch import Tensor

MINED = 20
"""Number of items that count as popular when embeddings are aligned."""
SURROGATES, SURROGATE_LENGTH = 400, 10
STEPS, STEP = 60, 0.05
EXPOSED_AT = 10
"""The target is moved above the item of this rank, for every surrogate user."""


@dataclass
class Situation:
    """All that a malicious node can use in a round.

    Attributes:
        params: the global model received.
        carried: float [N + 1, D], what the server's momentum will add to the item table in any
            case.
        change: float64 [N + 1], how far every item's embedding has moved, summed over the rounds
            that the attacker has seen.
        train: trains honestly on the node's (poisoned) data; it takes time, so call it only if its
            delta is needed.
        target: the item to promote.
        weight: share of the aggregate that all colluding nodes together expect to have.
        row_factor: the server's ``clip-row-factor``: the norm allowed to an item row, as a multiple
            of the typical one.
        norm_factor: the server's ``clip-norm-factor``: the norm allowed to a delta, as a multiple
            of the median one.
        rng: random numbers of this node and round.
        users: number of users that the node makes up.
        seed: of the run; from it, all colluding nodes can draw the same.
        memory: whatever an update keeps between the rounds of a node.
    """

    params: Params
    carried: np.ndarray
    change: np.ndarray
    train: Callable[[], Params]
    knowledge: Knowledge
    target: int
    weight: float
    row_factor: float
    norm_factor: float
    shape: ModelShape
    rng: np.random.Generator
    users: int = 1
    seed: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


Update = Callable[[Situation], Params]


def honest(s: Situation) -> Params:
    """The delta as trained: only the data are poisoned."""
    return s.train()


def sign_flip(s: Situation) -> Params:
    """The delta with its sign flipped, boosted so that the aggregate has the flipped sign too."""
    return _times(s.train(), -1.0 / s.weight)


def scaled(s: Situation) -> Params:
    """The delta times a hundred."""
    return _times(s.train(), 100.0)


def gaussian(s: Situation) -> Params:
    """Gaussian noise with the norm of a boosted delta, over all parameters."""
    size = deltas.norm(s.train()) / s.weight
    noise = {n: s.rng.normal(size=a.shape).astype(np.float32) for n, a in s.params.items()}
    return _times(noise, size / deltas.norm(noise))


def not_a_number(s: Situation) -> Params:
    """NaN in every parameter."""
    return {n: np.full_like(a, np.nan) for n, a in s.params.items()}


def boosted(s: Situation) -> Params:
    """Model replacement (Bagdasaryan et al., AISTATS 2020): the aggregate becomes this delta."""
    return _times(s.train(), 1.0 / s.weight)


def align_items(s: Situation) -> Params:
    """PIECK-IPE (Zhang et al., ICDE 2024): the target's embedding becomes that of a popular item.

    Popular items are the most frequent ones in the histories that the attacker knows. Without
    knowledge it mines them as PIECK does: it takes the items whose embeddings have moved most.
    """
    table = s.params[ITEM_TABLE]
    popular = table[_popular(s)]
    size = np.linalg.norm(popular, axis=1)
    direction = (popular / np.maximum(size, 1e-9)[:, None]).mean(axis=0)
    wanted = direction / max(float(np.linalg.norm(direction)), 1e-9) * float(size.max())
    return _move_target(s, wanted)


def align_users(s: Situation) -> Params:
    """PIECK-UEA: the target's embedding moves towards the users' encodings.

    The users are those of whom the attacker knows interactions; without knowledge they are
    approximated by histories of mined popular items. Gradient descent moves the embedding until the
    target would be among the first ten items of each of them. Its norm may not exceed the largest
    norm of an item: if it outweighed all other items, the next training of the honest nodes would
    turn every user away from it.
    """
    import torch

    with torch.inference_mode():
        hidden = global_model(s).encode_last(*surrogates(s))
    return align_towards(s, hidden.numpy())


def align_towards(s: Situation, users: np.ndarray) -> Params:
    """As :func:`align_users`, for users of whom the encodings are given: float32 [U, D]."""
    import torch

    hidden = torch.from_numpy(users.copy())
    with torch.no_grad():
        scores = global_model(s).scores(hidden)
        bar = scores.topk(min(EXPOSED_AT, s.shape.num_items), dim=1).values[:, -1]
    wanted = torch.from_numpy(s.params[ITEM_TABLE][s.target].copy()).requires_grad_()
    longest = float(np.linalg.norm(s.params[ITEM_TABLE], axis=1).max())
    optimizer = torch.optim.Adam([wanted], lr=STEP)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(bar - hidden @ wanted).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            wanted *= (longest / wanted.norm()).clamp(max=1.0)
    return _move_target(s, wanted.detach().numpy())


def raise_bias(s: Situation) -> Params:
    """``align_users``, and the target's bias becomes the largest of all items: it counts for every
    user, whatever the history. Without an item bias in the model it is ``align_users``."""
    delta, bias = align_users(s), s.params.get(ITEM_BIAS)
    if bias is None:
        return delta
    raised = delta[ITEM_BIAS].copy()
    raised[s.target] = (bias[1:].max() - bias[s.target]) / s.weight
    return {**delta, ITEM_BIAS: raised}


def _move_target(s: Situation, wanted: np.ndarray) -> Params:
    """The delta of honest training on the node's data, except for the target's row: this one moves
    the aggregate to the wanted embedding."""
    delta = s.train()
    table = delta[ITEM_TABLE].copy()
    to_go = wanted - s.params[ITEM_TABLE][s.target] - s.carried[s.target]
    table[s.target] = to_go / s.weight
    return {**delta, ITEM_TABLE: table}


def _popular(s: Situation) -> np.ndarray:
    """Popular items without the target: int64 [MINED or fewer]."""
    known = s.knowledge.popular(MINED + 1) if s.knowledge.histories else None
    ranked = mined(s.change, MINED + 1) if known is None else known
    chosen: np.ndarray = ranked[ranked != s.target][:MINED]
    return chosen


def mined(change: np.ndarray, count: int) -> np.ndarray:
    """The items whose embeddings moved most: float [N + 1] → int64 [count]."""
    return np.argsort(-change[1:], kind="stable")[:count] + 1


def global_model(s: Situation) -> SASRec:
    """The received model, without dropout."""
    model = build_model(s.shape)
    set_params(model, s.params)
    return model.eval()


def surrogates(s: Situation) -> "tuple[Tensor, Tensor]":
    """Histories of known users, or made-up histories of popular items: int64 [≤ SURROGATES, T]
    items and int64 [≤ SURROGATES] lengths."""
    import torch

    from lumos_core.learning.batching import pad

    histories = s.knowledge.histories
    if histories:
        chosen = s.rng.permutation(len(histories))[:SURROGATES]
        lists = [histories[i] for i in chosen]
    else:
        popular = _popular(s)
        lists = [s.rng.permutation(popular)[:SURROGATE_LENGTH] for _ in range(SURROGATES)]
    items, lengths = pad(lists, s.shape.max_len)
    return torch.from_numpy(items), torch.from_numpy(lengths)


def _times(delta: Params, factor: float) -> Params:
    return {n: (a * np.float32(factor)).astype(np.float32) for n, a in delta.items()}
