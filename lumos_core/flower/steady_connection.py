"""A SuperNode's connection that survives faults which pass, made by changing Flower 1.39's names.

Flower 1.39 has no settings for any of this:

* It retries a request only if nobody answers (UNAVAILABLE). Every other status ends the SuperNode,
  even if it passes, such as INTERNAL for a locked database. Here they are retried for a minute.
* It exits if the SuperLink refuses to activate the node. The SuperLink does so as long as it counts
  the node as connected, so a node that has died is refused for a while. Here it tries again.
* It waits up to 20 seconds between two attempts, and gRPC up to two minutes before it connects
  again. Here both wait up to 5 seconds.
* A request on a link that is cut waits until TCP gives up. Here gRPC asks for a sign of life when
  an answer is 10 seconds late, and then counts the connection as broken.
* A node is counted as gone 60 seconds after its last heartbeat, twice the interval that the node
  itself names. Here the interval is ``LUMOS_HEARTBEAT_SECONDS``, 15 by default: 30 seconds.

As in ``fast_polling.py``, the names are changed only in the version of Flower that this module was
written for, and only if they are as expected; otherwise a warning is logged. ``live_supernode.py``
loads the file by its path, so it imports nothing but Flower and gRPC.

Every failed attempt writes a line that a supervisor reads: see :data:`LINE`.
"""

import importlib
import logging
import os
import runpy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

SWITCH = "LUMOS_HEARTBEAT_SECONDS"
FLOWER = "1.39."
HEARTBEAT_SECONDS, FLOWERS_SECONDS = 15, 30
LEAST_SECONDS = 10  # a SuperLink refuses less
LONGEST_WAIT = 5.0
PATIENCE_SECONDS = 60.0  # with one request that is answered by errors; then Flower decides
LINE = "connection: %s; next attempt in %.1f s"
REFUSED = "REFUSED"  # in the place of the status, for an activation that was refused
PASSING = ("ABORTED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN")
"""Statuses that may pass, besides UNAVAILABLE."""
CHANNEL = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # the time that connecting may take
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

_NODE, _MAKE = "flwr.supernode.start_client_internal", "_make_fleet_connection_retry_invoker"
_INVOKER = ("max_tries", "wait_gen_factory", "should_giveup", "on_backoff", "on_success")
_CHANNELS = "flwr.supercore.grpc"
_HEARTBEATS = ("flwr.client.grpc_rere_client.connection", "flwr.supercore.heartbeat")
_INTERVAL = "HEARTBEAT_DEFAULT_INTERVAL"
_ACTIVATION_FAILED = '"code":2004'


def heartbeat_seconds(environment: Mapping[str, str] = os.environ) -> int:
    """Seconds within which a node promises a heartbeat; it is counted as gone after twice as many.

    Raises:
        SystemExit: the variable is not a whole number of seconds in the allowed range.
    """
    text = environment.get(SWITCH) or str(HEARTBEAT_SECONDS)
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else -1
    if not LEAST_SECONDS <= seconds <= FLOWERS_SECONDS:
        raise SystemExit(
            f"{SWITCH} = {text!r}, expected whole seconds from {LEAST_SECONDS} to "
            f"{FLOWERS_SECONDS}, which is Flower's interval"
        )
    return seconds


def steady() -> None:
    """Make all changes that this Flower allows, in this process.

    Raises:
        SystemExit: see :func:`heartbeat_seconds`.
    """
    seconds = heartbeat_seconds()
    if _right_version():
        retry_what_passes()
        notice_broken_links()
        send_heartbeats(seconds)


def retry_what_passes() -> bool:
    """Retry requests as described above; returns whether it was arranged."""
    module = importlib.import_module(_NODE)
    make = getattr(module, _MAKE, None)
    if make is None or not all(hasattr(make(), name) for name in _INVOKER):
        return _left("its retries are not where they were")

    def better(*args: Any, **kwargs: Any) -> Any:
        return Retries(make(*args, **kwargs)).invoker

    setattr(module, _MAKE, better)
    return True


def notice_broken_links() -> bool:
    """Give gRPC channels the options of :data:`CHANNEL`; returns whether it was arranged."""
    module, grpc = importlib.import_module(_CHANNELS), importlib.import_module("grpc")
    if getattr(module, "grpc", None) is not grpc:
        return _left("its gRPC channels are not made where they were")

    def with_options(make: Callable[..., Any]) -> Callable[..., Any]:
        def channel(*args: Any, options: Any = (), **kwargs: Any) -> Any:
            return make(*args, options=[*options, *CHANNEL], **kwargs)

        return channel

    channels = {n: with_options(getattr(grpc, n)) for n in ("insecure_channel", "secure_channel")}
    setattr(module, "grpc", SimpleNamespace(**{**vars(grpc), **channels}))  # noqa: B010
    return True


def send_heartbeats(seconds: int) -> bool:
    """Promise and send a heartbeat within so many seconds; returns whether it was arranged."""
    modules = [importlib.import_module(name) for name in _HEARTBEATS]
    if any(getattr(module, _INTERVAL, None) != FLOWERS_SECONDS for module in modules):
        return _left("its heartbeats are not as they were")
    for module in modules:
        setattr(module, _INTERVAL, seconds)
    return True


class Retries:
    """Changes what one of Flower's retry invokers retries, how long it waits and what it logs.

    Args:
        invoker: a ``RetryInvoker``; it is changed.

    Attributes:
        invoker: the same.
    """

    def __init__(self, invoker: Any) -> None:
        self.invoker = invoker
        self._call = threading.local()  # since when this thread's request is answered by errors
        self._should_give_up, self._on_backoff, self._on_success = (
            invoker.should_giveup, invoker.on_backoff, invoker.on_success
        )  # fmt: skip
        invoker.wait_gen_factory = _waits
        invoker.should_giveup = self.should_give_up
        invoker.on_backoff = self.on_backoff
        invoker.on_success = self.on_success

    def should_give_up(self, error: Any) -> bool:
        """Whether a request that failed is not tried again; asked by the invoker."""
        signing_off = self.invoker.max_tries == 1  # Flower sets this: nothing is worth waiting for
        if not signing_off and (_is_refusal(error) or self._may_pass(error)):
            return False
        self._call.since = None
        return bool(self._should_give_up(error)) or signing_off

    def on_backoff(self, state: Any) -> None:
        """Log a failed attempt; called by the invoker before it waits."""
        error = state.exception
        _beat()
        log.warning(LINE, REFUSED if _is_refusal(error) else error.code().name, state.actual_wait)
        self._on_backoff(state)

    def on_success(self, state: Any) -> None:
        """Called by the invoker after every request that succeeded."""
        self._call.since = None
        _beat()
        self._on_success(state)

    def _may_pass(self, error: Any) -> bool:
        if error.code().name not in PASSING:
            return False
        self._call.since = getattr(self._call, "since", None) or time.monotonic()
        return bool(time.monotonic() - self._call.since < PATIENCE_SECONDS)


_life = runpy.run_path(str(Path(__file__).with_name("sign_of_life.py")))


def _beat() -> None:
    """This SuperNode talks to its server, or tries to."""
    _life["beat"]()


def _waits() -> Iterator[float]:
    """The longest waits before the second, third … attempt; Flower draws from zero to each."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(2 * seconds, LONGEST_WAIT)


def _is_refusal(error: Any) -> bool:
    refused = error.code().name == "FAILED_PRECONDITION"
    return refused and _ACTIVATION_FAILED in str(error.details()).replace(" ", "")


def _right_version() -> bool:
    found = version("flwr")
    return found.startswith(FLOWER) or _left(f"this is for {FLOWER}*, found {found}")


def _left(reason: str) -> bool:
    log.warning("a part of Flower's connection stays as it is: %s", reason)
    return False
