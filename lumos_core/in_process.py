"""A federation inside one process: the same nodes and round loop, no network.

For experiments, where thousands of rounds have to be compared, and for tests.
"""

from collections.abc import Sequence

from lumos_core.deltas import wire_bytes
from lumos_core.federation import Instruction, Reply
from lumos_core.node import Node


class InProcessTransport:
    """Calls nodes one after the other."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.name: node for node in nodes}

    def nodes(self) -> list[str]:
        return sorted(self._nodes)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [self._answer(instruction) for instruction in instructions]

    def _answer(self, instruction: Instruction) -> Reply:
        node, params = self._nodes[instruction.node], instruction.params
        if instruction.kind == "query" or params is None:
            return Reply(instruction.node, "query", info=node.describe())
        down = wire_bytes(params)
        if instruction.kind == "evaluate":
            metrics = node.evaluate(params, instruction.evaluate or "validation")
            return Reply(instruction.node, "evaluate", metrics=metrics, bytes_down=down)
        arrays, metrics = node.train(params, instruction.round, instruction.evaluate)
        return Reply(
            instruction.node, "train", arrays, metrics,
            bytes_up=wire_bytes(arrays), bytes_down=down,
        )  # fmt: skip
