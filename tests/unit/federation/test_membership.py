"""A node whose reply is too large to be read is left out of the next rounds."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from lumos_core.federation import membership
from lumos_core.federation.membership import LEFT_OUT_ROUNDS, RETRY_SECONDS, Membership
from lumos_core.wire import versions
from lumos_core.wire.messages import Instruction, Reply, Talk, in_turn
from lumos_core.wire.versions import PROTOCOL


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


# ---------------------------------------------------------------- versions
OWN = versions.own()


class Releases(Two):
    """Nodes that answer with versions of their own, or with an error and these."""

    def __init__(self, **answers: Reply) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def nodes(self) -> list[str]:
        return sorted(self.answers)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        self.asked += [i.node for i in instructions]
        return [replace(self.answers[i.node], node=i.node) for i in instructions]


def described(error: str | None = None, **info: str) -> Reply:
    return Reply("", "describe", info={"catalog": "c", **info}, error=error)


def test_a_node_with_another_protocol_is_excluded_by_name() -> None:
    told: dict[str, str] = {}
    far = str(PROTOCOL + 2)
    transport = Releases(
        far=described(version="0.9.0", protocol=far),
        old=described(version="0.1.0"),
        same=described(**OWN.to_info()),
    )
    members = Membership(transport, {"catalog": "c"}, lambda n, found, note: told.update({n: note}))
    assert members.present() == ["old", "same"]
    assert list(members.refused) == ["far"]
    assert f"it has LUMOS 0.9.0, which speaks protocol {far}" in members.refused["far"]
    assert told["far"] == members.refused["far"]
    assert told["same"] == ""
    assert f"LUMOS 0.1.0 (here {OWN.lumos})" in told["old"]
    assert f"pip install lumos=={OWN.lumos}" in told["old"]


def test_another_release_explains_a_refusal() -> None:
    older = {**OWN.to_info(), "version": "0.0.9"}
    transport = Releases(
        a=described("bad-configuration", **older),
        b=described("bad-configuration", **OWN.to_info()),
        c=replace(described("foreign-app"), info={}),
        d=replace(described("bad-data"), info={}),
    )
    members = Membership(transport, {"catalog": "c"})
    assert members.present() == []
    wanted = f"pip install lumos=={OWN.lumos}"
    assert {name for name, why in members.refused.items() if wanted in why} == {"a", "c"}
    assert "LUMOS 0.0.9 (here" in members.refused["a"]


def test_a_member_that_no_longer_understands_the_server_is_asked_anew() -> None:
    transport = Releases(a=described(**OWN.to_info()))
    members = Membership(transport, {"catalog": "c"})
    assert members.present() == members.present() == ["a"]
    assert transport.asked == ["a"]
    transport.answers["a"] = described(version="9.0", protocol=str(PROTOCOL + 2))
    members.ask_again(["a"])
    assert members.present() == []
    assert "it has LUMOS 9.0" in members.refused["a"]


class Tagged(Two):
    """Two nodes with tags."""

    def __init__(self, **tags: str) -> None:
        self.tags = tags

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [
            Reply(i.node, i.kind, info={"catalog": "c", "tags": self.tags[i.node]})
            for i in instructions
        ]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [("tag:eu", ["a"]), ("b", ["b"]), ("[", None), ("a, tag:us", ["a", "b"]), ("", ["a", "b"])],
)
def test_nodes_are_chosen_by_name_and_tag(chosen: str, names: list[str] | None) -> None:
    nodes = Tagged(a="eu,large", b="us")
    if names is None:
        with pytest.raises(ValueError, match="neither"):
            Membership(nodes, {"catalog": "c"}, chosen=chosen)
        return
    members = Membership(nodes, {"catalog": "c"}, chosen=chosen)
    assert members.present() == names
    assert sorted(members.users) == names


def test_who_is_not_chosen_is_told_why_and_asked_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Tagged(a="eu", b="")
    members = Membership(nodes, {"catalog": "c"}, chosen="tag:us")
    assert members.present() == []
    assert members.refused == {
        "a": "nodes = 'tag:us' does not choose it; its tags are eu",
        "b": "nodes = 'tag:us' does not choose it; it has no tags",
    }
    nodes.tags["b"] = "us"
    assert members.present() == [], "not at once"
    later = time.monotonic() + RETRY_SECONDS + 1
    monkeypatch.setattr(membership.time, "monotonic", lambda: later)
    assert members.present() == ["b"]
    assert list(members.refused) == ["a"]


def test_refusals_are_told_and_taken_back() -> None:
    told: list[dict[str, str]] = []
    transport = Releases(a=described(**OWN.to_info()), b=described("bad-data"))
    members = Membership(
        transport, {"catalog": "c"}, on_refused=lambda refused: told.append(dict(refused))
    )
    members.present()
    assert told == [{"b": "it answers with error 'bad-data'"}]
    transport.answers["b"] = described(**OWN.to_info())
    members._refused["b"] = replace(members._refused["b"], ask_again=0.0)
    assert members.present() == ["a", "b"]
    assert told[1:] == [{}]
