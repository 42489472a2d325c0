"""Bounds of requests: size, time, number; and no exception gets past the guard."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from serving_support import write_node
from starlette.types import Message, Receive, Scope, Send

from lumos_core.serving.access_token import Access
from lumos_core.serving.newest_model import Newest
from lumos_core.serving.request_guard import Guard, Limits
from lumos_core.serving.request_metrics import RequestMetrics

LIMITS = Limits(body_bytes=100, body_seconds=0.05, seconds=0.1, at_a_time=2)


@pytest.fixture
def metrics(tmp_path: Path) -> RequestMetrics:
    folder = write_node(tmp_path / "node")
    return RequestMetrics(Newest(folder, folder / "state"))


class Client:
    """One request: what it sends, and what it got."""

    def __init__(self, *parts: bytes, stops: bool = False, headers: Any = ()) -> None:
        self.parts, self.stops, self.headers = list(parts), stops, headers
        self.got: list[Message] = []

    async def ask(self, guard: Guard, path: str = "/recommend") -> int:
        """The status of the answer; 0: none."""
        scope: Scope = {
            "type": "http", "method": "POST", "path": path, "headers": list(self.headers),
        }  # fmt: skip
        await guard(scope, self._receive, self._send)
        return next((m["status"] for m in self.got if "status" in m), 0)

    async def _receive(self) -> Message:
        if self.parts:
            more = len(self.parts) > 1 or self.stops
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": more}
        if self.stops:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.got.append(message)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)


def guarded(service: Any, metrics: RequestMetrics) -> Guard:
    return Guard(service, Access("127.0.0.1"), metrics, LIMITS)


def test_the_service_gets_the_whole_body(metrics: RequestMetrics) -> None:
    client = Client(b"one ", b"two ", b"three")
    assert asyncio.run(client.ask(guarded(echo, metrics))) == 200
    assert client.got[1]["body"] == b"one two three"


@pytest.mark.parametrize(
    "client",
    [
        Client(b"x" * 101),
        Client(b"x" * 60, b"x" * 60),
        Client(headers=[(b"content-length", b"101")], stops=True),
    ],
)
def test_a_large_body_is_refused(metrics: RequestMetrics, client: Client) -> None:
    assert asyncio.run(client.ask(guarded(echo, metrics))) == 413


def test_a_body_that_does_not_come_is_refused(metrics: RequestMetrics) -> None:
    assert asyncio.run(Client(b"x", stops=True).ask(guarded(echo, metrics))) == 408


def test_a_client_that_is_gone_gets_nothing(metrics: RequestMetrics) -> None:
    assert asyncio.run(Client().ask(guarded(echo, metrics))) == 0


def test_an_answer_that_takes_too_long_is_given_up(metrics: RequestMetrics) -> None:
    client = Client(b"")
    assert asyncio.run(client.ask(guarded(slow, metrics))) == 503
    assert (b"retry-after", b"1") in client.got[0]["headers"]


def test_more_requests_than_allowed_are_refused_at_once_but_not_health(metrics) -> None:
    async def scenario() -> tuple[list[int], int]:
        guard = guarded(slow, metrics)
        waiting = [asyncio.create_task(Client(b"").ask(guard)) for _ in range(2)]
        await asyncio.sleep(0)
        clients = [Client(b"") for _ in range(2)]
        refused = [await client.ask(guard) for client in clients]
        assert all(b"which is the limit" in client.got[1]["body"] for client in clients)
        health = await Client(b"").ask(guarded(echo, metrics), "/health")
        assert b"lumos_serve_requests_in_progress 2.0" in metrics.text()
        await asyncio.gather(*waiting)
        assert b"lumos_serve_requests_in_progress 0.0" in metrics.text()
        return refused, health

    assert asyncio.run(scenario()) == ([503, 503], 200)


def test_an_exception_after_the_answer_began_is_kept_inside(metrics: RequestMetrics) -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("secret")

    client = Client(b"")
    assert asyncio.run(client.ask(guarded(half, metrics))) == 200
    assert len(client.got) == 1


def test_what_is_not_http_is_left_alone(metrics: RequestMetrics) -> None:
    client = Client()
    asyncio.run(guarded(echo, metrics)({"type": "websocket"}, client._receive, client._send))
    assert not client.got
