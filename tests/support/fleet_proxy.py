"""A gRPC proxy between nodes and the fleet port of a SuperLink, which fails when it is told to."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_AT_ONCE = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 500)]
_OWN = ("user-agent", "grpc-", ":")  # headers that belong to one connection


class FleetProxy(grpc.GenericRpcHandler):
    """Passes every request on, except those that :meth:`fail` has ordered to fail.

    Args:
        kit: the server's folder; the proxy shows the server's certificate.
        port: the SuperLink's port on this machine.
        address: what the proxy listens on.

    Attributes:
        port: that it listens on.
        delay: seconds by which it holds back every request.
    """

    def __init__(self, kit: Path, port: int, address: str = "127.0.0.1:0") -> None:
        ca, certificate, key = (
            (kit / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")
        )
        self._lock = threading.Lock()
        self._orders: list[list[Any]] = []
        self.delay = 0.0
        self._up = grpc.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca), [*_UNLIMITED, *_AT_ONCE]
        )
        self._server = grpc.server(ThreadPoolExecutor(64), [self], options=_UNLIMITED)
        self.port = self._server.add_secure_port(
            address, grpc.ssl_server_credentials([(key, certificate)])
        )
        self._server.start()

    def fail(self, status: str, times: int, method: str = "") -> None:
        """Answer the next requests with a status.

        Args:
            status: name of a gRPC status.
            times: so many requests.
            method: those of this method only, such as ``PullMessages``.
        """
        with self._lock:
            self._orders.append([status, times, method])

    def obey(self) -> None:
        """Answer every request again."""
        with self._lock:
            self._orders.clear()

    @property
    def left(self) -> int:
        """Requests that are still to fail."""
        with self._lock:
            return sum(times for _, times, _ in self._orders)

    def stop(self) -> None:
        self._server.stop(0)
        self._up.close()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method
        call = self._up.unary_unary(method)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(method, call, request, context)
        )

    def _answer(
        self, method: str, call: Callable[..., bytes], request: bytes, context: Any
    ) -> bytes:
        time.sleep(self.delay)
        if (status := self._ordered(method)) is not None:
            context.abort(grpc.StatusCode[status], "database is locked")
        try:
            return call(request, metadata=_passed_on(context.invocation_metadata()), timeout=60)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise  # abort has raised

    def _ordered(self, method: str) -> str | None:
        with self._lock:
            for order in self._orders:
                status, times, only = order
                if times > 0 and method.endswith(only):
                    order[1] -= 1
                    return str(status)
        return None


def _passed_on(headers: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in headers if not name.startswith(_OWN)]
