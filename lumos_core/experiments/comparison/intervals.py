"""How certain a difference between two variants is: a paired bootstrap over users and seeds.

All seeds rank the same users, so the spread over seeds alone hides most of the uncertainty: other
users would give other numbers. Here every draw takes users with replacement and, independently of
that, seeds with replacement; both variants get the same users and the same seeds. The interval
holds the middle 95 % of the relative differences of the means. With one seed, only users are drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS = 2_000
SEED = 0
"""The bootstrap's own seed: the same results always give the same interval."""
LEVEL = 0.95
_BLOCK = 100  # draws at a time, which bounds the memory

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]


class Interval(NamedTuple):
    """A relative difference A / B − 1 of means over users and seeds, and its interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 if the whole interval is on that side of zero, otherwise 0."""
        return int(self.low > 0) - int(self.high < 0)


def user_metric(ranks: Floats, metric: str) -> Floats:
    """The metric of every single user: of ranks [..., U], "hr@K" or "ndcg@K" → [..., U]."""
    name, _, cutoff = metric.partition("@")
    hit = ranks <= int(cutoff)
    gains = {"hr": hit.astype(np.float64), "ndcg": hit / np.log2(1 + ranks)}
    return gains[name]


def drawn(stream: int, size: int, draws: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices 0..size - 1 drawn with replacement, int64 [at most 100, size], ``draws`` rows in all.

    Args:
        stream: draws of different streams are independent.
    """
    rng = np.random.default_rng([SEED, stream, size])
    for start in range(0, draws, _BLOCK):
        yield rng.integers(0, size, (min(_BLOCK, draws - start), size))


@dataclass
class Bootstrap:
    """Draws of users and seeds, made once and used for every pair of variants.

    Args:
        users: how many there are.
        draws: how many samples are drawn.
    """

    users: int
    draws: int = DRAWS
    _users: Counts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._users = _counts(0, self.users, self.draws)

    def relative(self, ours: Floats, base: Floats) -> Interval | None:
        """The relative difference of two variants.

        Args:
            ours, base: a metric of every user, float64 [seeds, U]; row s is the same seed in both.

        Returns:
            None where the reference is zero, or could be in a sample.
        """
        if ours.shape != base.shape or ours.shape[1] != self.users:
            raise ValueError(f"{ours.shape} and {base.shape}, expected [seeds, {self.users}]")
        seeds = _counts(1, len(ours), self.draws)
        over, under = ((self._sums(values) * seeds).sum(axis=1) for values in (ours, base))
        if not base.mean() or not under.all():
            return None
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(over / under - 1, [tail, 1 - tail])
        return Interval(float(ours.mean() / base.mean() - 1), float(low), float(high))

    def _sums(self, values: Floats) -> Floats:
        """float64 [draws, seeds]: the sums over the drawn users."""
        # not a product of BLAS, whose threads wait for each other where other runs are computing
        blocks = (self._users[b : b + _BLOCK] for b in range(0, self.draws, _BLOCK))
        return np.concatenate([np.einsum("du,su->ds", block, values) for block in blocks])


def _counts(stream: int, size: int, draws: int) -> Counts:
    """[draws, size]: how often each index is in each draw."""
    counts = np.empty((draws, size), dtype=np.uint16)
    for number, row in enumerate(row for block in drawn(stream, size, draws) for row in block):
        counts[number] = np.bincount(row, minlength=size)
    return counts
