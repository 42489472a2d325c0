"""Whatever arrives, in whatever order: no reply is counted twice, and the model depends on which
replies are in, not on their order."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumos_core.config import RunConfig
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.runs.history import Event
from lumos_core.wire.messages import Instruction, Reply, Talk, answering

NAMES = ("ann", "bob", "cy", "dee", "eve")
CONFIG: dict[str, Any] = {
    "method": "fedavg", "semantic_start": "none", "dim": 4, "heads": 1, "rounds": 4,
    "round_timeout": 60.0, "start_timeout": 1.0, "max_failed_rounds": 0,
}  # fmt: skip
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Unruly:
    """A talk whose replies arrive in any order, some of them twice, or again after others."""

    def __init__(self, transport: FakeTransport, order: Sequence[int]) -> None:
        self._transport, self._order = transport, list(order)
        self._arriving: list[Reply] = []
        self.delivered: list[Reply] = []

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        replies = self._transport.exchange(instructions, seconds)
        self._arriving += answering(instructions, replies)

    def receive(self, seconds: float) -> Reply | None:
        if not self._arriving or seconds <= 0:
            return None
        number = self._order.pop() if self._order else 0
        at, again = number // 2 % len(self._arriving), number % 2
        reply = self._arriving[at] if again else self._arriving.pop(at)
        self.delivered.append(reply)
        return reply


class UnrulyTransport(FakeTransport):
    order: Sequence[int] = ()

    def talk(self) -> AbstractContextManager[Talk]:
        return nullcontext(Unruly(self, self.order))


def _nodes(config: RunConfig) -> list[FakeNode]:
    return [FakeNode(name, config, users=3 + n) for n, name in enumerate(NAMES)]


def _rounds(result: FederationResult) -> list[Event]:
    return [e for e in result.events if e["event"] == "round"]


@QUICK
@given(
    order=st.lists(st.integers(0, 19), max_size=120),
    close_at=st.sampled_from([0.4, 0.6, 0.8, 1.0, 2, 3, 4]),
    dp=st.sampled_from(["none", "user"]),
)
def test_no_reply_is_counted_twice(order: list[int], close_at: float, dp: str) -> None:
    config = RunConfig(**{**CONFIG, "close_at": close_at, "dp": dp, "item_rows": "all"})
    transport = UnrulyTransport(_nodes(config))
    transport.order = order
    result = run_federation(config, transport, CATALOG, start())
    asked = [(i.node, i.round) for i in transport.asked if i.kind == "train"]
    used = [(name, e["round"]) for e in _rounds(result) for name in e["ok"]]
    late = [(name, e["round"]) for e in _rounds(result) for name in e.get("late", [])]
    assert len(set(used)) == len(used)
    assert sorted(used + late) == sorted(asked), "each is in or late, once"
    users = {name: 3 + n for n, name in enumerate(NAMES)}
    for event in _rounds(result):
        assert event["users"] == sum(users[name] for name in event["ok"])
        assert {*event["ok"], *event.get("late", []), *event.get("busy", [])} == set(NAMES)
        if dp == "user":
            assert set(event["privacy"]["nodes"]) == {*event["ok"], *event.get("late", [])}


@QUICK
@given(
    speeds=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 9.0]), min_size=5, max_size=5),
    close_at=st.sampled_from([0.4, 0.6, 0.8, 2, 3, 4]),
)
def test_the_model_depends_on_which_are_in_only(speeds: list[float], close_at: float) -> None:
    """A run in which the late ones do not answer at all has the same model."""
    config = RunConfig(**{**CONFIG, "close_at": close_at})
    seconds = dict(zip(NAMES, speeds, strict=True))
    timed = FakeTransport(_nodes(config))
    result = run_federation(config, SimulatedSpeeds(timed, seconds), CATALOG, start())
    used = {(name, e["round"]) for e in _rounds(result) for name in e["ok"]}

    def silent(asked: Instruction, reply: Reply) -> Sequence[Reply]:
        left_out = asked.kind == "train" and (asked.node, asked.round) not in used
        return [] if left_out else [reply]

    patient = config.replace(close_at=1.0, max_failed_rounds=9)
    other = FakeTransport(_nodes(config), silent)
    expected = run_federation(patient, other, CATALOG, start())
    assert [e["ok"] for e in _rounds(expected)] == [e["ok"] for e in _rounds(result)]
    last, same = timed.last_model(), other.last_model()
    assert all(last[name].tobytes() == same[name].tobytes() for name in last)


@pytest.mark.parametrize("rounds", [6])
def test_a_node_of_any_speed_is_asked_again(rounds: int) -> None:
    config = RunConfig(**{**CONFIG, "close_at": 0.8, "rounds": rounds})
    transport = FakeTransport(_nodes(config))
    run_federation(config, SimulatedSpeeds(transport, {"eve": 2.5}), CATALOG, start())
    asked = [i.round for i in transport.asked if (i.node, i.kind) == ("eve", "train")]
    assert asked == [1, 4]


@QUICK
@given(
    order=st.lists(st.integers(0, 19), max_size=120),
    buffer_size=st.integers(2, 5),
    fraction=st.sampled_from([0.6, 1.0]),
    dp=st.sampled_from(["none", "user"]),
)
def test_no_late_reply_is_counted_twice(
    order: list[int], buffer_size: int, fraction: float, dp: str
) -> None:
    """With ``mode = async`` each training is in one round at most, and paid for once."""
    config = RunConfig(
        **CONFIG, mode="async", buffer_size=buffer_size, fraction=fraction, dp=dp,
        item_rows="all", aggregation="mean",
    )  # fmt: skip
    transport = UnrulyTransport(_nodes(config))
    transport.order = order
    result = run_federation(config, transport, CATALOG, start())
    asked = [(i.node, i.round) for i in transport.asked if i.kind == "train"]
    used = [
        (name, e["round"] - e.get("staleness", {}).get(name, 0))
        for e in _rounds(result)
        for name in e["ok"]
    ]
    assert len(set(used)) == len(used)
    assert set(used) <= set(asked)
    assert len(set(asked)) == len(asked)
    for event in _rounds(result):
        assert 2 <= len(event["ok"]) <= buffer_size
        assert not {*event["ok"]} & {*event.get("working", [])}
    if dp == "user":
        paid = [(n, e["round"]) for e in _rounds(result) for n in e["privacy"]["nodes"]]
        assert sorted(paid) == sorted(asked)


@QUICK
@given(order=st.lists(st.integers(0, 19), max_size=120))
def test_replies_of_a_buffer_count_in_any_order(order: list[int]) -> None:
    config = RunConfig(**CONFIG, mode="async", buffer_size=5)
    straight, mixed = UnrulyTransport(_nodes(config)), UnrulyTransport(_nodes(config))
    mixed.order = order
    for transport in (straight, mixed):
        run_federation(config, transport, CATALOG, start())
    last, same = straight.last_model(), mixed.last_model()
    assert all(last[name].tobytes() == same[name].tobytes() for name in last)
