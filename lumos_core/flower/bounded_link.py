"""Limits of what a node can store in a Flower 1.39 SuperLink, made by changing its private names.

Flower accepts replies of any size: one of 20,000 arrays holds the database's lock for longer than
others wait for it ("database is locked"), and a request may hold two gigabytes. With this module a
reply may hold

* ``OBJECTS`` pieces plus twice those of the instruction that it answers,
* ``BYTES`` bytes plus twice those of the instruction,
* and no piece of more than ``PIECE_BYTES``; Flower cuts arrays into pieces of 5 MiB.

What exceeds a limit is not stored. Whoever asks for it gets ``REFUSED`` and the reason in place of
the content, so that the server need not wait for it (:mod:`lumos_core.flower.bounded_pulls`). No
node can store such a content itself: the SuperLink checks that a content is an object of Flower.
A request of more than ``REQUEST_BYTES`` is refused by gRPC, and others wait for the database's lock
for ``BUSY_MILLISECONDS`` instead of Flower's 5 seconds.

The names are changed only in the version of Flower that this module was written for, and only if
they are as expected; otherwise a warning is logged, and the SuperLink runs without these limits.

The file is also a program, which runs ``flower-superlink`` with the limits, and with what
``failed_tasks.py`` and ``failing_database.py`` change. It is started by its
path, not as a part of ``lumos_core``, so it imports nothing but Flower:

    python -P bounded_link.py flower-superlink ARGUMENT…
"""

import importlib
import logging
import runpy
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

FLOWER = "1.39."
MIB = 2**20
OBJECTS = 2048  # registering them held the database's lock for 1.1 s (4096: 6.3 s, busy machine)
BYTES = 64 * MIB
PIECE_BYTES = 16 * MIB
REQUEST_BYTES = 32 * MIB
BUSY_MILLISECONDS = 60_000
REFUSED = b"refused by the SuperLink: "

_LINK = "flwr.superlink.cli.flower_superlink"
_HANDLERS = "flwr.server.superlink.fleet.message_handler.message_handler"
_SQL = "flwr.supercore.sql_mixin"
_STATES = {
    "flwr.supercore.corestate.sql_corestate": "SqlCoreState",
    "flwr.supercore.corestate.in_memory_corestate": "InMemoryCoreState",
}
_REMEMBERED = 100_000  # instructions, objects, refusals: the oldest are forgotten
K = TypeVar("K")
V = TypeVar("V")


def program(path: str) -> list[str]:
    """The beginning of the command for a SuperLink: this file as a program, which runs it with
    limits. A program that is not beside this Python may belong to another Flower, and runs as it
    is."""
    if Path(path).parent != Path(sys.executable).parent:
        return [path]
    return [sys.executable, "-P", str(Path(__file__).absolute()), Path(path).name]


class _Recent(OrderedDict[K, V], Generic[K, V]):
    """A dict that forgets its oldest entries."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > _REMEMBERED:
            self.popitem(last=False)


@dataclass
class _Session:
    """The upload of one reply."""

    root: str
    objects: frozenset[str]
    left: int  # bytes


class Ledger:
    """What instructions held, and how much of their replies has arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instructions: _Recent[str, tuple[str, ...]] = _Recent()  # id → objects
        self._sizes: _Recent[str, int] = _Recent()  # of objects that nodes have fetched
        self._sessions: _Recent[str, _Session] = _Recent()
        self._refused: _Recent[str, str] = _Recent()  # object → reason

    # --- on the way to a node

    def instruction(self, message_id: str, objects: tuple[str, ...]) -> None:
        with self._lock:
            self._instructions[message_id] = objects

    def fetched(self, object_id: str, size: int) -> None:
        with self._lock:
            self._sizes[object_id] = size

    # --- on the way from a node

    def most_objects(self, answered: str) -> int:
        """The most pieces that a reply to an instruction may have."""
        with self._lock:
            return OBJECTS + 2 * len(self._instructions.get(answered, ()))

    def begin(self, session: str, answered: str, root: str, objects: frozenset[str]) -> None:
        """A reply is announced."""
        with self._lock:
            size = sum(self._sizes.get(o, 0) for o in self._instructions.get(answered, ()))
            self._sessions[session] = _Session(root, objects, BYTES + 2 * size)

    def refuse(self, objects: tuple[str, ...], reason: str) -> None:
        with self._lock:
            for object_id in objects:
                self._refused[object_id] = reason
        log.warning("a node's reply is refused: %s", reason)

    def takes(self, session: str, object_id: str, size: int) -> bool:
        """Whether a piece may be stored; if not, the reply is refused."""
        with self._lock:
            upload = self._sessions.get(session)
            if upload is None or object_id not in upload.objects:
                return False
            upload.left -= size
            left = upload.left
        if size > PIECE_BYTES:
            reason = f"a piece of {size} bytes, at most {PIECE_BYTES}"
        elif left < 0:
            reason = f"more than {BYTES} bytes and twice those of the instruction"
        else:
            return True
        self.refuse((object_id, upload.root), reason)
        return False

    def refusal(self, object_id: str) -> bytes | None:
        """What is said in place of a content; None if it has not been refused."""
        with self._lock:
            reason = self._refused.get(object_id)
        return None if reason is None else REFUSED + reason.encode()


def install(ledger: Ledger | None = None) -> bool:
    """Set the limits in this process; returns whether it was done."""
    if not version("flwr").startswith(FLOWER):
        return _left(f"they are for Flower {FLOWER}*, found {version('flwr')}")
    link, handlers, sql = (importlib.import_module(n) for n in (_LINK, _HANDLERS, _SQL))
    states = [getattr(importlib.import_module(m), n, None) for m, n in _STATES.items()]
    functions = ("pull_messages", "pull_object", "push_messages", "push_object")
    pragmas = dict(getattr(sql, "SQLITE_PRAGMAS", ()))
    if (
        not all(callable(getattr(handlers, name, None)) for name in functions)
        or not all("get_object" in vars(state) for state in states if state is not None)
        or None in states
        or not hasattr(link, "GRPC_MAX_MESSAGE_LENGTH")
        or "busy_timeout" not in pragmas
    ):
        return _left("Flower's SuperLink does not look as expected")
    ledger = ledger or Ledger()
    _set(link, "GRPC_MAX_MESSAGE_LENGTH", REQUEST_BYTES)
    _set(sql, "SQLITE_PRAGMAS", tuple({**pragmas, "busy_timeout": str(BUSY_MILLISECONDS)}.items()))
    _set(handlers, "pull_messages", _pull_messages(handlers.pull_messages, ledger))
    _set(handlers, "pull_object", _pull_object(handlers.pull_object, ledger))
    _set(handlers, "push_messages", _push_messages(handlers.push_messages, ledger))
    response = handlers.PushObjectResponse
    _set(handlers, "push_object", _push_object(handlers.push_object, ledger, response))
    for state in states:
        _set(state, "get_object", _get_object(vars(state)["get_object"], ledger))
    return True


def _set(owner: Any, name: str, value: object) -> None:
    setattr(owner, name, value)


def _left(reason: str) -> bool:
    log.warning("the SuperLink has no limits for replies: %s", reason)
    return False


# ---------------------------------------------------------------- Flower's functions, with limits
Function = Callable[..., Any]


def _pull_messages(original: Function, ledger: Ledger) -> Function:
    def pull_messages(*args: Any, **kwargs: Any) -> Any:
        response = original(*args, **kwargs)
        for tree in response.message_object_trees:
            ledger.instruction(tree.object_id, tuple(t.object_id for t in _nodes(tree)))
        return response

    return pull_messages


def _pull_object(original: Function, ledger: Ledger) -> Function:
    def pull_object(request: Any, state: Any) -> Any:
        response = original(request, state)
        if response.object_available:
            ledger.fetched(request.object_id, len(response.object_content))
        return response

    return pull_object


def _push_messages(original: Function, ledger: Ledger) -> Function:
    def push_messages(request: Any, state: Any) -> Any:
        tree = request.message_object_trees[0]
        answered = request.messages_list[0].metadata.reply_to_message_id
        most = ledger.most_objects(answered)
        objects: set[str] = set()
        for number, node in enumerate(_nodes(tree), 1):
            if number > most:
                return _without_content(original, request, state, ledger, most)
            objects.add(node.object_id)
        response = original(request, state)
        ledger.begin(response.session_id, answered, tree.object_id, frozenset(objects))
        return response

    return push_messages


def _without_content(
    original: Function, request: Any, state: Any, ledger: Ledger, most: int
) -> Any:
    """Announce the reply to the server without its content, so that the server hears of it."""
    tree = request.message_object_trees[0]
    tree.ClearField("children")
    ledger.refuse((tree.object_id,), f"more than {most} objects")
    response = original(request, state)
    response.ClearField("objects_to_push")
    return response


def _push_object(original: Function, ledger: Ledger, response: Any) -> Function:
    def push_object(request: Any, state: Any) -> Any:
        if not ledger.takes(request.session_id, request.object_id, len(request.object_content)):
            return response(stored=False)
        return original(request, state)

    return push_object


def _get_object(original: Function, ledger: Ledger) -> Function:
    """What is stored comes first: a node must not be able to have another's content refused."""

    def get_object(self: Any, run_id: int, object_id: str) -> bytes | None:
        content: bytes | None = original(self, run_id, object_id)
        return content or ledger.refusal(object_id) or content

    return get_object


def _nodes(tree: Any) -> Iterator[Any]:
    """All nodes of an object tree, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def main() -> None:
    (entry,) = entry_points(group="console_scripts", name=sys.argv[1])
    run = entry.load()
    install()
    tasks, database = _beside("failed_tasks.py"), _beside("failing_database.py")
    tasks["expect_signs_of_life"]()
    tasks["end_earlier_runs"]()
    database["lose_nothing"]()
    sys.argv = sys.argv[1:]
    sys.exit(run())


def _beside(name: str) -> dict[str, Any]:
    """The names of a module that is loaded by its path."""
    return runpy.run_path(str(Path(__file__).with_name(name)))


if __name__ == "__main__":
    main()
