"""Nodes of different speeds, on a clock of their own: what slow nodes cost a run, without waiting.

A training takes a node as many simulated seconds as its speed says; everything else takes none. A
node carries out one instruction after the other, as a SuperNode does. Replies arrive in the order
of the simulated clock, whatever the machine under it does, so a run can be repeated exactly.
"""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from lumos_core.wire.messages import Instruction, Reply, Talk, Transport, answering

USUAL_SECONDS = 1.0
"""Simulated seconds of a training where a node has no speed of its own."""


class SimulatedSpeeds:
    """A transport to nodes of this process that answer when a simulated clock says so.

    Args:
        transport: the way to the nodes; they are called when their reply is due.
        seconds: by node, how many simulated seconds a training takes.

    Attributes:
        clock: simulated seconds since the beginning.
    """

    def __init__(self, transport: Transport, seconds: Mapping[str, float]) -> None:
        self._transport, self._seconds = transport, dict(seconds)
        self._free_at: dict[str, float] = {}
        self.clock = 0.0

    def nodes(self) -> list[str]:
        return self._transport.nodes()

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return self._transport.exchange(instructions, deadline)

    def talk(self) -> AbstractContextManager[Talk]:
        return nullcontext(_Paced(self))

    def done_at(self, instruction: Instruction) -> float:
        """When a node will have carried out an instruction that it gets now."""
        name = instruction.node
        training = instruction.kind == "train"
        takes = self._seconds.get(name, USUAL_SECONDS) if training else 0.0
        self._free_at[name] = max(self.clock, self._free_at.get(name, 0.0)) + takes
        return self._free_at[name]


class _Paced:
    """A talk on the simulated clock."""

    def __init__(self, speeds: SimulatedSpeeds) -> None:
        self._speeds = speeds
        self._due: list[tuple[float, int, Instruction]] = []
        self._number = itertools.count()  # of two that are due at once, the first sent is first
        self._arrived: list[Reply] = []

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        for instruction in instructions:
            due = (self._speeds.done_at(instruction), next(self._number), instruction)
            heapq.heappush(self._due, due)

    def receive(self, seconds: float) -> Reply | None:
        until = self._speeds.clock + seconds
        while not self._arrived and self._due and self._due[0][0] <= until:
            due, _, instruction = heapq.heappop(self._due)
            self._speeds.clock = max(self._speeds.clock, due)
            replies = self._speeds.exchange([instruction], 0.0)
            self._arrived = answering([instruction], replies)
        if self._arrived:
            return self._arrived.pop(0)
        self._speeds.clock = until
        return None
