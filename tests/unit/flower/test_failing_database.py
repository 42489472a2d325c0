"""Nothing is lost when a SuperLink's database fails: the request fails, and is repeated."""

from pathlib import Path
from typing import Any

import pytest
from flower_in_process import identify, set_message_id
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy.exc import OperationalError

from lumos_core.flower import failing_database

CONTENT = ConfigRecord({"round": 1}).deflate()
PIECE = get_object_id(CONTENT)


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*failing_database._COUNTING, failing_database._STORE):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    monkeypatch.setattr(runtime_handlers, "pull_messages", runtime_handlers.pull_messages)


@pytest.fixture
def state(tmp_path: Path) -> Any:
    file = str(tmp_path / "state.db")
    found = SqlLinkState(file, NoOpFederationManager(), ObjectStoreFactory(file).store())
    found.initialize()
    return found


def full_disk(*args: object, **kwargs: object) -> None:
    raise OperationalError("INSERT", {}, Exception("database or disk is full"))


def asked(state: Any) -> tuple[Any, int, Message]:
    """The ServerApp's task, a node's id, and an instruction of the task to the node."""
    run = state.create_run("fab", "1", "hash", {}, "@none/default", None, None, TaskType.SERVER_APP)
    [info] = state.get_run_info(run_ids=[run])
    state.claim_task(info.primary_task_id)
    assert state.activate_task(info.primary_task_id)
    [task] = state.get_tasks(task_ids=[info.primary_task_id])
    node = state.create_node("owner", "owner", b"key", 10)
    assert state.acknowledge_node_heartbeat(node, 10)
    identify()
    message = Message(RecordDict({"order": ConfigRecord({"round": 1})}), node, "train")
    message.metadata.__dict__["_run_id"] = run
    set_message_id(message, "a" * 64)
    assert state.store_message_ins(message)
    return task, node, message


def announced(state: Any) -> tuple[Any, Message, str]:
    """A task, the instruction that it waits for, and the session of a reply of two pieces."""
    task, node, message = asked(state)
    reply = Message(RecordDict({"reply": ConfigRecord({"round": 1})}), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = node
    set_message_id(reply, "b" * 64)
    session = state.start_session(task.run_id)
    tree = ObjectTree(object_id="b" * 64, children=[ObjectTree(object_id=PIECE)])
    assert state.store_message_and_object_tree(reply, tree, session)[0]
    return task, message, session


def pull(state: Any, task: Any, message: Message) -> list[str]:
    """Ids of the replies that the ServerApp is told of."""
    request = PullAppMessagesRequest(message_ids=[message.metadata.message_id])
    response = runtime_handlers.pull_messages(request, state, task)
    return [found.metadata.message_id for found in response.messages_list]


def test_a_request_does_not_fail_by_what_is_only_counted(
    state: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "session", full_disk)
    with pytest.raises(OperationalError):
        state.store_traffic(1, bytes_sent=1, bytes_recv=1)
    assert failing_database.lose_nothing()
    state.store_traffic(1, bytes_sent=1, bytes_recv=1)
    state.add_clientapp_runtime(1, 2.0)
    assert caplog.text.count("are not counted (OperationalError)") == 2
    with pytest.raises(ValueError, match="Negative"):  # what is wrong stays an error
        state.store_traffic(1, bytes_sent=-1, bytes_recv=1)


def test_a_piece_that_cannot_be_stored_is_not_given_up(
    state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failing_database.lose_nothing()
    task, _, session = announced(state)
    with monkeypatch.context() as patch:
        patch.setattr(state.object_store, "put", full_disk)
        with pytest.raises(failing_database.NotStoredError):
            state.store_object(task.run_id, session, PIECE, CONTENT)
    assert state.store_object(task.run_id, session, PIECE, CONTENT)  # sent once more
    assert state.get_object(task.run_id, PIECE) == CONTENT
    for piece in (PIECE, "c" * 64):  # no longer, and never waited for
        assert not state.store_object(task.run_id, session, piece, CONTENT)


def test_a_piece_of_a_deleted_message_is_given_up(state: Any) -> None:
    assert failing_database.lose_nothing()
    task, _, session = announced(state)
    state.object_store.delete("b" * 64)
    assert not state.store_object(task.run_id, session, PIECE, CONTENT)


@pytest.mark.parametrize("repaired", [True, False])
def test_a_reply_that_could_not_be_handed_out_is_there_for_the_next_request(
    state: Any, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    if repaired:
        assert failing_database.lose_nothing()
    task, message, _ = announced(state)
    with monkeypatch.context() as patch:
        patch.setattr(
            state,
            "delete_messages",
            lambda message_ins_ids: full_disk(message_ins_ids) if message_ins_ids else None,
        )
        with pytest.raises(OperationalError):
            pull(state, task, message)
    found = pull(state, task, message)
    assert ("b" * 64 in found) == repaired  # False: this is what Flower does
    assert "b" * 64 not in pull(state, task, message)


def test_another_flower_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = SqlLinkState.store_object, runtime_handlers.pull_messages
    monkeypatch.setattr(failing_database, "version", lambda name: "1.40.0")
    assert not failing_database.lose_nothing()
    monkeypatch.undo()
    monkeypatch.setattr(failing_database, "_PENDING", "Unknown")
    assert not failing_database.lose_nothing()
    assert (SqlLinkState.store_object, runtime_handlers.pull_messages) == before
    assert "found 1.40.0" in caplog.text
