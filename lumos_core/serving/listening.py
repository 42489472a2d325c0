"""Listening until a signal ends it: the socket, the server, and the thread that watches files."""

import logging
import os
import signal
import socket
import threading
from asyncio import BaseTransport, TimerHandle, Transport
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lumos_core.errors import ConfigError, reason_of
from lumos_core.serving.newest_model import Newest

LIBRARY_LOGS = ("uvicorn.error", "asyncio")
"""Loggers of libraries; :func:`lumos_core.logs.configure` keeps texts of exceptions out of them."""
LOOK_SECONDS = 1.0
"""Between two looks for a newer model."""
IDLE_SECONDS = 10.0
"""A connection without a request for this long is closed."""
END_SECONDS = 10
"""After a signal, requests that are being answered have this long."""
CONNECTIONS = 256
HEADER_BYTES = 16 * 1024


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise _refused(host, port, reason_of(error)) from None
    except OSError as error:
        raise _refused(host, port, os.strerror(error.errno or 0)) from None


def _refused(host: str, port: int, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot listen on {host}:{port} ({reason}); choose another --port, or a --host of this "
        "machine"
    )


def url_of(listening: socket.socket) -> str:
    """The address of a socket, with the port that it got."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_until_signal(service: ASGIApp, listening: socket.socket, newest: Newest) -> None:
    """Answer requests until SIGTERM, or Ctrl-C.

    Requests that are being answered then are finished, for up to :data:`END_SECONDS`.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            service,
            http=QuietConnectionsEnd,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # lines with the ids of users
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=int(IDLE_SECONDS),
            timeout_graceful_shutdown=END_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
    )
    ended = threading.Event()
    watch = threading.Thread(target=newest.watch, args=(ended, LOOK_SECONDS), daemon=True)

    signals: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        """For a signal before the server handles it, and when the server raises it again at its
        end, for whoever handled it before."""
        signals.append(number)
        server.should_exit = True

    # Ctrl-C as well: asyncio's own handler cancels a task, which may have ended when it comes
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    watch.start()
    try:
        server.run(sockets=[listening])
    finally:
        ended.set()
        listening.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        logging.getLogger(__name__).info("ended")
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


class QuietConnectionsEnd(H11Protocol):
    """Close a connection whose next request does not come, or comes byte by byte.

    uvicorn itself waits for ever for the first request of a connection, and for the rest of a
    request's headers.
    """

    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(IDLE_SECONDS, self._close_if_quiet)

    def _close_if_quiet(self) -> None:
        cycle: Any = self.cycle
        if (cycle is None or cycle.response_complete) and not self.transport.is_closing():
            self.transport.abort()
