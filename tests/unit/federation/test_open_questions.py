"""A question has one answer at most, whatever arrives."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from lumos_core.federation import open_questions
from lumos_core.federation.open_questions import OpenQuestions
from lumos_core.wire.messages import Instruction, Reply


class Line:
    """A talk whose replies a test puts in."""

    def __init__(self) -> None:
        self.sent: list[Instruction] = []
        self.arriving: list[Reply] = []

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        self.sent += instructions

    def receive(self, seconds: float) -> Reply | None:
        return self.arriving.pop(0) if self.arriving else None


ANN, BOB = Instruction("ann", "train", 3), Instruction("bob", "train", 3)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def asked(line: Line) -> OpenQuestions:
    questions = OpenQuestions(line)
    questions.ask([ANN, BOB], 60.0)
    return questions


def test_an_answer_closes_its_question(asked: OpenQuestions, line: Line) -> None:
    assert asked.busy() == {"ann", "bob"}
    line.arriving = [Reply("bob", "train", round=3)]
    answer = asked.next(1.0)
    assert answer is not None
    assert answer.asked is BOB
    assert asked.busy() == {"ann"}
    assert asked.open_of(["bob", "ann"]) == ["ann"]


@pytest.mark.parametrize(
    "stray",
    [
        Reply("bob", "evaluate", round=3),  # another kind
        Reply("eve", "train", round=3),  # was not asked
        Reply("", "train", round=3),
        Reply("bob", "train"),  # to an unknown question
        Reply("bob", "train", round=2),  # to an earlier question
    ],
)
def test_what_is_no_answer_is_dropped(asked: OpenQuestions, line: Line, stray: Reply) -> None:
    line.arriving = [stray]
    assert asked.next(0.0) is None
    assert asked.busy() == {"ann", "bob"}


def test_a_second_answer_is_dropped(asked: OpenQuestions, line: Line) -> None:
    line.arriving = [Reply("ann", "train", bytes_up=n, round=3) for n in (1, 2)] + [
        Reply("bob", "train", round=3)
    ]
    found = [asked.next(0.0) for _ in range(3)]
    assert [a and (a.reply.node, a.reply.bytes_up) for a in found] == [("ann", 1), ("bob", 0), None]


def test_a_sum_answers_for_all_its_nodes(asked: OpenQuestions, line: Line) -> None:
    line.arriving = [Reply("ann", "train", sum_of=("ann", "bob"), round=3)]
    assert asked.next(0.0) is not None
    assert asked.busy() == set()


def test_what_arrives_between_rounds_is_not_lost(asked: OpenQuestions, line: Line) -> None:
    line.arriving = [Reply("ann", "train", round=3)]
    assert asked.busy() == {"bob"}, "ann is free at once"
    assert asked.waiting() == {"ann"}
    asked.ask([Instruction("ann", "train", 4)], 60.0)
    first = asked.next(0.0)
    assert first is not None
    assert first.asked is ANN, "and it is known what she answered"
    assert asked.busy() == {"ann", "bob"}


def test_nobody_is_busy_after_the_deadline(
    asked: OpenQuestions, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.monotonic() + 61.0
    monkeypatch.setattr(open_questions.time, "monotonic", lambda: later)
    assert asked.busy() == set()
    assert asked.take_overdue() == [ANN, BOB]
    assert asked.take_overdue() == []
    line.arriving = [Reply("ann", "train", round=3)]
    assert asked.next(0.0) is None, "and what comes then is dropped"


def test_giving_up_frees_everybody(asked: OpenQuestions) -> None:
    asked.give_up()
    assert asked.busy() == set()
    assert asked.take_overdue() == [ANN, BOB]


def test_nothing_is_sent_for_no_instructions(line: Line, monkeypatch: Any) -> None:
    OpenQuestions(line).ask([], 1.0)
    assert line.sent == []
