"""Serves a page that is kept up to date by server-sent events.

Meant for one operator with a few windows, not for the Internet: a bounded number of connections,
answers to GET only, loopback unless another address is named, and then only with a token. The
standard library's server is enough for that.
"""

import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lumos_core.errors import ConfigError, LumosError, reason_of
from lumos_core.pages.browser_access import cookie_of, is_loopback, page_headers, token_cookie
from lumos_core.pages.page import Snapshot, live_parts, policy, referrer, render_live, script

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
"""Connections at a time; more are answered with 503."""
MOST_STREAMS = 16
"""Pages that are kept up to date at a time."""
LOOK_SECONDS = 1.0
"""Between two looks at what is shown, at least."""
LOOK_TIMES = 4.0
"""Between two looks, so many times as long as the last one took, at least."""
SILENCE_SECONDS = 15.0
"""After so long without news, a comment tells proxies and browsers that the connection lives."""
SOCKET_SECONDS = 20.0
"""A client that does not read or write for so long is dropped."""


class _Source:
    """The latest snapshot, for all connections. Looks are so rare that they take a small part of
    the time, however long one takes."""

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._shown: Snapshot | None = None
        self._parts: dict[str, str] = {}
        self._until = 0.0

    def parts(self) -> dict[str, str]:
        """Raises LumosError or OSError if nothing can be seen."""
        with self._lock:
            shown = self._latest()
            if not self._parts:
                self._parts = {**live_parts(shown.page), "announcement": shown.announcement}
            return self._parts

    def snapshot(self) -> Snapshot:
        """Raises LumosError or OSError if nothing can be seen."""
        with self._lock:
            return self._latest()

    def _latest(self) -> Snapshot:
        begin = time.monotonic()
        if self._shown is None or begin >= self._until:
            self._shown, self._parts = None, {}
            self._shown = self._look()
            end = time.monotonic()
            self._until = end + max(LOOK_SECONDS, LOOK_TIMES * (end - begin))
        return self._shown


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], source: _Source, name: str, token: str) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        super().__init__(address, _Handler)
        self.source, self.name, self.token = source, name, token
        self.ended = threading.Event()
        self.streams = threading.BoundedSemaphore(MOST_STREAMS)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(1.0)
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection of the page ended", exc_info=True)  # mostly clients that left


class _Handler(BaseHTTPRequestHandler):
    timeout = SOCKET_SECONDS
    server: _Server
    server_version, sys_version = "lumos", ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_for_us():
            self._plain(403, "This address is not served here; use the one that lumos printed.")
            return
        if self.server.token and not self._may_see(url.query):
            self._plain(401, "Open the whole address that lumos printed: it holds a token.")
            return
        if self.server.token and url.query:  # the token leaves the address bar
            self._to_cookie()
        elif url.path == "/":
            self._page()
        elif url.path == "/events":
            self._events()
        else:
            self._plain(404, "There is nothing here.")

    # --- who may see it

    def _is_for_us(self) -> bool:
        """Without a token the page may be asked for by its own name only: a page of somebody else,
        whose name leads to this machine, must not read it."""
        if self.server.token:
            return True
        names = ("localhost", "127.0.0.1", "[::1]", str(self.server.server_address[0]))
        return self.headers.get("Host", "") in {f"{name}:{self.server.port}" for name in names}

    def _may_see(self, query: str) -> bool:
        given = [*parse_qs(query).get("token", []), self._cookie()]
        token = self.server.token.encode()
        return any(hmac.compare_digest(text.encode(), token) for text in given)

    def _cookie(self) -> str:
        return cookie_of(self.headers.get("Cookie", ""), self._cookie_name)

    @property
    def _cookie_name(self) -> str:
        return f"lumos-{self.server.port}"  # browsers share cookies between ports

    def _to_cookie(self) -> None:
        cookie = token_cookie(self._cookie_name, self.server.token)
        self._head(303, "text/plain; charset=utf-8", {"Set-Cookie": cookie, "Location": "/"})

    # --- answers

    def _page(self) -> None:
        try:
            found = self.server.source.snapshot()
        except (LumosError, OSError) as error:
            self._plain(503, f"The run cannot be shown: {_text(error)}")
            return
        text = render_live(found, self.server.name)
        self._head(200, "text/html; charset=utf-8")
        self.wfile.write(text.encode(errors="replace"))

    def _events(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            self._plain(503, f"{MOST_STREAMS} windows are open already; close one.")
            return
        try:
            self._head(200, "text/event-stream")
            self.wfile.write(b"retry: 2000\n\n")
            self._stream()
        finally:
            self.server.streams.release()

    def _stream(self) -> None:
        """Send what has changed since this connection was told last, until the end."""
        told: dict[str, str] = {}
        last = time.monotonic()
        while not self.server.ended.is_set():
            try:
                parts = self.server.source.parts()
                news = {key: part for key, part in parts.items() if told.get(key) != part}
                told = parts
                sent = f"data: {json.dumps(news)}\n\n" if news else ""
            except (LumosError, OSError) as error:
                told = {}
                sent = f"event: problem\ndata: {json.dumps(_text(error))}\n\n"
            if not sent and time.monotonic() - last >= SILENCE_SECONDS:
                sent = ": still here\n\n"
            if sent:
                self.wfile.write(sent.encode(errors="replace"))
                last = time.monotonic()
            self.server.ended.wait(LOOK_SECONDS)

    def _plain(self, status: int, text: str) -> None:
        self._head(status, "text/plain; charset=utf-8")
        self.wfile.write(f"{text}\n".encode(errors="replace"))

    def _head(self, status: int, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            **page_headers(policy(script(), header=True), referrer()),
            **(more or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: their addresses may hold the token."""


def _text(error: Exception) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


@contextmanager
def serving_live(
    look: Callable[[], Snapshot], name: str, host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Serve a live page while the context is open; yields its address, with the token if it needs
    one.

    Args:
        look: makes a snapshot; is called at most once a second, however many windows are open.
        name: of what is shown.
        host: address to listen on; any other than loopback gets a token.
        port: 0 for any that is free.

    Raises:
        ConfigError: the address cannot be bound.
    """
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    try:
        server = _Server((host, port), _Source(look), name, token)
    except OSError as error:
        raise ConfigError(
            f"--web: cannot listen on {host}:{port} ({reason_of(error)}); choose another --port "
            "or --host"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.port}/" + (f"?token={token}" if token else "")
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
