"""Full-ranking evaluation: every target against the whole catalog, the user's history masked.

Results are *sums over users* ("users", "hr@20", "ndcg@20", …), because nodes may send sums, and
sums of nodes can be added; :func:`~lumos_core.learning.metrics.means` turns them into metrics.
"""

from collections.abc import Callable

import numpy as np
import torch

from lumos_core.data.sequences import Sequences
from lumos_core.learning.batching import pad, sorted_batches
from lumos_core.learning.metrics import ranking_sums
from lumos_core.learning.model import SASRec

EVALUATION_BATCH = 256
Scorer = Callable[[np.ndarray], torch.Tensor]
"""int [B] user indices → float [B, N] scores; column j is item j + 1."""


def evaluate(model: SASRec, histories: Sequences, targets: np.ndarray) -> dict[str, float]:
    """Rank each user's target by the model.

    Args:
        model: put into evaluation mode for the call.
        histories: each user's items before the target.
        targets: int64 [U], items 1..N.

    Returns:
        Sums over users, see :func:`~lumos_core.learning.metrics.ranking_sums`.
    """
    return ranking_sums(user_ranks(model, histories, targets))


def user_ranks(model: SASRec, histories: Sequences, targets: np.ndarray) -> np.ndarray:
    """The rank of each user's target by the model; arguments as for :func:`evaluate`.

    Returns:
        float64 [U], see :func:`target_ranks`.
    """
    device = model.items.weight.device

    def score(users: np.ndarray) -> torch.Tensor:
        items, lengths = pad([histories[u] for u in users], model.shape.max_len)
        hidden = model.encode_last(
            torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)
        )
        return model.scores(hidden).cpu()

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return target_ranks(score, histories, targets)
    finally:
        model.train(was_training)


def target_ranks(score: Scorer, histories: Sequences, targets: np.ndarray) -> np.ndarray:
    """Rank of each target (1 = best) among itself and the items that are not in the history.

    A target that is also in the history (a repeated purchase) competes with the unseen items. Ties
    count half, so that a model gains nothing by scoring all items alike; a score that is not a
    number counts as the lowest, so that a diverged model gains nothing either. Users are scored in
    batches of similar length; no more than ``EVALUATION_BATCH × N`` scores exist at a time.

    Returns:
        float64 [U].
    """
    ranks = np.empty(len(histories))
    for users in sorted_batches(histories.lengths, EVALUATION_BATCH):
        scores = score(users)
        scores = torch.where(scores.isnan(), -torch.inf, scores)
        own = scores.gather(1, torch.from_numpy(targets[users] - 1)[:, None])
        seen = [histories[u] for u in users]
        rows = np.repeat(np.arange(len(users)), [len(s) for s in seen])
        scores[torch.from_numpy(rows), torch.from_numpy(np.concatenate(seen) - 1)] = -torch.inf
        scores.scatter_(1, torch.from_numpy(targets[users] - 1)[:, None], own)
        greater = (scores > own).sum(1)
        equal = (scores == own).sum(1) - 1
        ranks[users] = (1 + greater + equal / 2).numpy()
    return ranks
