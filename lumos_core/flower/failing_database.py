"""What a SuperLink does when its database fails, as on a full disk, made by changing Flower 1.39's
names. A request that fails is repeated by whoever sent it, so what it was about must not be lost:

* Flower counts a run's bytes and seconds after it has stored or handed out what the request was
  about. If only counting fails, the request fails and is repeated, but a message is not handed out
  twice, and a piece not accepted twice. Here such a failure is logged, and the request succeeds.
* A piece that cannot be stored is answered like one that nobody asked for, and its sender gives it
  up. Here the request fails.
* A reply is handed to the ServerApp in several transactions. If a later one fails, the reply has
  been handed out to nobody. Here it is one transaction.

``bounded_link.py`` loads the file by its path.
"""

import importlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

FLOWER = "1.39."
_STATE, _STATE_CLASS = "flwr.server.superlink.linkstate.sql_linkstate", "SqlLinkState"
_COUNTING = ("store_traffic", "add_clientapp_runtime")
_STORE, _SESSION = "store_object", "session"
_SCHEMA, _PENDING = "flwr.supercore.state.schema.corestate_models", "ObjectPushSessionPending"
_HANDLERS, _PULL = "flwr.superlink.servicer.runtime.runtime_handlers", "pull_messages"
Function = Callable[..., Any]


class NotStoredError(Exception):
    """The database failed; the same request may succeed later."""


def lose_nothing() -> bool:
    """Make all changes in this process; returns whether they were made."""
    if not version("flwr").startswith(FLOWER):
        return _left(f"this is for {FLOWER}*, found {version('flwr')}")
    handlers = importlib.import_module(_HANDLERS)
    state = getattr(importlib.import_module(_STATE), _STATE_CLASS, None)
    pending = getattr(importlib.import_module(_SCHEMA), _PENDING, None)
    used = (*_COUNTING, _STORE, _SESSION)
    if (
        state is None
        or pending is None
        or not all(callable(getattr(state, name, None)) for name in used)
        or not callable(getattr(handlers, _PULL, None))
    ):
        return _left("Flower's SuperLink does not look as expected")
    for name in _COUNTING:
        setattr(state, name, _leniently(getattr(state, name)))
    setattr(state, _STORE, _strictly(getattr(state, _STORE), pending))
    setattr(handlers, _PULL, _at_once(getattr(handlers, _PULL), state))
    return True


def _leniently(count: Function) -> Function:
    """The same, where an error of the database is logged."""

    def counted(*args: Any, **kwargs: Any) -> None:
        try:
            count(*args, **kwargs)
        except importlib.import_module("sqlalchemy").exc.SQLAlchemyError as error:
            log.warning("bytes and seconds of a request are not counted (%s)", type(error).__name__)

    return counted


def _strictly(store: Function, pending: Any) -> Function:
    """The same, but raises NotStoredError for a piece that is still waited for."""

    def store_object(
        self: Any, run_id: int, session_id: str, object_id: str, content: bytes
    ) -> Any:
        stored = store(self, run_id, session_id, object_id, content)
        if not stored:
            with self.session() as session:
                awaited = session.get(pending, (session_id, object_id)) is not None
                if awaited and self.object_store.get(object_id) == b"":  # None: not any more
                    raise NotStoredError("the database could not store a piece of a message")
        return stored

    return store_object


def _at_once(pull: Function, state_class: type) -> Function:
    """The same, in one transaction."""

    def pull_messages(request: Any, state: Any, task: Any) -> Any:
        if not isinstance(state, state_class):  # one in memory
            return pull(request, state, task)
        with getattr(state, _SESSION)():
            return pull(request, state, task)

    return pull_messages


def _left(reason: str) -> bool:
    log.warning("messages may be lost when the database fails: %s", reason)
    return False
