"""The :class:`~lumos_core.wire.messages.Transport` over a Flower ``Grid``.

Flower identifies nodes by random ids, which change when a node restarts. LUMOS identifies them by
the name in their node configuration, because names seed sampling and training. As soon as Flower
shows a new id, a ``describe`` query asks for its name. The answer is kept for the round loop's own
first question, so that a node is asked only once. If nodes have keys, an id belongs to one key
permanently, and the server's operator has registered each key under a name: then no other node can
take that name.

This module polls for replies with several threads, each for a few nodes. So a reply that is still
being uploaded, by a node that may die meanwhile, delays neither the other replies nor the deadline.
(Flower's own ``send_and_receive`` looks every three seconds and waits for uploads even beyond its
timeout.)
"""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from lumos_core.config import NODE_NAME
from lumos_core.errors import FederationError, ReplyError
from lumos_core.flower import bounded_pulls, records
from lumos_core.flower.records import Order
from lumos_core.runs.attendance import AttendanceBook
from lumos_core.wire import versions
from lumos_core.wire.messages import Instruction, Reply
from lumos_core.wire.reply_limits import ReplyLimits, ReplyTooLargeError
from lumos_core.wire.versions import PROTOCOL, Versions

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.2
DESCRIBE_SECONDS = 120.0  # a node that has not told its name by then is asked again
_MAX_THREADS = 16
_WAITED_PART, _LONGEST_POLL = 0.1, 0.5  # less than GONE_SECONDS of sign_off.py
_REQUESTS_PER_SECOND = 50  # at most, as the SuperLink shares the machine with the server
LOST_SECONDS = 3.0  # and one whose answer Flower says was lost
_UNREACHABLE = "node-unavailable"
_ATTENDED = ("train", "evaluate", "secagg")  # kinds of instructions that a round waits for
_FLOWERS = "flower-"  # how codes of errors begin that Flower itself reports
_AGAIN_SECONDS = (1.0, 2.0, 4.0, 8.0)  # pauses after errors of the SuperLink itself
_NAME = re.compile(NODE_NAME)  # a name that a node sends is never trusted unchecked


class LinkLostError(FederationError):
    """The SuperLink cannot be reached any more. This process has to end, but another one can resume
    the run."""


@dataclass(frozen=True)
class _Sent:
    instruction: Instruction
    bytes_down: int


class Unreadable:
    """Takes the place of a reply that Flower could not unpack."""


@dataclass(frozen=True)
class TooLarge:
    """Takes the place of a reply that was refused before it was unpacked."""

    problem: str


Answer = Message | Unreadable | TooLarge
_DESCRIBE = Instruction("", "describe")


class GridTransport:
    """Named nodes behind a Grid.

    Args:
        grid: Flower's connection to the nodes.
        catalog: fingerprint of the run's catalog; sent with every instruction, so that a node with
            another catalog can refuse.
        poll: seconds between two polls for replies.
        registered: node id → the only name that this node may use; may change meanwhile. None if
            nodes have no keys: then a name belongs to the newest id that claims it.
        attendance: is told who was asked to train or evaluate, and who has answered.
        run: names the run, over restarts of the server; sent with every instruction, so that a node
            knows in which of them it has the same data.
    """

    def __init__(
        self,
        grid: Grid,
        catalog: str,
        poll: float = POLL_SECONDS,
        registered: Mapping[int, str] | None = None,
        attendance: AttendanceBook | None = None,
        run: str = "",
    ) -> None:
        self._grid, self._catalog, self.poll, self._run = grid, catalog, poll, run
        self._registered = registered
        self.attendance = attendance
        self._names: dict[int, str] = {}  # node id → name
        self._ids: dict[str, int] = {}  # name → the id that took it last
        self._protocols: dict[str, int] = {}  # name → what it and this server speak
        self._introductions: dict[str, Reply] = {}  # by name, for the round loop's first question
        self._asked: dict[str, tuple[int, float]] = {}  # message id → node id, time of the question
        # id without a valid name → time it was left out, and the name it was registered under then
        self._left_out: dict[int, tuple[float, str | None]] = {}

    # --- connected nodes

    def nodes(self) -> list[str]:
        """Names of the nodes that are connected and have told their names, sorted.

        Raises:
            LinkLostError: the SuperLink cannot be reached any more.
        """
        with _reaching():
            online = set(_patiently(self._grid.get_node_ids))
        self._collect_introductions()
        self._introduce(online)
        return sorted(name for name, node_id in self._ids.items() if node_id in online)

    def _introduce(self, online: set[int]) -> None:
        """Ask every new id for its name."""
        now = time.monotonic()
        late = {m for m, (_, when) in self._asked.items() if now - when > DESCRIBE_SECONDS}
        self._asked = {m: asked for m, asked in self._asked.items() if m not in late}
        waiting = {node_id for node_id, _ in self._asked.values()}
        left_out = {
            node_id
            for node_id, (since, whose) in self._left_out.items()
            if now - since <= DESCRIBE_SECONDS and whose == self._registered_name(node_id)
        }
        new = sorted(online - self._names.keys() - waiting - left_out)
        content = records.encode_order(Order(None, 0, None, self._catalog, run=self._run))
        for message_id, node_id in zip(
            self._push([(n, records.DESCRIBE, content, 0) for n in new], DESCRIBE_SECONDS),
            new,
            strict=True,
        ):
            if message_id:
                self._asked[message_id] = (node_id, now)

    def _collect_introductions(self) -> None:
        for message_id in list(self._asked):
            with _reaching():
                answer = self.pull(message_id, _DESCRIBE)
            if answer is not None:
                node_id, _ = self._asked.pop(message_id)
                self._introduced(node_id, to_reply(_DESCRIBE, answer, 0))

    def _introduced(self, node_id: int, reply: Reply) -> None:
        name = reply.node
        if not _NAME.fullmatch(name):
            now = time.monotonic()
            # It did not get to answer, as it was restarted or its ClientApp died: ask again soon.
            lost = (reply.error or "").startswith(_FLOWERS)
            since = now - DESCRIBE_SECONDS + LOST_SECONDS if lost else now
            self._left_out[node_id] = since, self._registered_name(node_id)
            log.warning("a node did not say who it is and is left out (%s)", reply.error)
            return
        whose = self._registered_name(node_id)
        if self._registered is not None and whose != name:
            self._left_out[node_id] = time.monotonic(), whose
            known = whose or "no registered node"
            log.warning("a node with the key of %s calls itself %s and is left out", known, name)
            return
        if self._ids.get(name, node_id) != node_id:
            log.warning("node %s has connected again (or two nodes use this name)", name)
        self._names[node_id], self._ids[name] = name, node_id
        self._introductions[name] = reply
        self._note_protocol(reply)

    def _note_protocol(self, described: Reply) -> None:
        if described.error is None:
            spoken = versions.spoken_with(Versions.of(described.info))
            self._protocols[described.node] = spoken

    def _registered_name(self, node_id: int) -> str | None:
        return None if self._registered is None else self._registered.get(node_id)

    # --- instructions and replies

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        """Send, then wait until all have answered or ``deadline`` seconds have passed.

        Raises:
            LinkLostError: the SuperLink cannot be reached any more.
        """
        until = time.monotonic() + deadline
        known = [i for i in instructions if i.kind == "describe" and i.node in self._introductions]
        replies = [self._introductions.pop(i.node) for i in known]
        rest = [i for i in instructions if i not in known]
        with self.talk() as talk:
            talk.send(rest, deadline)
            while (left := until - time.monotonic()) > 0 and (len(replies) < len(instructions)):
                if (reply := talk.receive(left)) is not None:
                    replies.append(reply)
                    if reply.kind == "describe":
                        self._note_protocol(reply)
        return replies

    @contextmanager
    def talk(self) -> Iterator["_Talk"]:
        """Instructions and replies, each sent or received on its own.

        ``receive`` raises LinkLostError if the SuperLink cannot be reached any more.
        """
        talk = _Talk(self)
        try:
            yield talk
        finally:
            talk.close()

    def send(
        self, instructions: Sequence[Instruction], deadline: float
    ) -> tuple[dict[str, _Sent], list[Reply]]:
        """Send instructions.

        Returns:
            What was sent, by message id, and error replies for instructions that Flower refused.
        """
        contents: dict[tuple[float | str, ...], RecordDict] = {}  # shared by equals
        batch = []
        for i in instructions:
            spoken = self._protocols.get(i.node, PROTOCOL)
            asked = (
                i.round, i.evaluate or "", id(i.secure), i.seconds, i.title_weight, spoken,
                i.catalog,
            )  # fmt: skip
            piece = -1 if i.piece is None else i.piece.number
            key = (id(i.params), id(i.offered), piece, *asked)
            if key not in contents:
                secure: dict[str, object] | None = None if i.secure is None else {**i.secure}
                order = Order(
                    i.params, i.round, i.evaluate, i.catalog or self._catalog, secure, i.seconds,
                    i.title_weight, spoken, i.offered, i.piece, self._run,
                )  # fmt: skip
                contents[key] = records.encode_order(order)
            node_id = self._ids.get(i.node, 0)
            batch.append((node_id, records.MESSAGE_TYPES[i.kind], contents[key], i.round))
        sizes = {id(c): records.payload_bytes(c) for c in contents.values()}
        sent: dict[str, _Sent] = {}
        undelivered = []
        for message_id, i, (_, _, content, _) in zip(
            self._push(batch, deadline), instructions, batch, strict=True
        ):
            if message_id:
                sent[message_id] = _Sent(i, sizes[id(content)])
            else:
                undelivered.append(Reply(i.node, i.kind, error=_UNREACHABLE))
        return sent, undelivered

    # --- Flower

    def _push(self, batch: Iterable[tuple[int, str, RecordDict, int]], seconds: float) -> list[str]:
        """Send messages; returns their ids, an empty one for each message that Flower refused."""
        outgoing = [
            Message(content, node_id, kind, ttl=seconds, group_id=str(round_))
            for node_id, kind, content, round_ in batch
        ]
        if not outgoing:
            return []
        with _reaching():
            ids = [i or "" for i in _patiently(lambda: self._grid.push_messages(outgoing))]
        return ids if len(ids) == len(outgoing) else [""] * len(outgoing)

    def pull(self, message_id: str, asked: Instruction) -> Answer | None:
        """The reply to a message; None if it is not there yet.

        Replies are pulled one at a time: Flower unpacks them itself, and one that cannot be
        unpacked must not cause the loss of others.

        Args:
            message_id: id of the message.
            asked: the instruction that the message carried.

        Raises:
            OSError: the SuperLink cannot be reached.
        """
        try:
            return bounded_pulls.pull(self._grid, message_id, ReplyLimits.of(asked))
        except ReplyTooLargeError as error:
            return TooLarge(str(error))
        except (httpx.HTTPError, OSError) as error:
            if _is_passing(error):
                log.warning("the SuperLink could not answer; asking again")
                return None
            raise ConnectionError(type(error).__name__) from error
        except Exception as error:
            log.warning("a reply could not be unpacked (%s)", type(error).__name__)
            return Unreadable()


class _Talk:
    """A talk over a Grid. It polls for replies with several threads, each for some of the messages
    of one ``send``."""

    def __init__(self, transport: GridTransport) -> None:
        self._transport = transport
        self._arrived: queue.Queue[tuple[str, Answer | OSError] | Reply] = queue.Queue()
        self._sent: dict[str, _Sent] = {}
        self._stop = threading.Event()

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        book = self._transport.attendance
        if book is not None and (told := [i for i in instructions if i.kind in _ATTENDED]):
            book.ask(max(i.round for i in told), [i.node for i in told], seconds)
        sent, undelivered = self._transport.send(instructions, seconds)
        self._sent |= sent
        for reply in undelivered:
            self._arrived.put(reply)
        asked = {message_id: s.instruction for message_id, s in sent.items()}
        for first in range(min(_MAX_THREADS, len(sent))):
            group = {m: asked[m] for m in list(asked)[first::_MAX_THREADS]}
            args = (group, time.monotonic() + seconds)
            threading.Thread(target=self._watch, args=args, daemon=True).start()

    def receive(self, seconds: float) -> Reply | None:
        """Raises LinkLostError if the SuperLink cannot be reached any more."""
        try:
            found = self._arrived.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
        reply = found if isinstance(found, Reply) else self._read(*found)
        if self._transport.attendance is not None:
            self._transport.attendance.answer(reply.node)
        return reply

    def _read(self, message_id: str, answer: Answer | OSError) -> Reply:
        if isinstance(answer, OSError):
            raise LinkLostError("lost the connection to the SuperLink") from answer
        asked = self._sent.pop(message_id)
        return to_reply(asked.instruction, answer, asked.bytes_down)

    def close(self) -> None:
        self._stop.set()

    def _watch(self, asked: Mapping[str, Instruction], until: float) -> None:
        """Poll for the replies to instructions, by message id, until all are there, the time is
        over or the talk is closed."""
        waiting, begin = list(asked), time.monotonic()
        while waiting and not self._stop.is_set() and time.monotonic() < until:
            for message_id in list(waiting):
                try:
                    answer = self._transport.pull(message_id, asked[message_id])
                except OSError as error:
                    self._arrived.put((message_id, error))
                    return
                if answer is not None:
                    waiting.remove(message_id)
                    self._arrived.put((message_id, answer))
            waited = time.monotonic() - begin
            self._stop.wait(pause(waited, self._transport.poll, len(self._sent)))
        for message_id in waiting:  # a talk may last as long as a run
            self._sent.pop(message_id, None)


def pause(waited: float, poll: float, messages: int) -> float:
    """Seconds until the next look for replies. A tenth of what was waited already costs a round
    little, and spares the SuperLink, which has the same processor as the server, most of its work.

    Args:
        waited: seconds since the messages were sent.
        poll: the shortest pause.
        messages: how many replies are looked for.
    """
    spared = max(messages / _REQUESTS_PER_SECOND, min(waited * _WAITED_PART, _LONGEST_POLL))
    return max(poll, spared)


def _is_passing(error: Exception) -> bool:
    """Whether the SuperLink is there but could not answer, because its database was locked."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500


def _patiently(call: Callable[[], T]) -> T:
    """The SuperLink's answer; a call that fails by its fault is repeated a few times."""
    for pause in _AGAIN_SECONDS:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if not _is_passing(error):
                raise
            log.warning("the SuperLink could not answer; asking again in %g s", pause)
            time.sleep(pause)
    return call()


@contextmanager
def _reaching() -> Iterator[None]:
    """The context for calls of the SuperLink.

    Raises:
        LinkLostError: it did not answer, or does not know this process because it was restarted.
    """
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        raise LinkLostError("lost the connection to the SuperLink") from error


def to_reply(asked: Instruction, message: Answer, bytes_down: int) -> Reply:
    """A Flower message as a Reply; if it is malformed, the reply's ``error`` says why.

    The reply is attributed to the node that was *asked*: Flower's own error replies carry the
    server's id as their source, and a node must not be able to answer for another.
    """
    try:
        reply = _to_reply(asked, message, bytes_down)
    except Exception as error:  # a node may send anything; only its own reply is lost
        log.warning("a reply of node %s could not be read (%s)", asked.node, type(error).__name__)
        problem = "malformed: cannot be read"
        reply = Reply(asked.node, asked.kind, error=problem, bytes_down=bytes_down)
    return replace(reply, round=asked.round)


def _to_reply(asked: Instruction, message: Answer, bytes_down: int) -> Reply:
    node, kind = asked.node, asked.kind
    if isinstance(message, Unreadable):
        return Reply(node, kind, error="malformed: cannot be unpacked", bytes_down=bytes_down)
    if isinstance(message, TooLarge):
        return _too_large(asked, message.problem, bytes_down)
    if message.has_error():  # the reason may quote an exception of the node: never use it
        code = f"{_FLOWERS}{message.error.code}"
        return Reply(node, kind, error=code, bytes_down=bytes_down)
    content = message.content
    try:
        records.check_size(content, ReplyLimits.of(asked))
    except ReplyTooLargeError as error:
        return _too_large(asked, str(error), bytes_down)
    size = records.payload_bytes(content)
    try:
        if (failure := records.decode_error(content)) is not None:
            code, name = failure
            node = node or name
            info = records.decode_error_versions(content) if kind == "describe" else {}
            return Reply(node, kind, info=info, error=code, bytes_up=size, bytes_down=bytes_down)
        if kind == "secagg":
            secure = records.decode_secure(content)
            return Reply(node, kind, secure=secure, bytes_up=size, bytes_down=bytes_down)
        if kind == "train" and asked.secure is not None:
            arrays = records.decode_upload(content)
            return Reply(node, kind, arrays, bytes_up=size, bytes_down=bytes_down)
        if kind == "train":
            arrays, metrics = records.decode_train(content)
            return Reply(node, kind, arrays, metrics, bytes_up=size, bytes_down=bytes_down)
        if kind in ("evaluate", "prepare", "artefact"):
            metrics = records.decode_metrics(content)
            return Reply(node, kind, metrics=metrics, bytes_up=size, bytes_down=bytes_down)
        info = records.decode_describe(content)
        return Reply(node or info.get("name", ""), kind, info=info, bytes_up=size)
    except ReplyError as error:
        return Reply(node, kind, error=f"malformed: {error}", bytes_up=size, bytes_down=bytes_down)


def _too_large(asked: Instruction, problem: str, bytes_down: int) -> Reply:
    error = f"malformed: too large: {problem}"
    return Reply(asked.node, asked.kind, error=error, too_large=True, bytes_down=bytes_down)
