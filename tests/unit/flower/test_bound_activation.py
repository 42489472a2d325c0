"""Only who has a node's key can activate it: asked over gRPC, with and without the change."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.proto import fleet_pb2_grpc
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
    NodeAuthServerInterceptor,
)
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from lumos_core.flower import bound_activation


class Nodes:
    """A SuperLink's state as far as it is asked here."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = list(keys)
        self.active: list[int] = []

    def get_node_id_by_public_key(self, key: bytes) -> int | None:
        return self._keys.index(key) + 1 if key in self._keys else None

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        self.active.append(node_id)
        return True


@pytest.fixture
def servicer(monkeypatch: pytest.MonkeyPatch) -> Any:
    owner = getattr(import_module(bound_activation._SERVICER), bound_activation._CLASS)
    monkeypatch.setattr(owner, "ActivateNode", owner.ActivateNode)  # put back afterwards
    return owner


def serve(servicer: Any, nodes: Nodes) -> Iterator[str]:
    factory: Any = SimpleNamespace(state=lambda: nodes)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[NodeAuthServerInterceptor(factory)])
    fleet_pb2_grpc.add_FleetServicer_to_server(servicer(factory, factory, True), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def activate(address: str, signer: Any, public: bytes) -> int:
    with grpc.insecure_channel(address) as channel:
        signed = grpc.intercept_channel(channel, NodeAuthClientInterceptor(*signer))
        stub = fleet_pb2_grpc.FleetStub(signed)
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
        return int(stub.ActivateNode(request, timeout=20).node_id)


@pytest.mark.parametrize("bound", [False, True])
def test_a_known_public_key_is_not_enough(servicer: Any, bound: bool) -> None:
    owner, stranger = generate_key_pairs(), generate_key_pairs()
    public = public_key_to_bytes(owner[1])
    nodes = Nodes(public)
    assert not bound or bound_activation.bind()
    for address in serve(servicer, nodes):
        if bound:
            with pytest.raises(grpc.RpcError) as refused:
                activate(address, stranger, public)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert nodes.active == []
        else:  # as Flower is: this is what the module is for
            assert activate(address, stranger, public) == 1
            nodes.active.clear()
        assert activate(address, owner, public) == 1
        assert nodes.active == [1]


def test_without_node_keys_nothing_is_compared(servicer: Any) -> None:
    called: list[object] = []
    method = bound_activation._bound(lambda *args: called.append(args), lambda metadata: b"other")
    context = SimpleNamespace(invocation_metadata=lambda: ())
    method(SimpleNamespace(enable_supernode_auth=False), ActivateNodeRequest(), context)
    assert len(called) == 1


@pytest.mark.parametrize("what", ["version", "class"])
def test_another_flower_is_left_as_it_is(
    what: str, servicer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = servicer.ActivateNode
    if what == "version":
        monkeypatch.setattr(bound_activation, "version", lambda name: "1.40.0")
    else:
        monkeypatch.setattr(bound_activation, "_CLASS", "Other")
    assert not bound_activation.bind()
    assert servicer.ActivateNode is before
    assert "can keep it out" in caplog.text
