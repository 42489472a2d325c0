"""A transport inside one process: the same nodes and round loop, without a network.

It is for experiments, which compare thousands of rounds, and for tests.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from lumos_core.errors import ReplyError
from lumos_core.federation.node import Node
from lumos_core.privacy.secure_aggregation import packets
from lumos_core.privacy.secure_aggregation.participant import Participant
from lumos_core.privacy.secure_aggregation.primitives import Primitives
from lumos_core.privacy.secure_aggregation.session_store import MemoryStore
from lumos_core.wire.codecs import wire_bytes
from lumos_core.wire.messages import Instruction, Packet, Reply, Talk, in_turn
from lumos_core.wire.reply_checks import preparation

REFUSED = "secagg-refused"  # the code that a ClientApp would send


class InProcessTransport:
    """Calls nodes one after the other.

    Args:
        nodes: the nodes, reached by their names.
        primitives: the cryptography of ``secure-aggregation``, if the run uses it.
    """

    def __init__(self, nodes: Sequence[Node], primitives: Primitives | None = None) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._participants = (
            {n.name: Participant(n.name, "0", n.config, primitives, MemoryStore()) for n in nodes}
            if primitives is not None
            else {}
        )

    def nodes(self) -> list[str]:
        return sorted(self._nodes)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [self._answer(instruction) for instruction in instructions]

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)

    def _answer(self, instruction: Instruction) -> Reply:
        if instruction.secure is not None:
            return self._answer_securely(instruction, instruction.secure)
        node, params = self._nodes[instruction.node], instruction.params
        if instruction.kind == "prepare":
            return Reply(instruction.node, "prepare", metrics=preparation(node.prepare(), True))
        if instruction.kind == "describe" or params is None:
            return Reply(instruction.node, "describe", info=node.describe())
        down = wire_bytes(params)
        if instruction.kind == "evaluate":
            split = instruction.evaluate or "validation"
            metrics = node.evaluate(params, split, instruction.title_weight)
            return Reply(instruction.node, "evaluate", metrics=metrics, bytes_down=down)
        arrays, metrics = node.train(params, instruction.round, instruction.evaluate)
        return Reply(
            instruction.node, "train", arrays, metrics,
            bytes_up=wire_bytes(arrays), bytes_down=down,
        )  # fmt: skip

    def _answer_securely(self, instruction: Instruction, packet: Packet) -> Reply:
        name, params = instruction.node, instruction.params
        participant = self._participants[name]
        down = packets.size_of(packet)
        try:
            if instruction.kind != "train" or params is None:
                answer = participant.answer(instruction.round, packet)
                up = packets.size_of(answer)
                return Reply(name, "secagg", secure=answer, bytes_up=up, bytes_down=down)
            evaluate_on = instruction.evaluate
            vector = participant.upload(
                instruction.round, packet, params, evaluate_on is not None,
                lambda: self._nodes[name].train(params, instruction.round, evaluate_on),
            )  # fmt: skip
        except ReplyError:
            return Reply(name, instruction.kind, error=REFUSED, bytes_down=down)
        return Reply(
            name, "train", {packets.MASKED: vector},
            bytes_up=vector.nbytes, bytes_down=down + wire_bytes(params),
        )  # fmt: skip
