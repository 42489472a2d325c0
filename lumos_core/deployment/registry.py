"""The registered nodes: which id Flower gave to each node's key. The server app finds a node's name
by its id here.

``<state>/nodes.json`` maps a name to its id and the digest of its public key. It belongs together
with the SuperLink's database beside it: if the two no longer fit the deployment (a node was
removed, has another key, or a file is gone), both are deleted and all nodes are registered again.
A run loses nothing by that, and connected nodes come back by themselves.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lumos_core.deployment.folders import ServerKit
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.safe_files import write_json

REGISTER_SECONDS = 120.0


@dataclass(frozen=True)
class Entry:
    """A registered node: its id (64 bits, as text) and the SHA-256 of its public key's file."""

    id: str
    key: str


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

    def prepare(self) -> None:
        """Before the SuperLink starts: drop registry and database if they no longer fit."""
        entries = self._read()
        fits = all(
            name in self._kit.manifest.nodes and entry.key == self._digest(name)
            for name, entry in entries.items()
        )
        if not fits or not entries or not self.database.exists():
            self.drop()

    def register(self, environment: Mapping[str, str], cwd: Path) -> None:
        """While the SuperLink runs: register the nodes that are new.

        Raises:
            FederationError: Flower refuses one.
        """
        entries = self._read()
        for name in self._kit.manifest.nodes:
            if name not in entries:
                node_id = self._register(name, environment, cwd)
                entries[name] = Entry(node_id, self._digest(name))
                write_json(self.path, {n: asdict(e) for n, e in entries.items()})

    def drop(self) -> None:
        """Delete registry and database; only while no SuperLink runs."""
        for path in (self.path, *self.database.parent.glob(f"{self.database.name}*")):
            path.unlink(missing_ok=True)

    def _register(self, name: str, environment: Mapping[str, str], cwd: Path) -> str:
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
            return str(json.loads(done.stdout)["node-id"])
        except subprocess.TimeoutExpired:
            raise FederationError(f"registering node {name} took too long") from None
        except (ValueError, KeyError, TypeError):
            said = " ".join((done.stdout + done.stderr).split())[-300:]
            raise FederationError(f"node {name} could not be registered: {said}") from None

    def _read(self) -> dict[str, Entry]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: Entry(**entry) for name, entry in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _digest(self, name: str) -> str:
        return hashlib.sha256(self._kit.public_key(name).read_bytes()).hexdigest()
