"""The catalog artefact on its way to nodes: who gets which piece, and who is let go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start

from lumos_core.config import RunConfig
from lumos_core.federation import artefact_delivery, view_phase
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.views.titles import artefact_offer, artefact_pieces
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.views.titles.artefact_pieces import Offered
from lumos_core.wire.messages import Instruction, Reply, answering

Tiny = Callable[..., RunConfig]
Answer = Callable[[Instruction, int], Any]
CONTENT = b"one-two-three-f"
PIECES = [b"one-", b"two-", b"thre", b"e-f"]


def honest(instruction: Instruction, has: int) -> dict[str, int]:
    return {"wanted": int(has < len(PIECES)), "piece": has if has < len(PIECES) else 0}


class Fetchers(FakeTransport):
    """Nodes that fetch as their function says; of an honest one, all pieces are kept. A second
    passes with every answer."""

    def __init__(self, nodes: Sequence[FakeNode], answers: dict[str, Answer]) -> None:
        super().__init__(nodes)
        self.answers, self.got = answers, {name: [] for name in answers}
        self.now, self.coming = 0.0, []
        self.order: list[tuple[str, str]] = []
        self.most_at_once = 0

    @contextmanager
    def talk(self) -> Iterator["Fetchers"]:
        yield self

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        self.most_at_once = max(self.most_at_once, sum(i.kind == "artefact" for i in instructions))
        for i in instructions:
            self.order.append((i.kind, i.node))
            if i.kind == "artefact":
                found = self.fetched(i)
                self.coming += [] if found is None else [found]
            else:
                self.coming += answering([i], self.exchange([i], 0.0))

    def fetched(self, i: Instruction) -> Reply | None:
        assert i.offered is not None
        if i.piece is not None:
            self.got[i.node].append(i.piece)
        answer = self.answers[i.node](i, len(self.got[i.node]))
        if answer is None:
            return None
        if isinstance(answer, str):
            return Reply(i.node, "artefact", error=answer)
        return Reply(i.node, "artefact", metrics=answer)

    def receive(self, seconds: float) -> Reply | None:
        if not self.coming:
            self.now += seconds
            return None
        self.now += 1.0
        return self.coming.pop(0)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for module in (artefact_pieces, artefact_offer):
        monkeypatch.setattr(module, "PIECE_BYTES", 4)
    (tmp_path / "file").write_bytes(CONTENT)

    def go(answers: dict[str, Answer], **keys: Any) -> tuple[FederationResult, Fetchers]:
        config = tiny(**{"method": "lumos", "rounds": 1, "min_nodes": len(answers), **keys})
        transport = Fetchers([FakeNode(name, config) for name in answers], answers)
        monkeypatch.setattr(view_phase, "time", transport)
        with (tmp_path / "file").open("rb") as file:
            offer = Offer(file, Offered(len(CONTENT), "m", "r", "n"))
            return run_federation(config, transport, CATALOG, start(), offer=offer), transport

    return go


def failures(result: FederationResult, node: str) -> list[str]:
    events = [e for e in result.events if e["event"] == "views" and e["node"] == node]
    return [failed["reason"] for e in events for failed in e.get("failed", [])]


def test_every_node_gets_the_pieces_that_it_wants_and_then_writes_views(run: Any) -> None:
    result, transport = run({"a": honest, "b": honest})
    for name in "ab":
        assert [piece.content for piece in transport.got[name]] == PIECES
        kinds = [kind for kind, node in transport.order if node == name]
        assert kinds[:6] == ["artefact"] * 5 + ["prepare"]
    [ready] = [e for e in result.events if e["event"] == "views-ready"]
    assert ready["nodes"] == ["a", "b"]
    assert result.outcome == "completed"


def test_who_wants_none_gets_none(run: Any) -> None:
    _, transport = run({"a": lambda i, has: {"wanted": 0, "piece": 0}, "b": honest})
    assert transport.got["a"] == []
    assert [node for kind, node in transport.order if kind == "artefact"].count("a") == 1


def test_a_node_goes_on_where_it_stopped(run: Any) -> None:
    _, transport = run({"a": lambda i, has: honest(i, has + 2), "b": honest})
    assert [piece.number for piece in transport.got["a"]] == [2, 3]


def test_a_node_that_refuses_is_named_and_writes_its_views_itself(run: Any) -> None:
    result, transport = run(
        {"a": lambda i, has: "artefact-refused" if has == 2 else honest(i, has), "b": honest}
    )
    assert failures(result, "a") == ["error 'artefact-refused'"]
    assert len(transport.got["a"]) == 2
    assert ("prepare", "a") in transport.order
    assert len(transport.got["b"]) == 4


@pytest.mark.parametrize(
    "answer",
    [
        {"wanted": 1, "piece": 4}, {"wanted": 2, "piece": 0}, {"wanted": 1, "piece": 0.5}, {},
        {"wanted": 1}, {"wanted": 1, "piece": -1}, {"wanted": 1, "piece": 0, "titles": 3},
    ],
)  # fmt: skip
def test_what_is_no_answer_ends_the_delivery_by_name(run: Any, answer: Any) -> None:
    result, transport = run({"liar": lambda i, has: answer, "b": honest})
    assert len(failures(result, "liar")) == 1
    assert transport.got["liar"] == []
    assert ("prepare", "liar") in transport.order


def test_a_node_that_wants_the_same_piece_for_ever_is_let_go(run: Any) -> None:
    result, transport = run({"greedy": lambda i, has: {"wanted": 1, "piece": 1}, "b": honest})
    assert 4 < len(transport.got["greedy"]) <= 2 * len(PIECES) + 3
    assert "of 4 were sent" in failures(result, "greedy")[0]
    assert result.outcome == "completed"


def test_a_node_that_was_cut_off_goes_on_and_is_not_asked_for_ever(run: Any) -> None:
    broken = iter(["flower-3"])
    _, transport = run(
        {"back": lambda i, has: next(broken, None) or honest(i, has), "slow": slowly}
    )
    assert [piece.content for piece in transport.got["back"]] == PIECES
    _, transport = run({"old": lambda i, has: "flower-5", "slow": slowly})
    asked = [kind for kind, node in transport.order if node == "old"]
    assert asked[:3] == ["artefact", "artefact", "prepare"]


def slowly(instruction: Instruction, has: int) -> Any:
    """Keeps the phase open until the others are back."""
    return None


def test_the_phase_does_not_wait_for_a_node_that_is_silent(run: Any) -> None:
    result, transport = run({"silent": slowly, "b": honest})
    assert failures(result, "silent") == ["no answer"]
    assert transport.now < 2 * view_phase.ANSWER_SECONDS


def test_only_so_many_fetch_at_a_time(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_phase, "AT_ONCE", 2)
    names = [f"n{n}" for n in range(5)]
    _, transport = run(dict.fromkeys(names, honest))
    assert transport.most_at_once == 2
    for name in names:
        assert [piece.content for piece in transport.got[name]] == PIECES


def test_a_lost_answer_counts_only_in_a_row() -> None:
    delivery = artefact_delivery.Delivery(Offer(None, Offered(9, "", "", "")))  # type: ignore[arg-type]
    assert delivery.may_go_on()
    delivery.take(Reply("a", "artefact", metrics={"wanted": 1, "piece": 0}))
    assert delivery.may_go_on()
    assert not delivery.may_go_on()
