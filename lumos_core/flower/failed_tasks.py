"""What a SuperNode or SuperLink does with a task whose process has died, made by changing Flower
1.39's names.

* Flower answers for a ClientApp only if its claim runs out. If the SuperExec reports that the
  process has ended (``live_superexec.py``), a SuperNode lets the claim run out at once: a task that
  was at work is answered with an error, and one that was still starting is started again.
* If a run ends while one of its messages is received, the message is dropped, but not its task.
  Here both are.
* A process that sends no sign of life is given up after a minute. Here it is half a minute, as its
  death is reported otherwise.
* A SuperLink that starts again waits for signs of life of the runs in its database, and nodes wait
  for instructions of theirs that were never sent whole. LUMOS ends everything else of a server
  before it starts the SuperLink again (``server_supervisor.py``), so here these runs end at once.

``live_supernode.py`` and ``bounded_link.py`` load the file by its path.
"""

import importlib
import logging
from datetime import timedelta
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

FLOWER = "1.39."
LOST = "lumos: the process of this task has ended"
FLOWERS_SECONDS = 30
SECONDS = 15  # given up after twice as many, and claimed for as many
_STATES = ("flwr.supercore.corestate.in_memory_corestate", "flwr.supercore.corestate.sql_corestate")
_NODE_STATE = "flwr.supernode.nodestate.in_memory_nodestate"
_NODE, _PULL = "flwr.supernode.start_client_internal", "_pull_and_store_message"
_LINK_STATE = "flwr.server.superlink.linkstate.sql_linkstate"
_SENDER = "flwr.supercore.heartbeat"
_INTERVAL = "HEARTBEAT_DEFAULT_INTERVAL"
_USED = ("finish_task", "_cleanup_expired_task_tokens_locked")
_USED_OF_RUNS = ("initialize", "get_run_info", "finish_task")
_UNFINISHED = ("pending", "starting", "running")


def answer_for_the_dead() -> bool:
    """Let claims of processes that have ended run out, in a SuperNode; returns whether it is so."""
    if not _right_version():
        return False
    module = importlib.import_module(_NODE_STATE)
    state = getattr(module, "InMemoryNodeState", None)
    if state is None or not all(callable(getattr(state, name, None)) for name in _USED):
        return _left("its tasks are not kept as they were")
    finish = state.finish_task

    def finish_task(self: Any, task_id: int, sub_status: str, details: str) -> bool:
        if details != LOST:
            return bool(finish(self, task_id, sub_status, details))
        with self.lock_task_store:
            record = self.task_token_store.get(task_id)
            if record is None:
                return False
            record.active_until -= timedelta(days=1)
            self._cleanup_expired_task_tokens_locked()
        return True

    setattr(state, "finish_task", finish_task)  # noqa: B010
    return True


def drop_ignored_messages() -> bool:
    """Finish the task of a message that a SuperNode ignores as its run has ended meanwhile; returns
    whether it is so. Otherwise its ClientApp waits for hours for what the message consists of."""
    module = importlib.import_module(_NODE)
    original = getattr(module, _PULL, None)
    if not _right_version() or not callable(original):
        return _left("messages are not received as they were")

    def pull(state: Any, **kwargs: Any) -> Any:
        with _Recorded(state) as made:
            found = original(state=state, **kwargs)
        if found is None and made.tasks:
            state.delete_messages(message_ids=made.messages)
            for task in made.tasks:
                state.finish_task(task, sub_status="failed", details="its message was ignored")
        return found

    def by_name(**kwargs: Any) -> Any:  # as Flower calls it
        return pull(kwargs.pop("state"), **kwargs)

    setattr(module, _PULL, by_name)
    return True


class _Recorded:
    """What is added to a SuperNode's state in a ``with`` block."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self.tasks: list[int] = []
        self.messages: list[str] = []

    def __enter__(self) -> "_Recorded":
        create, store = self._state.create_task, self._state.store_message

        def create_task(*args: Any, **kwargs: Any) -> Any:
            task = create(*args, **kwargs)
            self.tasks += [] if task is None else [task]
            return task

        def store_message(message: Any) -> Any:
            self.messages.append(message.metadata.message_id)
            return store(message)

        self._state.create_task, self._state.store_message = create_task, store_message
        return self

    def __exit__(self, *error: object) -> None:
        del self._state.create_task, self._state.store_message  # those of the class again


def end_earlier_runs() -> bool:
    """End the runs that are found in a database when a SuperLink starts; returns whether it is so.
    No process works for them any more."""
    if not _right_version():
        return False
    state = getattr(importlib.import_module(_LINK_STATE), "SqlLinkState", None)
    if state is None or not all(callable(getattr(state, name, None)) for name in _USED_OF_RUNS):
        return _left("its runs are not kept as they were")
    original = state.initialize

    def initialize(self: Any, *args: Any, **kwargs: Any) -> Any:
        tables = original(self, *args, **kwargs)
        for run in self.get_run_info(statuses=_UNFINISHED):
            self.finish_task(run.primary_task_id, "failed", "its SuperLink was started again")
        return tables

    setattr(state, "initialize", initialize)  # noqa: B010
    return True


def expect_signs_of_life() -> bool:
    """Give up silent processes sooner, in a SuperNode or SuperLink; returns whether it is so."""
    return _right_version() and _set_interval(_STATES)


def send_signs_of_life() -> bool:
    """Send them more often, in a ClientApp; returns whether it is so."""
    return _right_version() and _set_interval((_SENDER,))


def _set_interval(names: tuple[str, ...]) -> bool:
    modules = [importlib.import_module(name) for name in names]
    if any(
        getattr(module, _INTERVAL, None) not in (FLOWERS_SECONDS, SECONDS) for module in modules
    ):
        return _left("its intervals are not as they were")
    for module in modules:
        setattr(module, _INTERVAL, SECONDS)
    return True


def _right_version() -> bool:
    found = version("flwr")
    return found.startswith(FLOWER) or _left(f"this is for {FLOWER}*, found {found}")


def _left(reason: str) -> bool:
    log.warning("Flower's tasks stay as they are: %s", reason)
    return False
