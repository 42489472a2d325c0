"""Replies that travel as a whole or not at all, made by changing Flower 1.39's names.

A reply is announced first and then sent in pieces, twice: by the ClientApp to its SuperNode, and by
the SuperNode to the SuperLink. In both cases

* who receives takes no piece twice. If only the answer to a piece is lost, the piece is sent again,
  is not taken, and Flower gives the reply up. Here the sender asks what is missing, and sends that.
* a piece larger than a request may be is sent again and again, and the server waits. Here a
  SuperNode sends only the beginning of a piece that is too large, for which the SuperLink refuses
  the reply by name.

And a SuperNode works for one message at a time. It waits for ever, connected but without doing any
work, if the ClientApp dies after it has announced its reply, or before it has fetched the message,
or if it ends without a reply. Here

* a SuperNode looks at a reply only when all its pieces are there;
* a message without a whole reply is answered with an error when its ClientApp has ended.

The names are changed only in the version of Flower that this module was written for, and only if
they are as expected; otherwise a warning is logged. The programs of SuperNodes and ClientApps load
the file by its path, so it imports nothing but Flower.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

FLOWER = "1.39."
PIECE_BYTES = 16 * 2**20  # that of bounded_link.py
_NODE, _PUSH = "flwr.supernode.start_client_internal", "_push_messages"
_CLIENT, _MAKE = "flwr.supernode.runtime.run_clientapp", "make_push_object_fn_protobuf"
_OBJECTS, _NOT_TAKEN = "flwr.supercore.inflatable.inflatable_utils", "ObjectPushError"
_STATE, _STATE_CLASS = "flwr.supernode.nodestate.in_memory_nodestate", "InMemoryNodeState"
_USED = ("finish_task", "get_messages", "_store_error_replies")
_CRASHED, _FINISHED = "CLIENT_APP_CRASHED_ERROR", "finished"
_TREES, _WALK = "flwr.supercore.inflatable.inflatable_object", "iterate_object_tree"
_STORE, _ABSENT = "flwr.supercore.object_store.object_store", "NoObjectInStoreError"


def in_supernode() -> bool:
    """Make all changes for a SuperNode, in this process; returns whether they were made."""
    return _right_version() and all([complete_on_the_way(), wait_for_whole_replies()])


def complete_on_the_way() -> bool:
    """Send again what a SuperLink lacks of a reply; returns whether it was arranged."""
    module = importlib.import_module(_NODE)
    original, not_taken = getattr(module, _PUSH, None), _not_taken()
    if not callable(original) or not_taken is None:
        return _left("a SuperNode does not send them as it did")

    def push_messages(*, send: Any, push_object: Any, **others: Any) -> None:  # as Flower calls it
        reply = Sending(send, push_object, not_taken)
        original(send=reply.send, push_object=reply.push_object, **others)

    setattr(module, _PUSH, push_messages)
    return True


def in_clientapp() -> bool:
    """Send again what the SuperNode lacks of a reply, in a ClientApp; returns whether it was
    arranged.

    It takes the pieces of a reply in one session only, so a piece that is not taken is there
    already, or has come too late. In the second case the SuperNode answers with an error.
    """
    module, not_taken = importlib.import_module(_CLIENT), _not_taken()
    make = getattr(module, _MAKE, None)
    if not _right_version() or not callable(make) or not_taken is None:
        return _left("a ClientApp does not send them as it did")

    def make_once(*args: Any, **kwargs: Any) -> Callable[[str, bytes], None]:
        push = make(*args, **kwargs)

        def push_object(piece: str, content: bytes) -> None:
            try:
                push(piece, content)
            except not_taken:
                log.warning("a piece of the reply was sent twice")

        return push_object

    setattr(module, _MAKE, make_once)
    return True


class Sending:
    """Sends replies, one after another, each announced first and then in pieces by several threads.

    Args:
        send: announces a reply; returns the ids of its pieces that the SuperLink does not have, and
            the id of a session in which it takes them.
        push_object: sends a piece, given the run, the session, the piece's id and its content.
        not_taken: raised by ``push_object`` if the SuperLink does not take the piece.
    """

    def __init__(
        self,
        send: Callable[..., tuple[set[str], str]],
        push_object: Callable[[int, str, str, bytes], None],
        not_taken: type[Exception],
    ) -> None:
        self._send, self._push_object, self._not_taken = send, push_object, not_taken
        self._announced: tuple[Any, ...] = ()
        self._lock = threading.Lock()

    def send(self, *announced: Any) -> tuple[set[str], str]:
        self._announced = announced
        return self._send(*announced)

    def push_object(self, run: int, session: str, piece: str, content: bytes) -> None:
        content = content[: PIECE_BYTES + 1]
        try:
            self._push_object(run, session, piece, content)
        except self._not_taken:
            with self._lock:  # announcing a reply again ends its sessions before
                missing, session = self._send(*self._announced)
                if piece in missing:
                    self._push_object(run, session, piece, content)


def wait_for_whole_replies() -> bool:
    """Hand on no part of a reply, and wait for none that will not come, in a SuperNode; returns
    whether it was arranged."""
    module = importlib.import_module(_STATE)
    state, crashed = getattr(module, _STATE_CLASS, None), getattr(module, _CRASHED, None)
    if crashed is None or not all(callable(getattr(state, name, None)) for name in _USED):
        return _left("a SuperNode does not keep them as it did")
    finish, get, answer = (getattr(state, name) for name in _USED)

    def finish_task(self: Any, task_id: int, *args: Any, **kwargs: Any) -> bool:
        done = bool(finish(self, task_id, *args, **kwargs))
        if done:
            self._store_error_replies(_ended_runs(self, task_id), crashed)
        return done

    def get_messages(self: Any, **asked: Any) -> list[Any]:
        found = get(self, **asked)
        part = [message for message in found if not _is_whole(self, message)]
        with self.lock_msg_store:
            for message in part:  # to be asked for again
                self.msg_store[message.metadata.message_id].is_retrieved = False
        return [message for message in found if message not in part]

    def store_error_replies(self: Any, run_ids: set[int], error: Any) -> None:
        # Called with the lock of the tasks, so nothing may ask for tasks.
        for entry in _entries(self, run_ids):
            if not entry.message.metadata.reply_to_message_id:
                entry.is_retrieved = True  # Flower answers for these alone
            elif not entry.is_retrieved and not _is_whole(self, entry.message):
                log.warning("a reply of which only a part has come is dropped")
                self.delete_messages(message_ids=[entry.message.metadata.message_id])
                self.object_store.delete(entry.message.metadata.message_id)
        answer(self, run_ids, error)

    for name, changed in zip(_USED, (finish_task, get_messages, store_error_replies), strict=True):
        setattr(state, name, changed)
    return True


def _ended_runs(state: Any, task_id: int) -> set[int]:
    """The run of a task that has ended, unless another task of the run is still to answer. A
    message is stored after its task, so it never belongs to none."""
    runs = {task.run_id for task in state.get_tasks(task_ids=[task_id])}
    others = state.get_tasks(run_ids=list(runs)) if runs else []
    return runs if all(task.status.status == _FINISHED for task in others) else set()


def _entries(state: Any, run_ids: Iterable[int]) -> list[Any]:
    with state.lock_msg_store:
        entries = list(state.msg_store.values())
    return [entry for entry in entries if entry.message.metadata.run_id in run_ids]


def _is_whole(state: Any, message: Any) -> bool:
    """Whether all pieces of a message are there; only those of replies are sent one by one."""
    if not message.metadata.reply_to_message_id:
        return True
    walk = getattr(importlib.import_module(_TREES), _WALK)
    try:
        tree = state.object_store.get_object_tree(message.metadata.message_id)
    except getattr(importlib.import_module(_STORE), _ABSENT):
        return False
    return all(state.object_store.get(node.object_id) for node in walk(tree))


def _not_taken() -> type[Exception] | None:
    found = getattr(importlib.import_module(_OBJECTS), _NOT_TAKEN, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _right_version() -> bool:
    found = version("flwr")
    return found.startswith(FLOWER) or _left(f"this is for {FLOWER}*, found {found}")


def _left(reason: str) -> bool:
    log.warning("replies may be lost in parts: %s", reason)
    return False
