"""What a server and its nodes say to each other, whatever carries it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lumos_core.model import Params
from lumos_core.replies import Metrics
from lumos_core.secure_aggregation.packets import Packet

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Instruction:
    """What a node is asked to do."""

    node: str
    kind: Literal["query", "train", "evaluate", "secagg"]
    round: int = 0
    params: Params | None = None
    evaluate: Split | None = None  # what to measure the received model on
    secure: Packet | None = None  # of secure aggregation; with "train": its upload


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
    error: str | None = None  # a code, see client_app.errors; never an exception's text
    bytes_up: int = 0
    bytes_down: int = 0


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
