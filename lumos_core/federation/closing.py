"""When a round closes, and what becomes of each node then: one table, `Standing`.

Without further settings a round closes when all that were asked have answered, or at its deadline
(`round-timeout`). With `close-at` it closes as soon as so many valid replies are in, and with
`over-select` more nodes are asked than are needed, so that the slowest among them do not count.

With `mode = async` a late reply is not lost. A round closes with `buffer-size` valid replies,
whichever rounds they answer (FedBuff: Nguyen et al., AISTATS 2022). A delta to a model that is s
rounds older counts 1/√(1+s) of itself, and is refused when s is above `max-staleness`. A node is
asked again in the next round that begins after its reply has come, so it is in a round once at
most, and no node waits for a slower one.

Without it, a node that is late loses its work for that round, not its place: it, too, is asked
again in the first round that begins after it has answered. Which replies are in time depends on
their arrival alone; the model depends on which are in and not on their order, and the history names
them.
"""

import math
from enum import Enum
from typing import NamedTuple

from lumos_core.config import RunConfig

_ROUNDING = 1e-9  # in floats .07 · 100 > 7


class Standing(Enum):
    """What a member is to a round: where the history names it, and what follows."""

    IN = "ok", "its valid reply was in before the close: part of the model"
    INVALID = "failed", "its reply was not what was asked for; it is asked again in the next round"
    SILENT = "failed", "no reply before the deadline; it is asked again in the next round"
    LATE = "late", "no reply before the close: busy until it comes, and then the reply is ignored"
    BUSY = "busy", "late in an earlier round and still at work: not asked"
    STALE = "staleness", "with mode = async: its valid reply is to an earlier model and counts less"
    WORKING = "working", "with mode = async: no reply before the close; it counts in a later round"

    def __init__(self, listed: str, meaning: str) -> None:
        self.listed, self.meaning = listed, meaning


class Close(NamedTuple):
    """What closes a round before its deadline.

    Attributes:
        replies: so many valid train replies.
        evaluations: and so many answers of nodes that only evaluate.
    """

    replies: int
    evaluations: int

    @classmethod
    def of(cls, config: RunConfig, members: int, asked: int, evaluating: int) -> "Close":
        """The close of a round.

        Args:
            config: of the run.
            members: how many nodes there are to choose from, busy ones included: a busy node must
                not make the round close earlier.
            asked: how many are asked to train.
            evaluating: how many are only asked to evaluate; the same share of them is waited for.
        """
        whole = config.close_at > 1
        share = config.close_at * wanted(config, members)
        needed = int(config.close_at) if whole else _up(share)
        replies = min(max(needed, config.min_replies), asked)
        return cls(replies, _up(evaluating * replies / asked) if asked else evaluating)

    @classmethod
    def of_buffer(cls, config: RunConfig, outstanding: int) -> "Close":
        """The close of a round with ``mode = async``.

        Args:
            config: of the run.
            outstanding: how many nodes are at work, those that are asked now included.
        """
        return cls(min(config.buffer_size, outstanding), 0)

    def reached(self, replies: int, evaluations: int) -> bool:
        """Whether so many are enough."""
        return replies >= self.replies and evaluations >= self.evaluations


def wanted(config: RunConfig, members: int) -> int:
    """How many of the members `fraction` chooses; at least min-replies."""
    return max(_up(config.fraction * members), config.min_replies)


def to_ask(config: RunConfig, members: int) -> int:
    """How many are asked to train if so many are free."""
    return _up(wanted(config, members) * (1 + config.over_select))


def _up(number: float) -> int:
    return math.ceil(number - _ROUNDING)
