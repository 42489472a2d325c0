"""What a server and its nodes say to each other, whatever carries it."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lumos_core.learning.parameters import Params

Split = Literal["validation", "test"]
Metrics = dict[str, int | float]
"""Counts and sums by name (:mod:`lumos_core.wire.reply_checks`)."""
Value = int | str | bytes | list[str] | list[bytes]
Packet = dict[str, Value]
"""A message of secure aggregation (:mod:`lumos_core.privacy.secure_aggregation.packets`)."""


@dataclass(frozen=True)
class Instruction:
    """What a node is asked to do."""

    node: str
    kind: Literal["describe", "prepare", "train", "evaluate", "secagg"]
    round: int = 0
    params: Params | None = None
    evaluate: Split | None = None  # what to measure the received model on
    secure: Packet | None = None  # of secure aggregation; with "train": its upload
    seconds: float = 0.0  # with "prepare": how long to work on views at most


@dataclass(frozen=True)
class Reply:
    """What came back. Nothing in it has been checked yet."""

    node: str
    kind: str
    arrays: Params | None = None
    metrics: Metrics = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    secure: Packet = field(default_factory=dict)  # of secure aggregation
    sum_of: tuple[str, ...] = ()  # the nodes that this is the sum of; only of `node` if empty
    error: str | None = None  # a code, see client_app.error_codes; never an exception's text
    too_large: bool = False  # it was refused unread (lumos_core.wire.reply_limits)
    bytes_up: int = 0
    bytes_down: int = 0


class Talk(Protocol):
    """Instructions and replies as they come: no node waits for another one."""

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        """Send; whoever has not answered after ``seconds`` is not waited for any more."""
        ...

    def receive(self, seconds: float) -> Reply | None:
        """The next reply; None if none has come after ``seconds``."""
        ...


class Transport(Protocol):
    """The way to the nodes."""

    def nodes(self) -> list[str]:
        """Names of the nodes that are connected now, sorted; the same name means the same data."""
        ...

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        """Send, then wait until all have answered or ``deadline`` seconds have passed.

        A node that has not answered is simply missing from the list.
        """
        ...

    def talk(self) -> AbstractContextManager[Talk]:
        """For questions that nodes answer at a pace of their own."""
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
        self._replies += self._exchange(instructions, seconds)

    def receive(self, seconds: float) -> Reply | None:
        return self._replies.popleft() if self._replies else None


def in_turn(transport: "Transport") -> AbstractContextManager[Talk]:
    """A talk with nodes that live in this process."""
    return nullcontext(InTurn(transport.exchange))


def exchange(
    transport: Transport, instructions: Sequence[Instruction], deadline: float
) -> list[Reply]:
    """One reply per node to what it was asked, in the order of names.

    Whatever order or number replies come in, the first of a node that answers its question counts;
    everything else is dropped. Every node may be asked one thing at a time.
    """
    asked = {(i.node, i.kind) for i in instructions}
    answered: dict[str, Reply] = {}
    if instructions:
        for reply in transport.exchange(instructions, deadline):
            if (reply.node, reply.kind) in asked and reply.node not in answered:
                answered[reply.node] = reply
    return [answered[name] for name in sorted(answered)]
