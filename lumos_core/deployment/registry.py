"""The registered nodes: which id Flower gave to each node's key. The server app finds a node's name
by its id here.

``<state>/nodes.json`` maps a name to its id and the digest of its public key. It belongs together
with the SuperLink's database beside it: if the two no longer fit the deployment when the server
starts (a node was removed, has another key, or a file is gone or damaged), both are deleted and all
nodes are registered again. A run loses nothing by that, and connected nodes come back by
themselves. What changes while the server runs is the task of
:mod:`lumos_core.deployment.live_admission`.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lumos_core.deployment.folders import ServerKit
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.flower.registered_nodes import RegisteredNode, RegisteredNodes

REGISTER_SECONDS = 120.0


class Registry:
    """The registered nodes of a deployment.

    Args:
        kit: the deployment.
        state: folder of the SuperLink's database.
    """

    def __init__(self, kit: ServerKit, state: Path) -> None:
        self._kit = kit
        self.path = state / "nodes.json"
        self.database = state / "superlink.db"

    def prepare(self) -> bool:
        """Before the SuperLink starts: drop registry and database if they no longer fit.

        Returns:
            Whether there is a database, which an earlier SuperLink has written.

        Raises:
            NewerFileError: a newer LUMOS wrote the file.
        """
        nodes = self._read()
        fits = all(
            name in self._kit.manifest.nodes and node.key == self._digest(name)
            for name, node in nodes.items()
        )
        if not fits or not nodes or not self.database.exists():
            self.drop()
        return self.database.exists()

    def nodes(self) -> dict[str, RegisteredNode]:
        """The registered nodes by name."""
        return self._read()

    def record(self, name: str, node: RegisteredNode) -> None:
        """Note that Flower has registered a node."""
        RegisteredNodes(nodes={**self._read(), name: node}).write(self.path)

    def forget(self, name: str) -> None:
        """Note that Flower has unregistered a node."""
        left = {other: node for other, node in self._read().items() if other != name}
        RegisteredNodes(nodes=left).write(self.path)

    def public_key(self, name: str) -> Path:
        """The file of a node's public key."""
        return self._kit.public_key(name)

    @staticmethod
    def digest_of(key: bytes) -> str:
        """What is noted of a public key."""
        return hashlib.sha256(key).hexdigest()

    def register(self, environment: Mapping[str, str], cwd: Path) -> None:
        """While the SuperLink runs: register the nodes that are new.

        Raises:
            FederationError: Flower refuses one.
        """
        nodes = self._read()
        for name in self._kit.manifest.nodes:
            if name not in nodes:
                self.record(name, self._register(name, environment, cwd))

    def drop(self) -> None:
        """Delete registry and database; only while no SuperLink runs."""
        for path in (self.path, *self.database.parent.glob(f"{self.database.name}*")):
            path.unlink(missing_ok=True)

    def _register(self, name: str, environment: Mapping[str, str], cwd: Path) -> RegisteredNode:
        try:
            done = subprocess.run(
                commands.register(self._kit.public_key(name), name),
                env=dict(environment),
                cwd=cwd,
                capture_output=True,
                text=True,
                timeout=REGISTER_SECONDS,
                check=False,
            )
            node_id = str(json.loads(done.stdout)["node-id"])
            return RegisteredNode(id=node_id, key=self._digest(name))
        except subprocess.TimeoutExpired:
            raise FederationError(f"registering node {name} took too long") from None
        except (ValueError, KeyError, TypeError):
            said = " ".join((done.stdout + done.stderr).split())[-300:]
            raise FederationError(f"node {name} could not be registered: {said}") from None

    def _read(self) -> dict[str, RegisteredNode]:
        found = RegisteredNodes.read_if_sound(self.path)
        return {} if found is None else dict(found.nodes)

    def _digest(self, name: str) -> str:
        return self.digest_of(self._kit.public_key(name).read_bytes())
