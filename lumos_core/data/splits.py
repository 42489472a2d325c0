"""What of the histories trains a model, and what measures it.

================  ==================================================================================
leave-one-out     each user's last two items measure
none              nothing measures
last-days         what happened from a day on measures, over all users: first a window for
                  validation, then, if there is one, a window for the test
================  ==================================================================================
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumos_core.data.sequences import MIN_HISTORY, Sequences, Targets, Times
from lumos_core.data.time_units import UNITS
from lumos_core.errors import DataError


class SplitKeys(Protocol):
    """The keys of a run that say what is held out."""

    @property
    def evaluation(self) -> str: ...
    @property
    def evaluate_from(self) -> str: ...
    @property
    def test_from(self) -> str: ...


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """The split of the sequential-recommendation literature: last item = test, second last =
    validation, the rest trains (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018).

    Raises:
        DataError: if a user has fewer than 3 items.
    """

    sequences: Sequences

    def __post_init__(self) -> None:
        short = np.flatnonzero(self.sequences.lengths < MIN_HISTORY)
        if short.size:
            u = int(short[0])
            raise DataError(
                f"user {self.sequences.user_ids[u]!r} has {len(self.sequences[u])} items, expected "
                f"at least {MIN_HISTORY} (training, validation, test); {short.size} such users; "
                "remove them, or let 'lumos prepare' do it"
            )

    def train(self) -> Sequences:
        """Every history without its last two items."""
        return self.sequences.without_last(2)

    def validation(self) -> tuple[Sequences, Targets]:
        """(histories without their last two items, int64 [U] = the second last items)."""
        return self.train(), self._last(2)

    def test(self) -> tuple[Sequences, Targets]:
        """(histories without their last item, int64 [U] = the last items)."""
        return self.sequences.without_last(1), self._last(1)

    def users_in(self, split: str) -> NDArray[np.int64]:
        """int64 [U]: all users, who have a target in "validation" and in "test"."""
        return np.arange(len(self.sequences))

    def _last(self, back: int) -> Targets:
        return self.sequences.items[self.sequences.offsets[1:] - back].astype(np.int64)


@dataclass(frozen=True, eq=False)
class AllTrain:
    """No split: every item of every user is trained on, and nothing is held out."""

    sequences: Sequences

    def train(self) -> Sequences:
        """The histories as they are."""
        return self.sequences

    def validation(self) -> tuple[Sequences, Targets]:
        """Raises DataError: there are no targets."""
        raise DataError("evaluation = none: no item was held out")

    def test(self) -> tuple[Sequences, Targets]:
        """Raises DataError: there are no targets."""
        return self.validation()

    def users_in(self, split: str) -> NDArray[np.int64]:
        """int64 [0]: nobody has a target."""
        return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class LastDays:
    """A split by time, the same for all users: what happened before a day trains, what happened
    from it on measures. So no model learns from what happened after the moment for which it is
    measured, which leave-one-out lets happen across users (Ji et al., "A Critical Study on Data
    Leakage in Recommender System Offline Evaluation", ACM TOIS 2023).

    The target of a user is the first interaction in a window, given everything before the window:
    one target a user, so that users with many purchases count as the others do, and so that a
    history never reaches into the window that it is measured on.

    Attributes:
        sequences: with times. Users whose first interaction is in a window or after are left out,
            as there is nothing to train on or to encode.
        evaluate_from: where validation begins, in the times' unit.
        test_from: where the test begins and validation ends; infinity for no test.

    Raises:
        DataError: no interaction of anybody is before the windows.
    """

    sequences: Sequences
    times: Times
    evaluate_from: float
    test_from: float

    @classmethod
    def of(cls, users: Sequences, evaluate_from: str, test_from: str = "") -> "LastDays":
        """Split at days.

        Args:
            users: with times.
            evaluate_from, test_from: days, as "2026-11-22"; they begin at 0:00 UTC.

        Raises:
            DataError: there are no times but positions; or nothing is before ``evaluate_from``.
        """
        times = _known_times(users)
        second = _units_in_a_second(times)
        begin = _unix(evaluate_from) * second
        end = _unix(test_from) * second if test_from else np.inf
        known = np.flatnonzero(_before(users, times, begin) > 0)
        if not known.size:
            raise DataError(
                f"evaluate-from = {evaluate_from}: found no interaction before it, expected some "
                "to train on; choose an earlier day, or wait until this node has older data"
            )
        kept = users.subset(known)
        return cls(kept, _known_times(kept), begin, end)

    def train(self) -> Sequences:
        """What happened before both windows; no history is empty."""
        return self.sequences.shortened(_before(self.sequences, self.times, self.evaluate_from))

    def validation(self) -> tuple[Sequences, Targets]:
        """(histories before the validation window, int64 [V] = the first items in it) of the V
        users who have one."""
        return self._window("validation")

    def test(self) -> tuple[Sequences, Targets]:
        """(histories before the test window, int64 [V] = the first items in it) of the V users who
        have one.

        Raises:
            DataError: there is no test window.
        """
        if self.test_from == np.inf:
            raise DataError("evaluation = last-days without test-from: there is no test window")
        return self._window("test")

    def users_in(self, split: str) -> NDArray[np.int64]:
        """int64 [V]: which of ``sequences`` have a target in "validation" or "test"."""
        begin, end = self._edges(split)
        first = _before(self.sequences, self.times, begin)
        return np.flatnonzero(first < _before(self.sequences, self.times, end))

    def _edges(self, split: str) -> tuple[float, float]:
        if split == "test":
            return self.test_from, np.inf
        return self.evaluate_from, self.test_from

    def _window(self, split: str) -> tuple[Sequences, Targets]:
        users, (begin, _) = self.users_in(split), self._edges(split)
        first = _before(self.sequences, self.times, begin)
        targets = self.sequences.items[self.sequences.offsets[users] + first[users]]
        return self.sequences.shortened(first).subset(users), targets.astype(np.int64)


Split = LeaveOneOut | AllTrain | LastDays


def split_of(keys: SplitKeys, sequences: Sequences) -> Split:
    """The split that a run's keys ask for.

    Raises:
        DataError: a user has too few items for it, or times are missing.
    """
    if keys.evaluation == "last-days":
        return LastDays.of(sequences, keys.evaluate_from, keys.test_from)
    return AllTrain(sequences) if keys.evaluation == "none" else LeaveOneOut(sequences)


def least_history(evaluation: str) -> int:
    """Interactions that a user must have to take part."""
    return MIN_HISTORY if evaluation == "leave-one-out" else 1


def _known_times(users: Sequences) -> Times:
    if users.times is None:
        raise DataError(
            "evaluation = last-days: these histories have no times, expected one for each "
            "interaction; give Sequences their times, or choose evaluation = leave-one-out"
        )
    return users.times


def _units_in_a_second(times: Times) -> float:
    """The unit of Unix times, by their size; the reader has seen to it that a file has one."""
    largest = float(np.abs(times).max(initial=0.0))
    for unit in reversed(UNITS):
        if largest >= unit.least:
            return unit.in_a_second
    raise DataError(
        f"evaluation = last-days: found times up to {largest:g}, which are positions and no points "
        "in time, expected Unix times or dates in the interactions; add them, or choose "
        "evaluation = leave-one-out or none"
    )


def _unix(day: str) -> float:
    """Seconds from 1970 to the beginning of a day, UTC.

    >>> _unix("1970-01-02")
    86400.0
    """
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def _before(users: Sequences, times: Times, moment: float) -> NDArray[np.int64]:
    """int64 [U]: how many interactions of each user happened before a moment."""
    earlier = np.concatenate([[0], np.cumsum(times < moment)]).astype(np.int64)
    counts: NDArray[np.int64] = earlier[users.offsets[1:]] - earlier[users.offsets[:-1]]
    return counts
