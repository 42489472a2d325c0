"""What a SuperNode tries again, for how long, and how soon it is missed."""

import importlib
from types import ModuleType
from typing import Any

import grpc
import pytest
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.run import RunNotRunningException

from lumos_core.flower import steady_connection as steady

REFUSAL = '{"code": 2004, "public_message": "Failed to activate SuperNode."}'


class StatusError(grpc.RpcError):
    """An answer with a status."""

    def __init__(self, status: str, details: str = "") -> None:
        super().__init__()
        self._status, self._details = grpc.StatusCode[status], details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details


class Server:
    """Answers each request with the next of some errors, and then well."""

    def __init__(self, *errors: StatusError) -> None:
        self._errors = list(errors)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        return "well"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Flower's module of SuperNodes, changed; put back afterwards."""
    module = importlib.import_module(steady._NODE)
    monkeypatch.setattr(module, steady._MAKE, getattr(module, steady._MAKE))
    return module


@pytest.fixture
def invoker(node: ModuleType) -> Any:
    """A SuperNode's retry invoker that does not really wait."""
    assert steady.retry_what_passes()
    made = getattr(node, steady._MAKE)()
    assert isinstance(made, RetryInvoker)
    made.wait_function = lambda seconds: None
    return made


@pytest.mark.parametrize("status", ["UNAVAILABLE", *steady.PASSING])
def test_what_may_pass_is_tried_again(
    invoker: Any, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(*[StatusError(status)] * 9)
    assert invoker.invoke(server) == "well"
    assert server.asked == 10
    lines = [m for m in caplog.messages if m.startswith(f"connection: {status}; next attempt in ")]
    assert len(lines) == 9


def test_errors_are_borne_for_a_minute_each_time(
    invoker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(steady.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += 25

    invoker.wait_function = wait
    for _ in range(2):  # a success begins anew
        assert invoker.invoke(Server(*[StatusError("INTERNAL")] * 3)) == "well"
    server = Server(*[StatusError("INTERNAL")] * 9)
    with pytest.raises(StatusError):
        invoker.invoke(server)
    assert server.asked == 4
    # a long time without an answer does not count: the server may be starting
    server = Server(*[StatusError("UNAVAILABLE")] * 9, *[StatusError("INTERNAL")] * 2)
    assert invoker.invoke(server) == "well"


def test_a_refused_activation_is_tried_until_it_is_accepted(
    invoker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    invoker.wait_function = waits.append
    server = Server(*[StatusError("FAILED_PRECONDITION", REFUSAL)] * 50)
    assert invoker.invoke(server) == "well"
    assert server.asked == 51
    assert max(waits) <= steady.LONGEST_WAIT
    assert sum(m.startswith("connection: REFUSED; ") for m in caplog.messages) == 50


def test_what_does_not_pass_is_left_to_flower(invoker: Any) -> None:
    for status, details in (
        ("FAILED_PRECONDITION", '{"code": 2003, "public_message": "x"}'),
        ("UNIMPLEMENTED", ""),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED"),
    ):
        server = Server(StatusError(status, details))
        with pytest.raises(StatusError):
            invoker.invoke(server)
        assert server.asked == 1
    with pytest.raises(RunNotRunningException):
        invoker.invoke(Server(StatusError("PERMISSION_DENIED")))


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL"])
def test_a_node_that_signs_off_waits_for_nothing(invoker: Any, status: str) -> None:
    """Also not with a heartbeat that was being tried again when the sign-off began."""

    def wait(seconds: float) -> None:
        invoker.max_tries = 1

    invoker.wait_function = wait
    server = Server(*[StatusError(status)] * 9)
    with pytest.raises(StatusError):
        invoker.invoke(server)
    assert server.asked == 2


# ---------------------------------------------------------------- links and heartbeats
@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Flower's module that makes gRPC channels; put back afterwards."""
    module = importlib.import_module(steady._CHANNELS)
    monkeypatch.setattr(module, "grpc", grpc)
    return module


@pytest.mark.parametrize("insecure", [True, False])
def test_channels_notice_a_broken_link(
    channels: ModuleType, monkeypatch: pytest.MonkeyPatch, insecure: bool
) -> None:
    found: list[Any] = []
    for name in ("insecure_channel", "secure_channel"):
        monkeypatch.setattr(grpc, name, lambda *a, options: found.extend(options))
    assert steady.notice_broken_links()
    channels.create_channel("127.0.0.1:1", insecure)
    assert set(steady.CHANNEL) <= set(found)
    assert "grpc.max_send_message_length" in dict(found)
    assert channels.grpc.StatusCode is grpc.StatusCode


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """Flower's modules that know the interval; put back afterwards."""
    modules = [importlib.import_module(name) for name in steady._HEARTBEATS]
    for module in modules:
        monkeypatch.setattr(module, steady._INTERVAL, 30)
    return modules


def test_heartbeats_are_promised_and_sent(heartbeats: list[ModuleType]) -> None:
    assert steady.send_heartbeats(15)
    assert [getattr(module, steady._INTERVAL) for module in heartbeats] == [15, 15]


@pytest.mark.parametrize("text", ["soon", "9", "31", "15.5", "-1", "²", "0015"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=r"LUMOS_HEARTBEAT_SECONDS = .*from 10 to 30"):
        steady.heartbeat_seconds({steady.SWITCH: text})


def test_the_interval_is_within_what_a_superlink_accepts() -> None:
    constant = importlib.import_module("flwr.common.constant")
    assert constant.HEARTBEAT_MIN_INTERVAL <= steady.LEAST_SECONDS
    assert constant.HEARTBEAT_DEFAULT_INTERVAL == steady.FLOWERS_SECONDS
    assert constant.HEARTBEAT_PATIENCE == 2
    assert steady.heartbeat_seconds({}) == 15
    assert steady.heartbeat_seconds({steady.SWITCH: "30"}) == 30


# ---------------------------------------------------------------- another Flower
def test_another_version_is_left_alone(
    node: ModuleType,
    channels: ModuleType,
    heartbeats: list[ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = getattr(node, steady._MAKE)
    monkeypatch.setattr(steady, "version", lambda name: "1.40.0")
    steady.steady()
    assert getattr(node, steady._MAKE) is before
    assert channels.grpc is grpc
    assert [getattr(module, steady._INTERVAL) for module in heartbeats] == [30, 30]
    assert "found 1.40.0" in caplog.text


def test_code_that_looks_different_is_left_alone(
    node: ModuleType, channels: ModuleType, heartbeats: list[ModuleType]
) -> None:
    node.__dict__[steady._MAKE] = lambda: object()
    channels.__dict__["grpc"] = object()
    setattr(heartbeats[0], steady._INTERVAL, 20)
    assert not steady.retry_what_passes()
    assert not steady.notice_broken_links()
    assert not steady.send_heartbeats(15)
    assert getattr(heartbeats[1], steady._INTERVAL) == 30
