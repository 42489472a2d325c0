"""Replies arrive in the order of the simulated clock."""

from collections.abc import Callable

import pytest
from federation_fakes import FakeNode, FakeTransport, start

from lumos_core.config import RunConfig
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.wire.messages import Instruction, Talk

Tiny = Callable[..., RunConfig]


@pytest.fixture
def speeds(tiny: Tiny) -> SimulatedSpeeds:
    config = tiny(dim=4)
    nodes = FakeTransport([FakeNode(name, config) for name in ("ann", "bob", "cy")])
    return SimulatedSpeeds(nodes, {"ann": 10.0, "cy": 0.5})


def _train(*names: str, round: int = 1) -> list[Instruction]:
    return [Instruction(name, "train", round, start()) for name in names]


def _names(talk: Talk, times: int, seconds: float = 100.0) -> list[str | None]:
    found = [talk.receive(seconds) for _ in range(times)]
    return [reply and reply.node for reply in found]


def test_the_fast_answer_first(speeds: SimulatedSpeeds) -> None:
    with speeds.talk() as talk:
        talk.send(_train("ann", "bob", "cy"), 100.0)
        assert talk.receive(0.0) is None
        assert _names(talk, 2) == ["cy", "bob"]
        assert speeds.clock == 1.0
        assert talk.receive(8.0) is None
        assert speeds.clock == 9.0, "waiting takes time"
        assert _names(talk, 1) == ["ann"]
        assert speeds.clock == 10.0


def test_a_node_carries_out_one_instruction_after_the_other(speeds: SimulatedSpeeds) -> None:
    with speeds.talk() as talk:
        talk.send([*_train("ann"), Instruction("ann", "describe")], 100.0)
        talk.send([*_train("cy"), *_train("cy", round=2)], 100.0)
        assert _names(talk, 2) == ["cy", "cy"]
        assert speeds.clock == 1.0
        found = [talk.receive(100.0) for _ in range(2)]
        assert [reply and reply.kind for reply in found] == ["train", "describe"]


def test_nothing_is_computed_before_it_is_due(speeds: SimulatedSpeeds) -> None:
    with speeds.talk() as talk:
        talk.send(_train("ann", "bob"), 100.0)
        talk.receive(5.0)
    asked = speeds._transport.asked  # type: ignore[attr-defined]
    assert [i.node for i in asked] == ["bob"]
