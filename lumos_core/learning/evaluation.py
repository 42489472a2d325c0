"""Full-ranking evaluation: every target against the whole catalog, the user's history masked.

Results are *sums over users* ("users", "hr@20", "ndcg@20", …), because nodes may send sums, and
sums of nodes can be added; :func:`~lumos_core.learning.metrics.means` turns them into metrics.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from lumos_core.data.sequences import Sequences
from lumos_core.learning.batching import pad, sorted_batches
from lumos_core.learning.metrics import SELECTION_METRIC, ranking_sums
from lumos_core.learning.model import SASRec
from lumos_core.learning.suggestions import Suggestions
from lumos_core.learning.title_nearness import TitleNearness, fused_by_weight

EVALUATION_BATCH = 128
BLOCK_SCORES = 2**24
"""Scores of a batch, at most: with a large catalog, fewer users are ranked at a time."""
Scorer = Callable[[np.ndarray], torch.Tensor]
"""int [B] user indices → float [B, N] scores; column j is item j + 1."""


def evaluate(
    model: SASRec,
    histories: Sequences,
    targets: np.ndarray,
    titles: TitleNearness | None = None,
    weights: Sequence[float] = (0.0,),
) -> dict[float, dict[str, float]]:
    """Rank each user's target by the model, once for each weight of the titles' nearness.

    Args:
        model: put into evaluation mode for the call.
        histories: each user's items before the target.
        targets: int64 [U], items 1..N.
        titles: the nearness of titles; needed unless 0 is the only weight.
        weights: see :mod:`~lumos_core.learning.title_nearness`.

    Returns:
        By weight: sums over users, see :func:`~lumos_core.learning.metrics.ranking_sums`.

    Raises:
        ValueError: a weight is not 0, and there are no titles.
    """
    ranks = ranks_by_weight(model, histories, targets, titles, weights)
    return {weight: ranking_sums(row) for weight, row in zip(weights, ranks, strict=True)}


def user_ranks(
    model: SASRec,
    histories: Sequences,
    targets: np.ndarray,
    titles: TitleNearness | None = None,
    weight: float = 0.0,
    suggested: Suggestions | None = None,
) -> np.ndarray:
    """The rank of each user's target; arguments as for :func:`evaluate`, with one weight.

    Args:
        suggested: counts what is suggested to these users.

    Returns:
        float64 [U], see :func:`target_ranks`.
    """
    weights = (weight,)
    ranks: np.ndarray = ranks_by_weight(model, histories, targets, titles, weights, suggested)[0]
    return ranks


def best_weight(sums: Mapping[float, Mapping[str, float]]) -> float:
    """The weight with the best selection metric; of equal ones the first."""
    return max(sums, key=lambda weight: sums[weight][SELECTION_METRIC])


def ranks_by_weight(
    model: SASRec,
    histories: Sequences,
    targets: np.ndarray,
    titles: TitleNearness | None,
    weights: Sequence[float],
    suggested: Suggestions | None = None,
) -> np.ndarray:
    """The rank of each user's target for each weight of the titles' nearness.

    Args: as in :func:`evaluate` and, with one weight, :func:`user_ranks`.

    Returns:
        float64 [weights, U], 1 = best.

    Raises:
        ValueError: a weight is not 0, and there are no titles.
    """
    if titles is None and any(weights):
        raise ValueError(
            f"weights = {tuple(weights)}: found no titles, expected their nearness, which these "
            "weights are of; give TitleNearness.of(catalog) as titles, or 0 as the only weight"
        )

    def scores(users: np.ndarray) -> Iterator[torch.Tensor]:
        chosen = [histories[u] for u in users]
        encoded = encoder_scores(model, chosen)
        # with 0 as the only weight, what is near does not count
        near = titles.near(chosen) if titles is not None and any(weights) else encoded
        return fused_by_weight(encoded, near, weights)

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            batch = batch_users(model.shape.num_items)
            return _ranks(scores, len(weights), histories, targets, batch, suggested)
    finally:
        model.train(was_training)


def batch_users(num_items: int) -> int:
    """How many users are ranked at a time.

    >>> batch_users(2_420), batch_users(1_000_000)
    (128, 16)
    """
    return max(min(EVALUATION_BATCH, BLOCK_SCORES // max(num_items, 1)), 1)


def encoder_scores(model: SASRec, histories: Sequence[np.ndarray]) -> torch.Tensor:
    """Scores of all items by the encoder alone, on the CPU: B histories → float [B, N]."""
    device = model.items.weight.device
    items, lengths = pad(histories, model.shape.max_len)
    hidden = model.encode_last(
        torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)
    )
    return model.scores(hidden).cpu()


def target_ranks(
    score: Scorer,
    histories: Sequences,
    targets: np.ndarray,
    suggested: Suggestions | None = None,
) -> np.ndarray:
    """Rank of each target (1 = best) among itself and the items that are not in the history.

    A target that is also in the history (a repeated purchase) competes with the unseen items. Ties
    count half, so that a model gains nothing by scoring all items alike; a score that is not a
    number counts as the lowest, so that a diverged model gains nothing either. Users are scored in
    batches of similar length; only a few arrays of ``EVALUATION_BATCH × N`` exist at a time.

    Args:
        suggested: counts what is suggested to these users.

    Returns:
        float64 [U].
    """

    def scores(users: np.ndarray) -> Iterator[torch.Tensor]:
        return iter((score(users),))

    ranks: np.ndarray = _ranks(scores, 1, histories, targets, suggested=suggested)[0]
    return ranks


def _ranks(
    scores: Callable[[np.ndarray], Iterator[torch.Tensor]],
    rankings: int,
    histories: Sequences,
    targets: np.ndarray,
    batch: int = EVALUATION_BATCH,
    suggested: Suggestions | None = None,
) -> np.ndarray:
    """:func:`target_ranks` for several rankings of the same users: float64 [rankings, U]."""
    ranks = np.empty((rankings, len(histories)))
    for users in sorted_batches(histories.lengths, batch):
        seen = [histories[u] for u in users]
        rows = torch.from_numpy(np.repeat(np.arange(len(users)), [len(s) for s in seen]))
        columns = torch.from_numpy(np.concatenate(seen) - 1)
        target = torch.from_numpy(targets[users] - 1)[:, None]
        for number, found in enumerate(scores(users)):
            found = torch.where(found.isnan(), -torch.inf, found)
            own = found.gather(1, target)
            found[rows, columns] = -torch.inf
            if suggested is not None:
                suggested.add(found)
            found.scatter_(1, target, own)
            # int32 is enough, and torch adds up booleans in it several times as fast as in int64
            greater = (found > own).sum(1, dtype=torch.int32)
            equal = (found == own).sum(1, dtype=torch.int32) - 1
            ranks[number, users] = (1 + greater + equal / 2).numpy()
    return ranks
