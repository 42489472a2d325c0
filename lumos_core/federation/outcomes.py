"""How a round can end, and why no further one is begun: one table each."""

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """How a round can end: its event in the history, and what follows.

    An unused round is in the history only if it cost privacy.
    """

    TRAINED = "round", "at least `min-replies` valid replies: the model changes; the next round"
    FAILED = "failed-round", "fewer valid replies: the model stays; the same round is tried again"
    UNUSED = "unused-round", "meanwhile `patience` has ended the run: the replies are not used"

    def __init__(self, event: str, meaning: str) -> None:
        self.event, self.meaning = event, meaning


class Ending(Enum):
    """Why no further round is begun: whether this alone makes the run a failed one, and when it
    applies."""

    ALL_ROUNDS = False, "`rounds` have trained"
    PATIENCE = False, "`patience` evaluations in a row found no better model"
    BUDGET = False, "too few nodes may take part in another round under `max-epsilon`"
    GAVE_UP = True, "more than `max-failed-rounds` rounds in a row failed"

    def __init__(self, fails: bool, meaning: str) -> None:
        self.fails, self.meaning = fails, meaning


class Round(NamedTuple):
    """How a round ended, and the problem if it failed."""

    outcome: Outcome
    problem: str = ""


class Ended(NamedTuple):
    """Why the rounds ended, and a reason to report, if there is one."""

    ending: Ending
    reason: str = ""
