"""When a round closes, and what becomes of each node then: one table, `Standing`.

Without further settings a round closes when all that were asked have answered, or at its deadline
(`round-timeout`). With `close-at` it closes as soon as so many valid replies are in, and with
`over-select` more nodes are asked than are needed, so that the slowest among them do not count.

A node that is late loses its work for that round, not its place: it is asked again in the first
round that begins after it has answered. Which replies are in time depends on their arrival alone;
the model depends on which are in and not on their order, and the history names them.
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
