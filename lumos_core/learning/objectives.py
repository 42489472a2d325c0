"""Training objectives: next item, tri-view contrast (LUMOS), two-view contrast (ConFedSRS).

Shapes: M next-item examples, B users, D hidden size, N catalog items, K sampled negatives.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def full_softmax(
    hidden: Tensor,
    targets: Tensor,
    item_table: Tensor,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the whole catalog.

    Args:
        hidden: float [M, D].
        targets: int64 [M], items 1..N.
        item_table: float [N + 1, D]; row 0 is padding and never a candidate.
        weights: float [M], of the examples; equal, and 1 together, if not given.
        bias: float [N + 1], added to the items' logits; 0 if not given.

    Returns:
        Scalar, mean over the M examples, or their weighted sum.
    """
    logits = hidden @ item_table[1:].T
    if bias is not None:
        logits = logits + bias[1:]
    if weights is None:
        return F.cross_entropy(logits, targets - 1)
    return (F.cross_entropy(logits, targets - 1, reduction="none") * weights).sum()


def sampled_softmax(
    hidden: Tensor,
    targets: Tensor,
    item_table: Tensor,
    negatives: Tensor,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the target and K negatives that the whole batch shares.

    Negatives are drawn uniformly with replacement; adding ``log(N / K)`` to their logits (the logQ
    correction; Bengio & Senécal 2008, Yi et al. RecSys 2019) makes the denominator an unbiased
    estimate of the full one. A negative equal to the example's own target is left out.

    Args:
        hidden: float [M, D].
        targets: int64 [M], items 1..N.
        item_table: float [N + 1, D].
        negatives: int64 [K], items 1..N.
        weights: float [M], of the examples; equal, and 1 together, if not given.
        bias: float [N + 1], added to the items' logits; 0 if not given.

    Returns:
        Scalar, mean over the M examples, or their weighted sum.
    """
    n, k = len(item_table) - 1, len(negatives)
    positive = (hidden * item_table[targets]).sum(-1, keepdim=True)  # [M, 1]
    logits = hidden @ item_table[negatives].T + math.log(n / k)  # [M, K]
    if bias is not None:
        positive, logits = positive + bias[targets, None], logits + bias[negatives]
    logits = logits.masked_fill(targets[:, None] == negatives, -torch.inf)
    joined = torch.cat([positive, logits], dim=1)
    losses = torch.logsumexp(joined, dim=1) - positive.squeeze(1)
    return losses.mean() if weights is None else (losses * weights).sum()


def tri_view(
    anchor: Tensor,
    future: Tensor | None,
    paraphrase: Tensor | None,
    counterfactual: Tensor | None,
    temperature: float,
) -> Tensor:
    """Pull a history towards its future and paraphrase, away from its counterfactual.

    With s = cosine similarity / temperature, for every user::

        Z = e^{s(h,f)} + e^{s(h,p)} + e^{s(h,c)} + Σ_others [ e^{s(h,f')} + e^{s(h,p')} ]
        L = - log( e^{s(h,f)} / Z ) - log( e^{s(h,p)} / Z )

    where f', p' are the views of the *other* users of the batch; a node with one user has none.
    The case B = 1 is the loss of LUMOS (arXiv 2602.09306) without other users. A view given as
    ``None`` is left out (ablations).

    Args:
        anchor, future, paraphrase, counterfactual: float [B, D].
        temperature: tau > 0.

    Returns:
        Scalar, mean over the B users. At B = 1 with both positives it is at least 2 ln 2.

    Raises:
        ValueError: neither a future nor a paraphrase is given.
    """
    positives = [F.normalize(v, dim=-1) for v in (future, paraphrase) if v is not None]
    if not positives:
        raise ValueError("the tri-view loss needs a future or a paraphrase")
    h = F.normalize(anchor, dim=-1)
    logits = [h @ p.T / temperature for p in positives]  # each [B, B]; the diagonal is one's own
    own = [similarity.diagonal() for similarity in logits]
    if counterfactual is not None:
        c = F.normalize(counterfactual, dim=-1)
        logits.append((h * c).sum(-1, keepdim=True) / temperature)  # [B, 1]
    log_z = torch.logsumexp(torch.cat(logits, dim=1), dim=1)  # [B]
    return torch.stack([log_z - s for s in own]).sum(0).mean()


def two_view(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two perturbations of the same histories (ConFedSRS, CL4SRec).

    Every view's positive is the other view of its user; all other 2(B - 1) views are negatives.

    Args:
        first, second: float [B, D].
        temperature: tau > 0.

    Returns:
        Scalar, mean over the 2B views; 0 for a single user, who has no negatives.
    """
    b = len(first)
    z = F.normalize(torch.cat([first, second]), dim=-1)  # [2B, D]
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * b, device=z.device).roll(b)
    return F.cross_entropy(logits, partner)
