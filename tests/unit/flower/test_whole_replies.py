"""Replies arrive as a whole or not at all, and nobody waits for the rest of one."""

import importlib
import inspect
from typing import Any

import pytest
from flower_in_process import identify, set_message_id
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate import InMemoryNodeState

from lumos_core.flower import bounded_link, failed_tasks, whole_replies

RUN = 1


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in whole_replies._USED:
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    for module, name in (
        (whole_replies._NODE, whole_replies._PUSH),
        (whole_replies._CLIENT, whole_replies._MAKE),
    ):
        found = importlib.import_module(module)
        monkeypatch.setattr(found, name, getattr(found, name))


# ---------------------------------------------------------------- what a SuperNode keeps
class Scene:
    """A node whose ClientApp has been given a message and is about to reply."""

    def __init__(self) -> None:
        assert failed_tasks.answer_for_the_dead()
        assert whole_replies.in_supernode()
        self.state: Any = InMemoryNodeState(ObjectStoreFactory().store())
        self.state.set_node_id(7)
        identify()
        asked = Message(RecordDict({"order": ConfigRecord({"round": 1})}), 7, "train")
        asked.metadata.__dict__["_run_id"] = RUN
        self.state.store_message(set_message_id(asked, "asked"))
        self.task = self.state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="")
        assert self.state.claim_task(self.task)
        assert self.state.activate_task(self.task)
        self.reply = Message(
            RecordDict({"delta": ArrayRecord(), "counts": ConfigRecord({"users": 3})}),
            reply_to=asked,
        )
        set_message_id(self.reply, self.reply.object_id)
        self.pieces = get_all_nested_objects(self.reply)

    def fetch(self) -> None:
        assert len(self.state.get_messages(run_ids=[RUN], is_reply=False)) == 1

    def announce(self) -> None:
        self.fetch()
        self.session = self.state.start_session(RUN)
        stored, missing = self.state.store_message_and_object_tree(
            self.reply, get_object_tree(self.reply), self.session
        )
        assert stored
        assert set(missing) == set(self.pieces)

    def send(self, pieces: int) -> None:
        for piece, content in list(self.pieces.items())[:pieces]:
            assert self.state.store_object(RUN, self.session, piece, content.deflate())

    def replies(self) -> list[Message]:
        return list(self.state.get_messages(is_reply=True))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_reply_is_handed_on_once_all_of_it_is_there(scene: Scene) -> None:
    assert len(scene.pieces) > 2
    scene.announce()
    scene.send(len(scene.pieces) - 1)
    assert scene.replies() == []
    assert scene.replies() == []
    last, content = list(scene.pieces.items())[-1]
    assert scene.state.store_object(RUN, scene.session, last, content.deflate())
    assert scene.replies() == [scene.reply]
    assert scene.replies() == []  # only once
    assert scene.state.finish_task(scene.task, "completed", "")
    assert scene.replies() == []


@pytest.mark.parametrize(
    ("status", "details"), [("completed", ""), ("failed", ""), ("failed", failed_tasks.LOST)]
)
@pytest.mark.parametrize("pieces", [0, 2])
def test_what_is_not_whole_when_its_clientapp_ends_becomes_an_error(
    scene: Scene, status: str, details: str, pieces: int
) -> None:
    scene.announce()
    scene.send(pieces)
    assert scene.replies() == []
    assert scene.state.finish_task(scene.task, status, details)
    [reply] = scene.replies()
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "asked"
    assert scene.state.object_store.get(scene.reply.metadata.message_id) is None
    assert scene.replies() == []


@pytest.mark.parametrize("details", ["", failed_tasks.LOST])
@pytest.mark.parametrize("fetched", [False, True])
def test_a_message_whose_clientapp_ends_without_a_reply_is_answered_with_an_error(
    scene: Scene, details: str, fetched: bool
) -> None:
    if fetched:
        scene.fetch()
    assert scene.replies() == []
    assert scene.state.finish_task(scene.task, "failed", details)
    [reply] = scene.replies()
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "asked"


def test_a_message_whose_task_is_still_to_come_is_left_alone(scene: Scene) -> None:
    """The next message may be there before the ClientApp of the last one has ended."""
    scene.announce()
    scene.send(len(scene.pieces))
    [reply] = scene.replies()
    scene.state.delete_messages(message_ids=["asked", reply.metadata.message_id])  # it was sent
    scene.state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="")
    later = Message(RecordDict({"order": ConfigRecord({"round": 2})}), 7, "train")
    later.metadata.__dict__["_run_id"] = RUN
    scene.state.store_message(set_message_id(later, "later"))
    assert scene.state.finish_task(scene.task, "completed", "")
    assert scene.replies() == []
    scene.fetch()


def test_a_whole_reply_outlives_its_clientapp(scene: Scene) -> None:
    scene.announce()
    scene.send(len(scene.pieces))
    assert scene.state.finish_task(scene.task, "failed", failed_tasks.LOST)
    assert scene.replies() == [scene.reply]


# ---------------------------------------------------------------- on the way to the SuperLink
class Uploads:
    """A SuperLink that takes each piece of a reply once, in the session that was begun last."""

    def __init__(self, *pieces: str) -> None:
        self.missing, self.sessions, self.lost = set(pieces), 0, set[str]()
        self.contents: dict[str, bytes] = {}

    def send(self, message: str, tree: str, seconds: float) -> tuple[set[str], str]:
        assert (message, tree, seconds) == ("reply", "tree", 1.0)
        self.sessions += 1
        return set(self.missing), f"session {self.sessions}"

    def push(self, run: int, session: str, piece: str, content: bytes) -> None:
        if piece not in self.missing or session != f"session {self.sessions}":
            raise ObjectPushError(piece, run, session)
        if piece in self.lost:  # the session is forgotten
            self.lost.remove(piece)
            raise ObjectPushError(piece, run, session)
        self.missing.remove(piece)
        self.contents[piece] = content


def test_a_piece_that_is_there_already_is_no_error() -> None:
    link = Uploads("a", "b")
    reply = whole_replies.Sending(link.send, link.push, ObjectPushError)
    _, session = reply.send("reply", "tree", 1.0)
    reply.push_object(1, session, "a", b"A")
    reply.push_object(1, session, "a", b"A")  # the answer was lost
    reply.push_object(1, session, "b", b"B")  # by a thread that knows the first session only
    assert link.contents == {"a": b"A", "b": b"B"}
    assert link.sessions == 3


def test_a_piece_that_is_not_taken_is_sent_in_a_new_session() -> None:
    link = Uploads("a")
    link.lost = {"a"}
    reply = whole_replies.Sending(link.send, link.push, ObjectPushError)
    _, session = reply.send("reply", "tree", 1.0)
    reply.push_object(1, session, "a", b"A")
    assert link.contents == {"a": b"A"}


def test_a_piece_that_is_never_taken_is_an_error() -> None:
    def never(run: int, session: str, piece: str, content: bytes) -> None:
        raise ObjectPushError(piece, run, session)

    link = Uploads("a")
    reply = whole_replies.Sending(link.send, never, ObjectPushError)
    _, session = reply.send("reply", "tree", 1.0)
    with pytest.raises(ObjectPushError):
        reply.push_object(1, session, "a", b"A")


def test_of_a_piece_that_is_too_large_only_enough_is_sent_to_be_refused() -> None:
    assert whole_replies.PIECE_BYTES == bounded_link.PIECE_BYTES < bounded_link.REQUEST_BYTES
    link = Uploads("a", "b")
    reply = whole_replies.Sending(link.send, link.push, ObjectPushError)
    _, session = reply.send("reply", "tree", 1.0)
    reply.push_object(1, session, "a", bytes(whole_replies.PIECE_BYTES))
    reply.push_object(1, session, "b", bytes(5 * whole_replies.PIECE_BYTES))
    sizes = [len(link.contents[piece]) for piece in ("a", "b")]
    assert sizes == [bounded_link.PIECE_BYTES, bounded_link.PIECE_BYTES + 1]


def test_the_installed_flower_sends_replies_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    node = importlib.import_module(whole_replies._NODE)
    names = list(inspect.signature(getattr(node, whole_replies._PUSH)).parameters)
    assert names == ["state", "object_store", "send", "push_object"]
    given: dict[str, Any] = {}
    monkeypatch.setattr(node, whole_replies._PUSH, lambda **names: given.update(names))
    assert whole_replies.complete_on_the_way()
    link = Uploads("a")
    getattr(node, whole_replies._PUSH)(
        state="state", object_store="store", send=link.send, push_object=link.push
    )
    assert (given["state"], given["object_store"]) == ("state", "store")
    given["send"]("reply", "tree", 1.0)
    given["push_object"](1, "an older session", "a", b"A")
    assert link.contents == {"a": b"A"}


# ---------------------------------------------------------------- on the way to the SuperNode
def test_a_clientapp_goes_on_if_a_piece_is_there_already(scene: Scene) -> None:
    assert whole_replies.in_clientapp()
    make = getattr(importlib.import_module(whole_replies._CLIENT), whole_replies._MAKE)
    scene.announce()

    def store(request: Any) -> Any:
        stored = scene.state.store_object(
            RUN, request.session_id, request.object_id, request.object_content
        )
        return PushObjectResponse(stored=stored)

    push = make(store, Node(node_id=7), run_id=RUN, session_id=scene.session)
    for piece, content in scene.pieces.items():
        push(piece, content.deflate())
        push(piece, content.deflate())  # the answer was lost
    assert scene.replies() == [scene.reply]


# ---------------------------------------------------------------- another Flower
def test_another_flower_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = [getattr(InMemoryNodeState, name) for name in whole_replies._USED]
    monkeypatch.setattr(whole_replies, "version", lambda name: "1.40.0")
    assert not whole_replies.in_supernode()
    assert not whole_replies.in_clientapp()
    assert [getattr(InMemoryNodeState, name) for name in whole_replies._USED] == before
    assert "found 1.40.0" in caplog.text


def test_code_that_looks_different_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module(whole_replies._NODE), whole_replies._PUSH, None)
    monkeypatch.setattr(importlib.import_module(whole_replies._CLIENT), whole_replies._MAKE, None)
    monkeypatch.delattr(InMemoryNodeState, "_store_error_replies")
    assert not whole_replies.in_supernode()
    assert not whole_replies.in_clientapp()
