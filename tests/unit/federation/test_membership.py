"""A node whose reply is too large to be read is left out of the next rounds."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from lumos_core.federation.membership import LEFT_OUT_ROUNDS, Membership
from lumos_core.wire.messages import Instruction, Reply, Talk, in_turn


class Two:
    """Two nodes that answer ``describe``."""

    def nodes(self) -> list[str]:
        return ["a", "b"]

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [Reply(i.node, i.kind, info={"catalog": "c"}) for i in instructions]

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)


@pytest.fixture
def members() -> Membership:
    members = Membership(Two(), {"catalog": "c"})
    assert members.present() == ["a", "b"]
    return members


def rounds_without(members: Membership, name: str) -> int:
    """How many of the next rounds begin without a node."""
    count = 0
    while True:
        members.begin_round()
        if name in members.present():
            return count
        assert members.left_out == [name]
        count += 1


def test_a_node_is_left_out_of_three_rounds_and_then_of_twice_as_many(members: Membership) -> None:
    too_large = Reply("b", "train", error="malformed: too large", too_large=True)
    members.begin_round()
    members.leave_out([too_large, Reply("a", "train", error="malformed: else")])
    assert members.present() == ["a"]  # it is not asked to evaluate in the same round, either
    assert rounds_without(members, "b") == LEFT_OUT_ROUNDS == 3
    members.leave_out([too_large])
    assert rounds_without(members, "b") == 6
    members.leave_out([too_large, too_large])
    assert rounds_without(members, "b") == 12
    assert members.left_out == []


def test_other_failures_leave_nobody_out(members: Membership) -> None:
    members.begin_round()
    members.leave_out([Reply("b", "train", error="malformed: cannot be read"), Reply("a", "train")])
    assert members.present() == ["a", "b"]
