"""The instructions of a server and the replies of its nodes, independent of the network."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from lumos_core.learning.parameters import Params
from lumos_core.views.titles.artefact_pieces import Offered, Piece

Split = Literal["validation", "test"]
Rows = npt.NDArray[np.int64]
"""Numbers of rows of the item table, rising."""
Metrics = dict[str, int | float]
"""Counts and sums by name (:mod:`lumos_core.wire.reply_checks`)."""
Value = int | str | bytes | list[str] | list[bytes]
Packet = dict[str, Value]
"""A message of secure aggregation (:mod:`lumos_core.privacy.secure_aggregation.packets`)."""


@dataclass(frozen=True)
class Instruction:
    """What a node is asked to do."""

    node: str
    kind: Literal["describe", "artefact", "prepare", "train", "evaluate", "secagg"]
    round: int = 0
    params: Params | None = None
    evaluate: Split | None = None  # the targets to evaluate the received model on
    secure: Packet | None = None  # of secure aggregation; with "train": that of its upload step
    seconds: float = 0.0  # with "prepare": the longest time to work on views
    title_weight: float = 0.0  # of the titles' nearness, for rankings by the model in `params`
    offered: Offered | None = None  # with "artefact": the server's catalog artefact
    piece: Piece | None = None  # with "artefact": a piece of it; None: the first question
    catalog: str = ""  # fingerprint of the node's catalog, if it is an earlier version of the run's


@dataclass(frozen=True)
class Reply:
    """A node's answer. Nothing in it has been checked yet."""

    node: str
    kind: str
    arrays: Params | None = None
    metrics: Metrics = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    secure: Packet = field(default_factory=dict)  # of secure aggregation
    sum_of: tuple[str, ...] = ()  # the nodes whose sum this is; empty: the reply of `node` alone
    error: str | None = None  # a code, see client_app.error_codes; never an exception's text
    rows: Rows | None = None  # the item table's rows in `arrays`, if a transport leaves out others
    too_large: bool = False  # it was refused unread (lumos_core.wire.reply_limits)
    round: int | None = None  # that of the instruction it answers, as a talk knows it
    bytes_up: int = 0
    bytes_down: int = 0


class Talk(Protocol):
    """Instructions and replies, each sent or received on its own: no node waits for another one.

    A talk may last for many rounds, so each reply tells the ``round`` of its instruction.
    """

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        """Send; after ``seconds`` nodes that have not answered are no longer waited for."""
        ...

    def receive(self, seconds: float) -> Reply | None:
        """The next reply; None if none has come after ``seconds``."""
        ...


class Transport(Protocol):
    """The server's connection to the nodes."""

    def nodes(self) -> list[str]:
        """Names of the nodes that are connected now, sorted; the same name means the same data."""
        ...

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        """Send, then wait until all have answered or ``deadline`` seconds have passed.

        A node that has not answered is simply missing from the list.
        """
        ...

    def talk(self) -> AbstractContextManager[Talk]:
        """A talk, for questions that each node answers at its own pace."""
        ...


class InTurn:
    """A :class:`Talk` where instructions are carried out at once, one after the other.

    Args:
        exchange: :meth:`Transport.exchange` of the transport.
    """

    def __init__(self, exchange: Callable[[Sequence[Instruction], float], list[Reply]]) -> None:
        self._exchange = exchange
        self._replies: deque[Reply] = deque()

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        self._replies += answering(instructions, self._exchange(instructions, seconds))

    def receive(self, seconds: float) -> Reply | None:
        return self._replies.popleft() if self._replies else None


def answering(instructions: Iterable[Instruction], replies: Iterable[Reply]) -> list[Reply]:
    """Replies with the rounds of the instructions that they answer; of what answers none of them,
    the round stays unknown."""
    rounds: dict[tuple[str, str], int] = {(i.node, i.kind): i.round for i in instructions}
    return [replace(r, round=rounds.get((r.node, r.kind))) for r in replies]


def in_turn(transport: "Transport") -> AbstractContextManager[Talk]:
    """A talk with nodes that live in this process."""
    return nullcontext(InTurn(transport.exchange))


def exchange(
    transport: Transport, instructions: Sequence[Instruction], deadline: float
) -> list[Reply]:
    """At most one reply per node, in the order of names.

    Replies may arrive in any order and more than once: of each node the first reply to what it was
    asked counts, all others are dropped. A node may be asked one thing at a time only.
    """
    asked = {(i.node, i.kind) for i in instructions}
    answered: dict[str, Reply] = {}
    if instructions:
        for reply in transport.exchange(instructions, deadline):
            if (reply.node, reply.kind) in asked and reply.node not in answered:
                answered[reply.node] = reply
    return [answered[name] for name in sorted(answered)]
