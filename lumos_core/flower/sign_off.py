"""A SuperNode that was killed is signed off by the one that takes its place.

Flower's SuperLink counts a node as connected until it has missed two of its heartbeats, refuses to
activate its key so long, and lets a round wait for what the dead SuperNode had fetched. A SuperNode
that ends in order signs off, and all of this ends at once. With this module a SuperNode notes in a
file under which id it is connected; the note is gone once it has signed off. One that finds a note
knows that the SuperNode before it was killed, and signs it off before it connects. Whoever starts
SuperNodes sees to it that no two use the same file at a time.

A SuperNode without a key of its own makes one each time it starts. Here it keeps the key in the
note as well, so that a node of ``lumos run`` comes back under the same id.

As in ``steady_connection.py``, Flower's names are changed only in the version that this was written
for. ``live_supernode.py`` loads the file by its path.
"""

import importlib
import json
import logging
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SWITCH = "LUMOS_NODE_NOTE"
FLOWER = "1.39."
GONE_SECONDS = 2.0  # so that the server, which looks twice a second, sees that it is gone
PATIENCE_SECONDS = 5.0
_CONNECTION = "flwr.client.grpc_rere_client.connection"
_MESSAGES = "flwr.proto.fleet_pb2"
_KEYS = "flwr.supercore.primitives.asymmetric"
_USED = ("FleetStub", "generate_key_pairs", "DeactivateNodeRequest")
_AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")  # the SuperLink has not heard it


def install() -> bool:
    """Sign off and take notes, in this process, if a file is named; returns whether it is so."""
    path = os.environ.get(SWITCH)
    if not path:
        return False
    module = importlib.import_module(_CONNECTION)
    if not version("flwr").startswith(FLOWER) or not all(hasattr(module, n) for n in _USED):
        log.warning("a node that was killed is not signed off: this is another Flower")
        return False
    notes = Notes(Path(path))
    setattr(module, "generate_key_pairs", notes.keys(module.generate_key_pairs))  # noqa: B010
    setattr(module, "FleetStub", notes.stub(module.FleetStub))  # noqa: B010
    return True


class Notes:
    """The note of a node's SuperNodes.

    Args:
        path: the file.
        wait: sleeps; replaced in tests.
    """

    def __init__(self, path: Path, wait: Callable[[float], None] = time.sleep) -> None:
        self._path, self._wait = path, wait
        found = _read(path)
        self._before: int | None = found.get("node")
        self._key: str = found.get("key", "")
        self._known = bool(self._key)  # the SuperLink knows the key already

    def keys(self, generate: Callable[[], Any]) -> Callable[[], Any]:
        """Flower's function that makes keys, which now returns those of the note."""
        keys = importlib.import_module(_KEYS)

        def generate_key_pairs() -> Any:
            if self._key:
                private = keys.bytes_to_private_key(self._key.encode())
                return private, private.public_key()
            private, public = generate()
            self._key = keys.private_key_to_bytes(private).decode()
            return private, public

        return generate_key_pairs

    def stub(self, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Flower's class of requests to the SuperLink; those that matter here are changed."""
        messages = importlib.import_module(_MESSAGES)

        def fleet_stub(channel: Any) -> Any:
            stub = make(channel)
            activate, deactivate = stub.ActivateNode, stub.DeactivateNode

            def activate_node(request: Any, **options: Any) -> Any:
                if self._before is not None:
                    self._sign_off(deactivate, messages.DeactivateNodeRequest(node_id=self._before))
                response = activate(request, **options)
                self._write(response.node_id)
                return response

            def deactivate_node(request: Any, **options: Any) -> Any:
                response = deactivate(request, **options)
                self._path.unlink(missing_ok=True)
                return response

            stub.ActivateNode, stub.DeactivateNode = activate_node, deactivate_node
            if self._known:
                stub.RegisterNode = lambda request, **options: None
            return stub

        return fleet_stub

    def _sign_off(self, deactivate: Callable[..., Any], request: Any) -> None:
        """Raises the error of a SuperLink that does not answer: it has to be asked again."""
        grpc = importlib.import_module("grpc")
        try:
            deactivate(request, timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            if error.code().name in _AGAIN:
                raise
            log.info("node %s was gone already", self._before)
        else:
            log.info("node %s has been signed off", self._before)
            self._wait(GONE_SECONDS)
        self._before = None

    def _write(self, node: int) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                json.dump({"node": node, "key": self._key}, file)
        except OSError as error:  # a full disk is no reason not to take part
            log.warning("no note of this node's id (errno %s)", error.errno)


def _read(path: Path) -> dict[str, Any]:
    """The note; empty if there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        return {"node": int(found["node"]), "key": str(found["key"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
