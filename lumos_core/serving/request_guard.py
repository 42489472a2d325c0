"""What stands before every request: who may ask, how large, how many at a time, how long.

The guard is the outermost ASGI application. It reads the whole body before the service sees the
request, so nothing behind it waits for a client; and it turns every exception into an answer
without text, so that none of them reaches a log with the history that it may quote.

==================  ================================================================================
401                 there is a token, and the request does not bring it
403                 without a token: the ``Host`` is another name (see ``access_token``)
408                 the body did not arrive in time
413                 the body is too large
500                 an error of LUMOS; the log has its type
503, Retry-After    as many requests as allowed are being worked on, or this one took too long
==================  ================================================================================
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lumos_core.serving.access_token import Access
from lumos_core.serving.request_metrics import RequestMetrics

log = logging.getLogger(__name__)

OPEN_PATH = "/health"
"""Needs no token, and is answered however much there is to do: supervisors ask for it."""
LONGEST_ID = 256
"""Characters of a user's or an item's id in a request."""
PAGE_PATH = "/"
"""The owner's page; its address may hold the token, for browsers."""
_UNBOUNDED = (OPEN_PATH, "/metrics")


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all at a time.

    Attributes:
        body_bytes: largest body.
        body_seconds: until the body must be there.
        seconds: until the answer must be there.
        at_a_time: requests for recommendations that are worked on or wait.
    """

    body_bytes: int = 64 * 1024
    body_seconds: float = 5.0
    seconds: float = 10.0
    at_a_time: int = 64


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        reason: what was found, what was expected, how to repair it; only the client sees it.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.reason}, self.status, self.headers)


class Guard:
    """Let through what may be answered, and count every answer.

    Args:
        service: the application behind it.
        access: who may ask.
        metrics: counts answers.
        limits: bounds.
    """

    def __init__(
        self, service: ASGIApp, access: Access, metrics: RequestMetrics, limits: Limits
    ) -> None:
        self._service, self._access = service, access
        self._metrics, self._limits = metrics, limits
        self._at_a_time = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        except _GoneError:
            return  # nobody waits for an answer
        except Exception as error:
            if not isinstance(error, RefusedError):
                log.error("a request failed", exc_info=error)  # the log gets its type only
            if not status:
                refusal = error if isinstance(error, RefusedError) else failure(error)
                await refusal.response()(scope, receive, counted)
        finally:
            if status:
                seconds = time.perf_counter() - started
                self._metrics.count(scope["path"], scope["method"], status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._check_access(scope, headers)
        with self._one_of_many(scope["path"]):
            body = await self._body(headers, receive)
            try:
                async with asyncio.timeout(self._limits.seconds):
                    await self._service(scope, _replayed(body, receive), send)
            except TimeoutError:
                raise RefusedError(
                    503,
                    f"no answer within {self._limits.seconds:g} seconds: too much to do; ask again",
                    retry_after="1",
                ) from None

    def _check_access(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        if not self._access.knows_host(headers.get(b"host", b"")):
            raise RefusedError(
                403,
                "the Host of the request is not this machine; ask for "
                f"http://{self._access.host}, or start the service with --token-file",
            )
        if path == PAGE_PATH and self._access.is_token(_given_token(scope)):
            return  # the page gives the browser a cookie
        given = headers.get(b"authorization", b""), headers.get(b"cookie", b"")
        if path != OPEN_PATH and not self._access.admits(*given):
            raise RefusedError(
                401,
                "a token is needed: send the header 'Authorization: Bearer TOKEN'; TOKEN is in the "
                "file that 'lumos serve' named when it started",
                www_authenticate="Bearer",
            )

    @contextmanager
    def _one_of_many(self, path: str) -> Iterator[None]:
        if path in _UNBOUNDED:
            yield
            return
        if self._at_a_time >= self._limits.at_a_time:
            raise RefusedError(
                503,
                f"{self._limits.at_a_time} requests are being worked on, which is the limit; ask "
                "again",
                retry_after="1",
            )
        self._at_a_time += 1
        self._metrics.in_progress.set(self._at_a_time)
        try:
            yield
        finally:
            self._at_a_time -= 1
            self._metrics.in_progress.set(self._at_a_time)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._limits.body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    body += message.get("body", b"")
                    if len(body) > self._limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise RefusedError(
                408,
                f"the body was not there after {self._limits.body_seconds:g} seconds",
                connection="close",
            ) from None

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413,
            f"the body is larger than {self._limits.body_bytes} bytes; send the last items of the "
            "session only",
            connection="close",
        )


def failure(error: Exception) -> RefusedError:
    """What a client is told of an error of LUMOS: its type, because its text may quote others."""
    return RefusedError(500, f"an error of LUMOS ({type(error).__name__}); the service goes on")


def _given_token(scope: Scope) -> bytes:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query).get(b"token", [b""])[0]


class _GoneError(Exception):
    """The client has closed the connection."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` of a request whose body was read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
