"""What nodes were asked to do in the rounds and have not answered yet.

A round may close before all have answered (`close-at`). A node that is late works on: nothing can
interrupt it, and a further instruction would only wait behind the one that it works on. So it is
*busy*, and not asked again until its answer has come or the deadline of that answer is over.

An answer belongs to a question that is open, and closes it. Therefore each question has one answer
at most, and whatever else arrives (a second copy, an answer to something that was not asked, a name
that was not asked) is dropped unread.
"""

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from lumos_core.wire.messages import Instruction, Reply, Talk


class Question(NamedTuple):
    """An instruction, and when its answer is no longer waited for (``time.monotonic()``)."""

    instruction: Instruction
    until: float


class Answer(NamedTuple):
    """A reply and the instruction that it answers."""

    asked: Instruction
    reply: Reply


class OpenQuestions:
    """The open questions of a run's rounds. A node has one at a time.

    Args:
        talk: the way to the nodes, for all rounds.
    """

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._open: dict[str, Question] = {}
        self._arrived: deque[Answer] = deque()
        self._overdue: list[Instruction] = []

    def busy(self) -> set[str]:
        """Names of the nodes that have not answered yet, and of which an answer may still come."""
        while (answer := self._receive(0.0)) is not None:
            self._arrived.append(answer)
        now = time.monotonic()
        self._give_up([name for name, question in self._open.items() if question.until <= now])
        return set(self._open)

    def waiting(self) -> set[str]:
        """Names of the nodes whose answers have come and were not taken yet."""
        return {answer.asked.node for answer in self._arrived}

    def ask(self, instructions: Iterable[Instruction], seconds: float) -> None:
        """Send instructions to nodes that are not busy; answers count for ``seconds``."""
        asked = list(instructions)
        until = time.monotonic() + seconds
        self._open |= {i.node: Question(i, until) for i in asked}
        if asked:
            self._talk.send(asked, seconds)

    def next(self, seconds: float) -> Answer | None:
        """The next answer, also to a question of an earlier round; None if none has come after
        ``seconds``."""
        return self._arrived.popleft() if self._arrived else self._receive(seconds)

    def open_of(self, names: Iterable[str]) -> list[str]:
        """Which of these nodes have not answered, sorted."""
        return sorted(set(names) & self._open.keys())

    def give_up(self) -> None:
        """The deadline of a round is over, and with it those of all earlier ones: nobody is waited
        for."""
        self._give_up(list(self._open))

    def take_overdue(self) -> list[Instruction]:
        """What was not answered before its deadline, since this was called last."""
        overdue, self._overdue = self._overdue, []
        return overdue

    def _give_up(self, names: Iterable[str]) -> None:
        self._overdue += [self._open.pop(name).instruction for name in names]

    def _receive(self, seconds: float) -> Answer | None:
        until = time.monotonic() + seconds
        while True:
            reply = self._talk.receive(max(until - time.monotonic(), 0.0))
            if reply is None:
                return None
            question = self._open.get(reply.node)
            if question is not None and _answers(reply, question.instruction):
                for name in {reply.node, *reply.sum_of}:
                    self._open.pop(name, None)
                return Answer(question.instruction, reply)


def _answers(reply: Reply, asked: Instruction) -> bool:
    return (reply.kind, reply.round) == (asked.kind, asked.round)
