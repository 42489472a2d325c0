"""Sockets: addresses that cannot be listened on, and connections that send nothing."""

import asyncio
import socket

import pytest
import uvicorn

from lumos_core.errors import ConfigError
from lumos_core.serving import listening
from lumos_core.serving.listening import QuietConnectionsEnd, open_socket, url_of


def test_the_address_is_named_with_its_port() -> None:
    with open_socket("127.0.0.1", 0) as found:
        assert url_of(found) == f"http://127.0.0.1:{found.getsockname()[1]}"


def test_an_address_in_use_or_elsewhere_is_refused() -> None:
    with open_socket("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} \(Address already in use\)"):
            open_socket("127.0.0.1", port)
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(ConfigError, match=r"cannot listen on .* choose another --port"):
            open_socket(host, 0)


async def _hello(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize(
    "words",
    [
        [],  # says nothing
        [b"GET / HT", b"TP/1.1\r\n", b"Host: 127.0.0.1\r\n", b"X: y\r\n"],  # never ends its headers
        [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET", b" /", b" H"],  # the second request
    ],
)
def test_a_connection_without_a_whole_request_is_closed(monkeypatch, words: list[bytes]) -> None:
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.4)

    async def scenario() -> bytes:
        config = uvicorn.Config(
            _hello, http=QuietConnectionsEnd, lifespan="off", log_config=None, timeout_keep_alive=60
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as bound:
            running = asyncio.create_task(server.serve([bound]))
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            for word in words:
                writer.write(word)
                await asyncio.sleep(0.1)
            got = await asyncio.wait_for(_to_the_end(reader), 5)
            server.should_exit = True
            await running
        return got

    got = asyncio.run(scenario())
    assert got.startswith(b"HTTP/1.1 200") == any(word.endswith(b"\r\n\r\n") for word in words)


async def _to_the_end(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        while part := await reader.read(1000):
            got += part
    except ConnectionResetError:
        pass
    return got
