"""A secure federation of fake nodes with real cryptography, some of which die or lie as told."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from federation_fakes import FakeNode

from lumos_core.errors import ReplyError
from lumos_core.flower.cryptography import FLOWER
from lumos_core.learning.parameters import Params
from lumos_core.privacy.secure_aggregation.packets import MASKED, stage_of
from lumos_core.privacy.secure_aggregation.participant import Participant
from lumos_core.privacy.secure_aggregation.session_store import MemoryStore
from lumos_core.wire.messages import Instruction, Packet, Reply, Talk, in_turn

STEPS = ("open", "roster", "upload", "unmask")
Spoil = Callable[[str, str, Reply], Reply]
"""Node, step, honest reply → what arrives."""


class SecureTransport:
    """Carries the steps of secure rounds to fake nodes.

    Args:
        nodes: who is there.
        dead: by node, the step from which on it does not answer.
        spoil: what arrives in place of honest replies.
    """

    def __init__(
        self, nodes: Sequence[FakeNode], dead: Mapping[str, str] | None = None,
        spoil: Spoil | None = None,
    ) -> None:  # fmt: skip
        self.known = {n.name: n for n in nodes}
        self.parts = {
            n.name: Participant(n.name, "1", n.config, FLOWER, MemoryStore()) for n in nodes
        }
        self.dead, self.spoil = dict(dead or {}), spoil
        self.seen: dict[tuple[str, str], Reply] = {}  # the last reply of a node to a step
        self.packets: dict[tuple[str, str], Packet] = {}  # the last question

    def nodes(self) -> list[str]:
        return sorted(self.known)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [reply for i in instructions if (reply := self._answer(i)) is not None]

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)

    def honest_delta(self, name: str, round_: int, params: Params) -> Params:
        reply = self.known[name].answer(Instruction(name, "train", round_, params))
        assert reply.arrays is not None
        return reply.arrays

    def _answer(self, i: Instruction) -> Reply | None:
        if i.secure is None:
            return self.known[i.node].answer(i)
        step = stage_of(i.secure)
        if i.node in self.dead and STEPS.index(step) >= STEPS.index(self.dead[i.node]):
            return None
        self.packets[i.node, step] = i.secure
        reply = self._step(i, i.secure)
        if self.spoil is not None:
            reply = self.spoil(i.node, step, reply)
        self.seen[i.node, step] = reply
        return reply

    def _step(self, i: Instruction, packet: Packet) -> Reply:
        part = self.parts[i.node]
        try:
            if i.kind != "train":
                return Reply(i.node, "secagg", secure=part.answer(i.round, packet))
            assert i.params is not None
            plain = self.known[i.node].answer(replace(i, secure=None))
            assert plain.arrays is not None
            arrays = plain.arrays
            vector = part.upload(
                i.round, packet, i.params, i.evaluate is not None, lambda: (arrays, plain.metrics)
            )
        except ReplyError as error:
            return Reply(i.node, i.kind, error=str(error))
        return Reply(i.node, "train", {MASKED: vector}, bytes_up=vector.nbytes)
