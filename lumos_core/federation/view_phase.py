"""The phase before round 1 in which nodes write their views, in bounded pieces of time, each at its
own pace.

The states of a node, from left to right::

    fetching ──► asked ──► working ──► done   it has written all that it will write: not asked
        ▲          ▲          │               again
        └──────────┴── away ◄─┘               no answer, or an error: asked again later; until it
                                              answers, the phase does not wait for it

Where the run names a catalog artefact and the server has it, nodes are first offered the file, in
pieces (:mod:`~lumos_core.federation.artefact_delivery`). A node that wants none, has all of it, or
refuses it is asked for its views next.

The phase ends when no node is asked or working, or after ``view-timeout``. Nodes that are not done
by then take part in the rounds anyway: they train on the views they have, and write the others
during the rounds (``view-seconds``). A resumed run asks again; nodes that are done say so.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.federation.artefact_delivery import AT_ONCE, Delivery, is_lost
from lumos_core.federation.membership import Membership
from lumos_core.runs.history import Event, History, utc_now
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.wire import reply_checks
from lumos_core.wire.messages import Instruction, Reply, Talk, Transport

log = logging.getLogger(__name__)

# Of work for a message. Its answer tells the server the progress; but each piece is a process of
# its own, which takes some ten CPU-seconds to load the language model.
PIECE_SECONDS = 120.0
ANSWER_SECONDS = 120.0  # allowed beyond a piece: process start, loading the model, a batch of users
LOOK_SECONDS = 1.0  # between two looks for nodes that have joined
AGAIN_SECONDS = 15.0  # until a node that was away is asked again; doubles each time


@dataclass
class _NodeState:
    delivery: Delivery | None = None  # while it is fetching
    waited_for: bool = True
    done: bool = False
    until: float = 0.0  # deadline of the answer; 0 while nothing is asked
    ask_again: float = 0.0
    times_away: int = 0
    known: bool = False  # it has been asked before


@dataclass
class ViewPhase:
    """Ask nodes to prepare their views until all have done so.

    Args:
        config: of the run.
        transport: the way to the nodes.
        members: the nodes that may take part.
        history: gets an event ``views`` when a node is first asked and for every answer, and
            ``views-ready`` at the end.
        offer: the catalog artefact, for nodes that lack it.
    """

    config: RunConfig
    transport: Transport
    members: Membership
    history: History
    offer: Offer | None = None
    _nodes: dict[str, _NodeState] = field(default_factory=dict)

    def run(self) -> None:
        """Run the phase.

        Raises:
            Exception: the transport's own, if the server has lost its connection to the nodes.
        """
        started = time.monotonic()
        until = started + self.config.view_timeout
        with self.transport.talk() as talk:
            self._join(talk, until)
            while self._open() and time.monotonic() < until:
                reply = talk.receive(min(LOOK_SECONDS, max(until - time.monotonic(), 0.0)))
                while reply is not None:  # take all answers before a node counts as overdue
                    self._take(reply)
                    reply = talk.receive(0.0)
                self._overdue()
                self._join(talk, until)
        self.history.add(
            {
                "event": "views-ready",
                "round": 0,
                "time": utc_now(),
                "seconds": round(time.monotonic() - started, 3),
                "nodes": sorted(name for name, node in self._nodes.items() if node.done),
                "not_ready": sorted(name for name, node in self._nodes.items() if not node.done),
            }
        )

    def _open(self) -> bool:
        return any(node.waited_for and not node.done for node in self._nodes.values())

    def _join(self, talk: Talk, until: float) -> None:
        """Ask every present node that is not done and not working, unless its pause lasts."""
        now = time.monotonic()
        idle = [
            name
            for name in self.members.present(max(until - now, 0.0))
            if self._is_idle(self._nodes.setdefault(name, self._new()), now)
        ]
        fetching = sum(bool(n.delivery and n.until) for n in self._nodes.values())
        for name in self._in_turn(idle, fetching):
            node = self._nodes[name]
            node.until = now + self._seconds(node) + ANSWER_SECONDS
            if not node.known:
                node.known = True
                self._note(name, complete=False, done=False, percent=0, seconds_left=0.0)
        self._ask(talk, (name for name in idle if self._nodes[name].until))

    def _new(self) -> _NodeState:
        return _NodeState(Delivery(self.offer) if self.offer else None)

    def _in_turn(self, idle: Iterable[str], fetching: int) -> Iterator[str]:
        """All but those for whom there is no place to fetch yet."""
        for name in idle:
            if self._nodes[name].delivery is not None:
                fetching += 1
                if fetching > AT_ONCE:
                    continue
            yield name

    @staticmethod
    def _seconds(node: _NodeState) -> float:
        """Of the work that a node is asked for, beside the time of any answer."""
        return 0.0 if node.delivery else PIECE_SECONDS

    @staticmethod
    def _is_idle(node: _NodeState, now: float) -> bool:
        return not node.done and not node.until and now >= node.ask_again

    def _ask(self, talk: Talk, names: Iterable[str]) -> None:
        pieces = [self._instruction(name) for name in names]
        if pieces:
            talk.send(pieces, max(piece.seconds for piece in pieces) + ANSWER_SECONDS)

    def _instruction(self, name: str) -> Instruction:
        node = self._nodes[name]
        if node.delivery is not None:
            return node.delivery.instruction(name)
        return Instruction(name, "prepare", seconds=PIECE_SECONDS)

    def _take(self, reply: Reply) -> None:
        node = self._nodes.get(reply.node)
        if node is None or node.done:
            return
        self.members.leave_out([reply])
        if node.delivery is not None:
            self._take_fetch(reply, node, node.delivery)
        elif reply.kind != "artefact":  # one that is late
            self._take_views(reply, node)

    def _take_fetch(self, reply: Reply, node: _NodeState, delivery: Delivery) -> None:
        if is_lost(reply):
            self._away(reply.node, node, f"error {reply.error!r}")
            return
        node.until, node.waited_for = 0.0, True
        try:
            going_on = delivery.take(reply)
        except ReplyError as error:  # then it reads the titles itself
            log.warning("node %s: catalog artefact: %s", reply.node, error)
            self._note(reply.node, failed=[{"node": reply.node, "reason": str(error)}])
            going_on = False
        if not going_on:
            node.delivery = None
            if delivery.sent:
                log.info("node %s: %d pieces of the catalog artefact", reply.node, delivery.sent)

    def _take_views(self, reply: Reply, node: _NodeState) -> None:
        try:
            reply_checks.check_answers(reply, "prepare")
            reply_checks.check_preparation(reply.metrics)
        except ReplyError as error:
            self._away(reply.node, node, str(error))
            return
        told = reply.metrics
        node.until, node.times_away, node.waited_for = 0.0, 0, True
        node.done = bool(told["done"])
        self._note(
            reply.node,
            complete=bool(told["complete"]),
            done=node.done,
            percent=int(told["percent"]),
            seconds_left=float(told["seconds-left"]),
        )

    def _overdue(self) -> None:
        now = time.monotonic()
        for name, node in self._nodes.items():
            if node.until and now > node.until:
                self._away(name, node, "no answer")

    def _away(self, name: str, node: _NodeState, reason: str) -> None:
        log.warning("node %s: views: %s; it joins later", name, reason)
        pause = AGAIN_SECONDS * 2**node.times_away
        if node.delivery is not None and not node.delivery.may_go_on():
            node.delivery = None
        node.waited_for, node.until = False, 0.0
        node.ask_again, node.times_away = time.monotonic() + pause, node.times_away + 1
        self._note(name, failed=[{"node": name, "reason": reason}])

    def _note(self, name: str, **facts: object) -> None:
        event: Event = {"event": "views", "round": 0, "time": utc_now(), "node": name, **facts}
        self.history.add(event)
