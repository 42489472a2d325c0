"""The phase for views before round 1: at every node's own pace, with nodes that fail or vanish."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start

from lumos_core.config import RunConfig
from lumos_core.federation import view_phase
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.runs.history import Event
from lumos_core.runs.view_coverage import RunViews
from lumos_core.wire.messages import Instruction, Reply, answering, in_turn
from lumos_core.wire.reply_checks import preparation

Tiny = Callable[..., RunConfig]


class Scripted(FakeTransport):
    """Every answer to "prepare" comes from a node's script; a float in it is a silence of so many
    seconds of a clock that only this transport moves. What the rounds ask is answered at once."""

    def __init__(self, nodes: Sequence[FakeNode], scripts: dict[str, list[Any]]) -> None:
        super().__init__(nodes)
        self.scripts = {name: deque(script) for name, script in scripts.items()}
        self.now = 0.0
        self.coming: list[tuple[float, int, Reply]] = []
        self.prepares: list[tuple[float, str]] = []

    @contextmanager
    def talk(self) -> Iterator["Scripted"]:
        yield self

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        for i in instructions:
            if i.kind != "prepare":
                found = answering([i], self.exchange([i], 0.0))
                self.coming += [(self.now, len(self.coming), reply) for reply in found]
                continue
            assert 0 < i.seconds <= view_phase.PIECE_SECONDS
            self.prepares.append((self.now, i.node))
            script = self.scripts[i.node]
            delay = script.popleft() if script and isinstance(script[0], float) else 1.0
            metrics = script.popleft() if script else preparation(True, True, 100)
            if metrics is None:
                continue
            reply = (
                Reply(i.node, "prepare", error=metrics)
                if isinstance(metrics, str)
                else Reply(i.node, "prepare", metrics=metrics)
            )
            self.coming.append((self.now + delay, len(self.coming), reply))

    def receive(self, seconds: float) -> Reply | None:
        due = min(self.coming, default=None, key=lambda c: c[:2])
        if due is None or due[0] > self.now + seconds:
            self.now += seconds
            return None
        self.coming.remove(due)
        self.now = max(self.now, due[0])
        return due[2]

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    def go(scripts: dict[str, list[Any]], **keys: Any) -> tuple[FederationResult, Scripted]:
        config = tiny(**{"method": "lumos", "rounds": 2, "min_nodes": len(scripts), **keys})
        transport = Scripted([FakeNode(name, config) for name in scripts], scripts)
        monkeypatch.setattr(view_phase, "time", transport)
        return run_federation(config, transport, CATALOG, start()), transport

    return go


WORKING = preparation(False, False, 40, 30.0)
DONE = preparation(True, True, 100)


def told(result: FederationResult, node: str) -> list[Event]:
    return [e for e in result.events if e["event"] == "views" and e["node"] == node]


def ready(result: FederationResult) -> Event:
    [event] = [e for e in result.events if e["event"] == "views-ready"]
    return event


def test_all_are_asked_until_none_is_missing_before_anybody_trains(run: Any) -> None:
    result, transport = run({"a": [WORKING, WORKING, DONE], "b": [DONE]})
    assert [name for _, name in transport.prepares] == ["a", "b", "a", "a"]
    assert [e["percent"] for e in told(result, "a")] == [0, 40, 40, 100]
    assert ready(result)["nodes"] == ["a", "b"]
    kinds = [e["event"] for e in result.events]
    assert kinds.index("views-ready") < kinds.index("round")


def test_nobody_waits_for_a_slow_node_between_pieces(run: Any) -> None:
    result, transport = run({"slow": [60.0, WORKING, 60.0, DONE], "quick": [WORKING] * 5 + [DONE]})
    quick = [when for when, name in transport.prepares if name == "quick"]
    assert quick == [0, 1, 2, 3, 4, 5], "it never waits for the slow one"
    assert ready(result)["not_ready"] == []


def test_a_node_that_dies_is_not_waited_for(run: Any) -> None:
    result, transport = run({"dead": [None], "a": [WORKING, DONE]})
    overdue = view_phase.PIECE_SECONDS + view_phase.ANSWER_SECONDS
    assert ready(result)["not_ready"] == ["dead"]
    assert told(result, "dead")[-1]["failed"] == [{"node": "dead", "reason": "no answer"}]
    assert overdue <= transport.now <= overdue + 2
    assert result.outcome == "completed"


def test_a_node_that_comes_back_goes_on_while_others_work(run: Any) -> None:
    script = ["flower-3", DONE]
    result, transport = run({"back": script, "slow": [60.0, WORKING, 60.0, DONE]})
    asked = [when for when, name in transport.prepares if name == "back"]
    assert asked[1] - asked[0] >= view_phase.AGAIN_SECONDS
    assert ready(result)["nodes"] == ["back", "slow"]


def test_a_node_that_always_fails_ends_nothing(run: Any) -> None:
    result, transport = run({"broken": ["model-failed"] * 9, "a": [DONE]})
    assert transport.now < view_phase.AGAIN_SECONDS
    assert ready(result)["not_ready"] == ["broken"]
    assert result.outcome == "completed"


@pytest.mark.parametrize(
    "answer", [{"complete": 1}, {**DONE, "history": 3}, {**DONE, "percent": 10**6}, {}]
)
def test_what_is_no_answer_is_refused_by_name(run: Any, answer: dict[str, Any]) -> None:
    result, _ = run({"liar": [answer], "a": [DONE]})
    asked, event = told(result, "liar")
    assert asked["percent"] == 0
    assert event["failed"][0]["node"] == "liar"
    assert "percent" not in event


def test_the_phase_ends_with_its_time(run: Any) -> None:
    result, transport = run({"a": [10.0, WORKING] * 99, "b": [DONE]}, view_timeout=100)
    assert 100 <= transport.now < 112
    assert ready(result)["not_ready"] == ["a"]


def test_zero_seconds_is_no_phase(run: Any) -> None:
    result, transport = run({"a": [], "b": []}, view_timeout=0)
    assert transport.prepares == []
    assert not any(e["event"].startswith("views") for e in result.events)


def test_methods_without_views_have_no_phase(run: Any) -> None:
    _, transport = run({"a": [], "b": []}, method="fedavg")
    assert transport.prepares == []


def test_a_node_that_has_stopped_early_is_not_asked_again(run: Any) -> None:
    """Its owner's limit: done, but not complete."""
    result, transport = run({"a": [preparation(False, True, 55)], "b": [DONE]})
    assert [name for _, name in transport.prepares] == ["a", "b"]
    assert told(result, "a")[-1]["complete"] is False


# ---------------------------------------------------------------- what a run says
def events(*lacking: list[str]) -> list[Event]:
    return [
        {"event": "round", "round": n, "views_lacking": len(who), "views_lacking_nodes": who}
        if who
        else {"event": "round", "round": n}
        for n, who in enumerate(lacking, start=1)
    ]


def test_a_run_with_all_views_has_nothing_to_say() -> None:
    found = RunViews.of({"method": "lumos"}, events([], []))
    assert found is not None
    assert (found.complete, found.sentence()) == (True, "")
    assert RunViews.of({"method": "fedavg"}, events([])) is None


def test_a_run_names_the_nodes_that_lacked_views() -> None:
    found = RunViews.of({"method": "lumos"}, events(["a", "b"], ["a"], []))
    assert found is not None
    assert (found.complete, found.rounds_lacking) == (False, 2)
    assert "a in 2 of 3 rounds, b in 1 of 3 rounds" in found.sentence()


def test_secure_sums_say_how_many_but_not_who() -> None:
    event: Event = {"event": "round", "round": 1, "views_lacking": 2, "views_lacking_nodes": []}
    found = RunViews.of({"method": "lumos", "view-share": 0.1}, [event])
    assert found is not None
    assert found.nodes == {"some nodes": 1}
    assert "view-share = 0.1" in found.sentence()


class OneProcess(FakeTransport):
    """Nodes that work one after the other while nothing else happens; each takes ten minutes."""

    def __init__(self, nodes: Sequence[FakeNode]) -> None:
        super().__init__(nodes)
        self.now = 0.0

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        if all(i.kind == "prepare" for i in instructions):
            self.now += 600.0 * len(instructions)
            return [Reply(i.node, "prepare", metrics=DONE) for i in instructions]
        return super().exchange(instructions, deadline)

    def talk(self) -> Any:
        return in_turn(self)

    def monotonic(self) -> float:
        return self.now


def test_nodes_that_take_turns_are_not_late(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(method="lumos", rounds=2, min_nodes=3)
    transport = OneProcess([FakeNode(name, config) for name in "abc"])
    monkeypatch.setattr(view_phase, "time", transport)
    result = run_federation(config, transport, CATALOG, start())
    assert ready(result)["nodes"] == ["a", "b", "c"]
    assert not [event for event in result.events if event["event"] == "views" and "failed" in event]
