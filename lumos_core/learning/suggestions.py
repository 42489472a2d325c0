"""Which items are suggested at all, and how popular they are: coverage and popularity bias.

Both need to know which items users are suggested, so they are computed where all users are in one
process, and never from what nodes send.
"""

import numpy as np
import numpy.typing as npt
import torch

FIRST = 20
"""Suggestions of a user that count."""


class Suggestions:
    """In how many users' first K suggestions each item is.

    Args:
        num_items: N.
        first: K.

    >>> found = Suggestions(4, first=2)
    >>> found.add(torch.tensor([[3.0, 2.0, 1.0, -torch.inf], [9.0, 8.0, 1.0, 0.0]]))
    >>> found.counts.tolist(), found.coverage
    ([0, 2, 2, 0, 0], 0.5)
    >>> found.mean_uses(np.array([0, 10, 2, 0, 0]))
    6.0
    """

    def __init__(self, num_items: int, first: int = FIRST) -> None:
        self._first = min(first, num_items)
        self.counts: npt.NDArray[np.int64] = np.zeros(num_items + 1, dtype=np.int64)

    def add(self, scores: torch.Tensor) -> None:
        """Count the first suggestions of some users.

        Args:
            scores: float [B, N]; -inf for items that are not suggested, as those of the history.
        """
        values, columns = scores.topk(self._first, dim=1)
        items = columns[values > -torch.inf] + 1
        self.counts += np.bincount(items.numpy(), minlength=len(self.counts))

    @property
    def coverage(self) -> float:
        """The share of the catalog that is suggested to anybody."""
        return float((self.counts[1:] > 0).mean())

    def mean_uses(self, uses: npt.NDArray[np.int64]) -> float:
        """How often a suggested item occurs in training: the mean over all users' suggestions.

        Args:
            uses: int64 [N + 1], of each item.
        """
        total = int(self.counts.sum())
        return float((self.counts * uses).sum() / total) if total else 0.0
