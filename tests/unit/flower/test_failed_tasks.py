"""What a SuperNode does with a task whose process has ended without a reply."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from flower_in_process import identify, set_message_id
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.supernode.nodestate import InMemoryNodeState

from lumos_core.flower import failed_tasks

RUN = 1


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMemoryNodeState, "finish_task", InMemoryNodeState.finish_task)
    monkeypatch.setattr(SqlLinkState, "initialize", SqlLinkState.initialize)
    for name in (*failed_tasks._STATES, failed_tasks._SENDER):
        module = importlib.import_module(name)
        interval = getattr(module, failed_tasks._INTERVAL)
        monkeypatch.setattr(module, failed_tasks._INTERVAL, interval)


@pytest.fixture
def state() -> Any:
    """Of a node that has received a message and made a task of it."""
    assert failed_tasks.answer_for_the_dead()
    found = InMemoryNodeState(ObjectStoreFactory().store())
    found.set_node_id(7)
    identify()
    message = Message(RecordDict({"order": ConfigRecord({"round": 1})}), 7, "train")
    message.metadata.__dict__["_run_id"] = RUN
    found.store_message(set_message_id(message, "asked"))
    return found


def claimed(state: Any) -> int:
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="")
    assert state.claim_task(task)
    return int(task)


def status(state: Any, task: int) -> str:
    [found] = state.get_tasks(task_ids=[task])
    return str(found.status.status)


def replies(state: Any) -> list[Message]:
    return list(state.get_messages(run_ids=[RUN], is_reply=True))


def test_a_task_at_work_is_answered_with_an_error(state: Any) -> None:
    task = claimed(state)
    assert state.activate_task(task)
    state.get_messages(run_ids=[RUN], is_reply=False)  # fetched by the process
    assert state.finish_task(task, "failed", failed_tasks.LOST)
    [reply] = replies(state)
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "asked"
    assert status(state, task) == "finished"
    assert not state.finish_task(task, "failed", failed_tasks.LOST)


def test_a_task_that_was_starting_is_started_again(state: Any) -> None:
    task = claimed(state)
    assert state.finish_task(task, "failed", failed_tasks.LOST)
    assert status(state, task) == "pending"
    assert replies(state) == []
    assert state.claim_task(task)


def test_what_ends_by_itself_is_left_to_flower(state: Any) -> None:
    task = claimed(state)
    assert state.activate_task(task)
    assert state.finish_task(task, "completed", "")
    assert status(state, task) == "finished"
    assert replies(state) == []


@pytest.mark.parametrize("received", [True, False])
def test_a_message_that_is_ignored_leaves_no_task(
    state: Any, monkeypatch: pytest.MonkeyPatch, received: bool
) -> None:
    """Its run has ended while it was received: nobody must wait for its arrays."""
    module = importlib.import_module(failed_tasks._NODE)
    made = []

    def receive(*, state: Any, object_store: str) -> int | None:
        made.append(claimed(state))
        message = Message(RecordDict({"order": ConfigRecord({"round": 2})}), 7, "train")
        message.metadata.__dict__["_run_id"] = RUN
        state.store_message(set_message_id(message, "later"))
        return RUN if received else None

    monkeypatch.setattr(module, failed_tasks._PULL, receive)
    assert failed_tasks.drop_ignored_messages()
    found = getattr(module, failed_tasks._PULL)(state=state, object_store="objects")
    assert found == (RUN if received else None)
    kept = [m.metadata.message_id for m in state.get_messages(run_ids=[RUN], is_reply=False)]
    assert kept == (["asked", "later"] if received else ["asked"])
    assert status(state, made[0]) == ("starting" if received else "finished")
    assert "create_task" not in vars(state)


def superlink(database: Path) -> Any:
    """The state of a SuperLink that has just started."""
    found = SqlLinkState(str(database), NoOpFederationManager(), ObjectStoreFactory().store())
    found.initialize()
    return found


@pytest.mark.parametrize("reached", ["pending", "starting", "running"])
def test_runs_before_a_superlinks_start_have_ended(tmp_path: Path, reached: str) -> None:
    assert failed_tasks.end_earlier_runs()
    before = superlink(tmp_path / "state.db")
    run = before.create_run(
        "fab", "1", "hash", {}, "@none/default", None, None, TaskType.SERVER_APP
    )
    [info] = before.get_run_info(run_ids=[run])
    token = before.claim_task(info.primary_task_id) if reached != "pending" else None
    assert reached != "running" or before.activate_task(info.primary_task_id)
    assert before.get_run_status({run})[run].status == reached
    after = superlink(tmp_path / "state.db")
    found = after.get_run_status({run})[run]
    assert (found.status, found.sub_status) == ("finished", "failed")
    assert after.get_task_by_token(token or "") is None
    again = after.create_run(
        "fab", "1", "hash", {}, "@none/default", None, None, TaskType.SERVER_APP
    )
    assert after.get_run_status({again})[again].status == "pending"


def test_intervals_are_changed_where_they_are_used() -> None:
    assert failed_tasks.expect_signs_of_life()
    assert failed_tasks.send_signs_of_life()
    for name in (*failed_tasks._STATES, failed_tasks._SENDER):
        module = importlib.import_module(name)
        assert getattr(module, failed_tasks._INTERVAL) == failed_tasks.SECONDS


def test_another_flower_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = InMemoryNodeState.finish_task
    starts = SqlLinkState.initialize
    monkeypatch.setattr(failed_tasks, "version", lambda name: "1.40.0")
    assert not failed_tasks.answer_for_the_dead()
    assert not failed_tasks.expect_signs_of_life()
    assert not failed_tasks.end_earlier_runs()
    assert InMemoryNodeState.finish_task is before
    assert SqlLinkState.initialize is starts
    assert "found 1.40.0" in caplog.text
