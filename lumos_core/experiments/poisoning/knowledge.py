"""What an attacker knows besides the global models that it receives."""

from dataclasses import dataclass

import numpy as np

from lumos_core.data.sequences import Sequences

COLD_SHARE = 0.25


@dataclass(frozen=True)
class Knowledge:
    """A share of the honest training interactions.

    Attributes:
        items: number of items in the catalog (N).
        histories: the known interactions of the honest users' training histories, in their order;
            users with fewer than two known interactions are left out.
    """

    items: int
    histories: list[np.ndarray]

    @classmethod
    def of(
        cls, train: Sequences, items: int, share: float, rng: np.random.Generator
    ) -> "Knowledge":
        """Every interaction of the training histories is known with probability ``share``."""
        known = [history[rng.random(len(history)) < share] for history in train]
        return cls(items, [h for h in known if len(h) >= 2])

    def popular(self, count: int) -> np.ndarray:
        """The ``count`` most frequent items of the known histories, most frequent first: int64."""
        counts = interaction_counts(self.histories, self.items)
        return np.argsort(-counts, kind="stable")[:count] + 1


def interaction_counts(histories: list[np.ndarray] | Sequences, items: int) -> np.ndarray:
    """Interactions of every item: int64 [N]; entry j is of item j + 1."""
    met = np.concatenate([np.asarray(h, dtype=np.int64) for h in histories] or [np.zeros(0, int)])
    return np.bincount(met, minlength=items + 1)[1:]


def cold_target(train: Sequences, items: int, rng: np.random.Generator) -> int:
    """An item to promote: a random one of the least popular quarter of the items that occur in
    training histories."""
    counts = interaction_counts(train, items)
    met = np.flatnonzero(counts)
    coldest = met[np.argsort(counts[met], kind="stable")]
    return int(rng.choice(coldest[: max(int(len(met) * COLD_SHARE), 1)])) + 1
