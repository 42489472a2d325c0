"""The nearness of titles, which is added to the scores of the encoder when items are ranked.

Training on next items makes the embeddings of rare items follow how often they occur, and what
their titles say is lost. Nearness of titles is not trained: it is computed from the public catalog
and a user's own history, costs no traffic, and reveals nothing. The scores of the encoder and the
nearness are brought to the same scale for every user, then added up with one weight for all users::

    score(i) = z(encoder(history)_i) + weight · z(cosine(titles of the history, title of i))

where z subtracts the mean over the catalog and divides by the standard deviation. Recent items of
the history count more. The weight is a setting, or is chosen on the validation targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lumos_core.data.catalog import Catalog
from lumos_core.views.titles.space import recency_weights

HALF_LIFE = 2.0
"""After this many items, an item of the history counts half."""


@dataclass(frozen=True)
class TitleNearness:
    """Title vectors of a catalog.

    Attributes:
        vectors: float32 [N, H], one row of length 1 (or 0) per item, in catalog order.
    """

    vectors: Tensor

    @classmethod
    def of(cls, catalog: Catalog) -> "TitleNearness":
        """The nearness of a catalog's titles by TF-IDF, computed once per machine."""
        from lumos_core.views.titles.vectors import tfidf_title_vectors

        return cls(torch.from_numpy(tfidf_title_vectors(catalog)))

    def near(self, histories: Sequence[npt.NDArray[np.integer]]) -> Tensor:
        """The recency-weighted mean cosine of each history's items with every item.

        Args:
            histories: B histories of catalog indices, none of them empty.

        Returns:
            float32 [B, N].
        """
        profiles = torch.stack([self._profile(history) for history in histories])  # [B, H]
        return profiles @ self.vectors.T

    def _profile(self, history: npt.NDArray[np.integer]) -> Tensor:
        weights = torch.from_numpy(recency_weights(len(history), HALF_LIFE))
        return weights @ self.vectors[torch.from_numpy(history.astype(np.int64) - 1)]


def fused(scores: Tensor, nearness: Tensor, weight: float) -> Tensor:
    """Scores with the nearness of titles added.

    Args:
        scores: float [B, N], by the encoder. Values that are not finite stay as they are.
        nearness: float [B, N].
        weight: of the nearness; 0 returns the scores unchanged.

    >>> scores = torch.tensor([[2.0, 0.0, -2.0]])
    >>> fused(scores, torch.tensor([[0.0, 1.0, 0.5]]), 0.0) is scores
    True
    >>> fused(scores, torch.tensor([[0.0, 1.0, 0.5]]), 2.0).argmax().item()
    1
    """
    return scores if weight == 0 else _standardised(scores) + weight * _standardised(nearness)


def fused_by_weight(scores: Tensor, nearness: Tensor, weights: Sequence[float]) -> Iterator[Tensor]:
    """:func:`fused` for each weight in turn; both are standardised once for all of them."""
    if any(weights):
        standard, near = _standardised(scores), _standardised(nearness)
    for weight in weights:
        yield scores if weight == 0 else standard + weight * near


def _standardised(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 in each row; rows whose values are all alike become 0."""
    spread = values.std(dim=1, keepdim=True, correction=0)
    return (values - values.mean(dim=1, keepdim=True)) / spread.clamp_min(1e-9)
