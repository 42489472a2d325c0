"""The replies of a round: who is asked, who has answered, and when the round closes."""

import logging
import time
from collections.abc import Iterable, Sequence

from lumos_core.config import RunConfig
from lumos_core.federation.aggregator import Aggregator
from lumos_core.federation.closing import Close
from lumos_core.federation.membership import OTHER_PROTOCOL, Membership
from lumos_core.federation.open_questions import OpenQuestions
from lumos_core.privacy.secure_aggregation.coordinator import SecureExchange
from lumos_core.wire.messages import Instruction, Reply

log = logging.getLogger(__name__)


class Gathering:
    """Asks nodes for the rounds of a run, and offers what they answer to a round's aggregator.

    Args:
        config: of the run.
        members: those who can be asked; a node that cannot take part any more is left out.
        questions: open ones may be of earlier rounds.
        secure: adds train replies up under masks; None: they come one by one.
    """

    def __init__(
        self,
        config: RunConfig,
        members: Membership,
        questions: OpenQuestions,
        secure: SecureExchange | None = None,
    ) -> None:
        self._members, self._questions, self._secure = members, questions, secure
        self._late_count = config.mode == "async"

    def working(self) -> set[str]:
        """Nodes that have not answered a question yet."""
        return self._questions.busy()

    def at_work(self) -> set[str]:
        """Nodes that are not asked, because they have not answered an earlier round; where late
        replies count, also those whose reply is yet to be counted."""
        busy = self._questions.busy()
        return busy | self._questions.waiting() if self._late_count else busy

    def exchange(
        self, instructions: list[Instruction], close: Close, aggregator: Aggregator, until: float
    ) -> tuple[list[Reply], list[Reply]]:
        """Ask for a round.

        Args:
            instructions: at most one a node.
            close: what closes the round before its deadline.
            aggregator: of the round; is offered the train replies.
            until: the deadline, by ``time.monotonic()``.

        Returns:
            The round's replies in the order of names, and those to earlier rounds that came
            meanwhile; with secure aggregation all train replies are summed into one.
        """
        if self._secure is None:
            return self._gather(instructions, close, aggregator, until)
        outcome = self._secure.exchange(instructions, max(until - time.monotonic(), 0.0))
        aggregator.failed |= outcome.failed
        self._members.leave_out([*outcome.replies, *outcome.too_large])
        others = [name for name, why in outcome.failed.items() if repr(OTHER_PROTOCOL) in why]
        self._members.ask_again(others)
        _offer(outcome.replies, aggregator, instructions)
        _note_silent(aggregator.asked, aggregator)
        return outcome.replies, []

    def _gather(
        self, instructions: list[Instruction], close: Close, aggregator: Aggregator, until: float
    ) -> tuple[list[Reply], list[Reply]]:
        """Wait until all have answered, until enough have, or until the deadline."""
        asked = {i.node: i for i in instructions}
        self._questions.ask(instructions, max(until - time.monotonic(), 0.0))
        waiting = set(asked)
        answered: list[Reply] = []
        late: list[Reply] = []
        evaluations = 0
        while (waiting or self._may_late_ones_come()) and not close.reached(
            aggregator.count, evaluations
        ):
            answer = self._questions.next(max(until - time.monotonic(), 0.0))
            if answer is None:
                self._questions.give_up()
                break
            reply = answer.reply
            self._members.leave_out([reply])
            self._members.ask_again([reply.node] if reply.error == OTHER_PROTOCOL else [])
            if asked.get(reply.node) is answer.asked:
                waiting.difference_update((reply.node, *reply.sum_of))
                answered.append(reply)
                evaluations += reply.kind == "evaluate"
                _offer([reply], aggregator, instructions)
            else:
                late.append(reply)
                if self._late_count:
                    aggregator.offer(reply, False, aggregator.round - answer.asked.round)
        aggregator.late = self._questions.open_of(aggregator.asked)
        silent = {i.node for i in self._questions.take_overdue() if i.kind == "train"}
        _note_silent(silent, aggregator)
        return sorted(answered, key=lambda reply: reply.node), late

    def _may_late_ones_come(self) -> bool:
        """Whether there are replies to earlier rounds that would count."""
        return self._late_count and bool(self._questions.busy() or self._questions.waiting())


def _note_silent(names: Iterable[str], aggregator: Aggregator) -> None:
    for name in sorted(set(names) - {*aggregator.names, *aggregator.failed}):
        aggregator.failed[name] = "no reply before the deadline"
        log.warning("node %s: no reply before the deadline", name)


def _offer(
    replies: Iterable[Reply], aggregator: Aggregator, instructions: Sequence[Instruction]
) -> None:
    evaluated = instructions[0].evaluate is not None
    for reply in replies:
        if reply.kind == "train":
            aggregator.offer(reply, evaluated)
