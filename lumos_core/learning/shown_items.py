"""What users are shown, taken together: how much of the catalog, and how popular it is.

A model can hit well and show everybody the same few items. Two numbers tell, beside HR and NDCG:

* **coverage@K**: the share of the catalog that is among the first K items of at least one user;
* **popularity lift@K**: the mean popularity of the items shown, divided by the mean popularity of
  the users' targets. Popularity is the number of occurrences in training. Above 1, what is shown is
  more popular than what users go on to take.

Both need the union of what single users are shown, counted by item. That says more about users than
sums of metrics do (with a few users, it is their lists), so nodes never send it: these numbers are
for experiments, in one process.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SHOWN = 20
"""Items that a user is shown."""
COVERAGE, LIFT = f"coverage@{SHOWN}", f"popularity_lift@{SHOWN}"


@dataclass
class ShownItems:
    """Counts of the items that are shown to users.

    Attributes:
        counts: int64 [N], how many users have item j + 1 among their first :data:`SHOWN`.
    """

    num_items: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.num_items, dtype=np.int64)

    def add(self, scores: "torch.Tensor") -> None:
        """Count what users are shown.

        Args:
            scores: float [B, N]; what is not to be shown, such as items of the history, is −∞.
                Which of equal scores comes first is left to torch.
        """
        best = scores.topk(min(SHOWN, self.num_items), dim=1)
        shown = best.indices[best.values > -np.inf].numpy()
        self.counts += np.bincount(shown, minlength=self.num_items)

    def metrics(
        self, popularity: NDArray[np.integer], targets: NDArray[np.integer]
    ) -> dict[str, float]:
        """Coverage and popularity lift.

        Args:
            popularity: [N] occurrences of each item in training.
            targets: [U], items 1..N, of the users that were shown something.

        Returns:
            :data:`COVERAGE`, and :data:`LIFT` unless nothing was shown or no target ever occurs in
            training.
        """
        found = {COVERAGE: float((self.counts > 0).mean())}
        shown, wanted = self.counts.sum(), popularity[targets - 1]
        if shown and wanted.sum():
            mean_shown = float(self.counts @ popularity) / float(shown)
            found[LIFT] = mean_shown / float(wanted.mean())
        return found
