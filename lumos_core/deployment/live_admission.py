"""Nodes are added, removed and given other keys while the server runs.

The supervisor looks at the server's folder every few seconds, in the thread that starts processes,
and never waits: a command of Flower that registers a key is a child like the others. What happens
with a name:

==================================  ============================================================
in ``deployment.json``, new         its key is registered; the node can connect
no longer there                     its key is unregistered: Flower counts the node as gone at once
                                    and refuses its key from then on
there, with another public key      both, one after the other; the node gets another id
==================================  ============================================================

``nodes.json`` follows, and the ServerApp sees that it has changed
(:class:`~lumos_core.flower.registered_nodes.LiveNames`). A key that is not there yet, or that
others can read, is waited for: a folder is copied file by file.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from lumos_core.deployment import credentials
from lumos_core.deployment.folders import MANIFEST, Manifest
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.deployment.registry import REGISTER_SECONDS, Registry
from lumos_core.errors import FederationError, LumosError, reason_of
from lumos_core.flower import commands
from lumos_core.flower.registered_nodes import RegisteredNode
from lumos_core.processes.children import Child
from lumos_core.safe_files import write_atomically

LOOK_SECONDS = 2.0
AGAIN_SECONDS = 30.0  # after Flower has refused something
_OUTPUT = 64 * 1024  # bytes of a command's output that are read
_IN_USE, _UNKNOWN = "already in use", "not found"


@dataclass
class _Command:
    """A command of Flower that is running.

    Attributes:
        key: what is registered; None if a node is unregistered.
        until: time at which it is given up.
    """

    name: str
    child: Child
    key: bytes | None
    until: float


class LiveAdmission:
    """Has Flower's registered nodes follow the server's folder.

    Args:
        folder: the server's folder.
        registry: the nodes that are registered.
        start: starts a command of Flower.
        stop: ends a child, or removes one that has ended.
        tell: shows a line (rich markup).
        on_change: called with the names when the registered nodes are others than before.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        start: Callable[[list[str]], Child],
        stop: Callable[[Child], None],
        tell: Callable[[str], None],
        on_change: Callable[[Sequence[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._registry = folder, registry
        self._start, self._stop, self._tell, self._on_change = start, stop, tell, on_change
        self._clock = clock
        self._copy = registry.path.with_name("admitted.pub")
        self._due = 0.0
        self._command: _Command | None = None
        self._rotated: set[str] = set()  # unregistered because they have another key
        self._told: set[str] = set()  # problems that were shown
        self._names = tuple(sorted(registry.nodes()))

    def look(self) -> None:
        """Begin or finish what there is to do; returns at once.

        Raises:
            FederationError: the SuperLink's database has to be made anew, with everything else.
        """
        try:
            if self._command is not None:
                self._follow(self._command)
            elif self._clock() >= self._due:
                self._due = self._clock() + LOOK_SECONDS
                self._compare()
        except OSError as error:  # a full disk is no reason to end a run
            self._due = self._clock() + AGAIN_SECONDS
            self._tell_once(f"{error.filename or self._folder}: {reason_of(error)}; trying again")

    # --- what there is to do

    def _compare(self) -> None:
        try:
            wanted = Manifest.read(self._folder / MANIFEST).nodes
        except LumosError as error:  # half of a folder was copied, or somebody edits by hand
            self._tell_once(f"{error}; until then the nodes stay as they are")
            return
        keys = {name: key for name in wanted if (key := self._key(name)) is not None}
        nodes = self._registry.nodes()
        for name, node in nodes.items():
            other = name in keys and self._registry.digest_of(keys[name]) != node.key
            if name not in wanted or other:
                self._rotated |= {name} if other else set()
                self._begin(name, commands.unregister(node.id), None)
                return
        for name, key in keys.items():
            if name not in nodes:
                # of a copy: what is registered is what was looked at
                write_atomically(self._copy, key, 0o600)
                self._begin(name, commands.register(self._copy, name), key)
                return
        if (names := tuple(sorted(nodes))) != self._names:
            self._names = names
            self._on_change(names)

    def _key(self, name: str) -> bytes | None:
        """A node's public key as it stands in its file; None if it cannot be used yet."""
        path = self._registry.public_key(name)
        try:
            credentials.check_private_file(path)
            content = path.read_bytes()
            PublicKey.parsed(content, str(path))
        except (LumosError, OSError) as error:
            self._tell_once(f"node {name}: {error}")
            return None
        return content

    def _begin(self, name: str, command: list[str], key: bytes | None) -> None:
        child = self._start(command)
        self._command = _Command(name, child, key, self._clock() + REGISTER_SECONDS)

    # --- what has been done

    def _follow(self, running: _Command) -> None:
        ended = running.child.exit_code is not None
        if not ended and self._clock() < running.until:
            return
        said = _output(running.child) if ended else "it took too long"
        node_id = _node_id(said)
        self._stop(running.child)
        self._copy.unlink(missing_ok=True)
        self._command, self._due = None, 0.0
        if running.key is None:
            self._unregistered(running.name, node_id, said)
        else:
            self._registered(running.name, running.key, node_id, said)

    def _unregistered(self, name: str, node_id: str | None, said: str) -> None:
        if node_id is None and _UNKNOWN not in said.lower():
            self._refused(f"node {name} could not be removed from the SuperLink", said)
            return
        self._registry.forget(name)
        if name not in self._rotated:
            self._tell(f"{escape(name)} was removed: its key is refused from now on")

    def _registered(self, name: str, key: bytes, node_id: str | None, said: str) -> None:
        if node_id is None and _IN_USE in said.lower():
            self._registry.path.unlink(missing_ok=True)  # so the next start begins a new database
            raise FederationError(
                f"node {name} has a key that was registered and removed before, which the "
                "SuperLink's database does not forget; it is made anew"
            )
        if node_id is None:
            self._refused(f"node {name} could not be registered", said)
            return
        self._registry.record(name, RegisteredNode(id=node_id, key=self._registry.digest_of(key)))
        fingerprint = PublicKey.parsed(key, name).fingerprint
        what = "has another key now" if name in self._rotated else "was added"
        self._rotated.discard(name)
        self._tell(f"{escape(name)} {what} ({fingerprint})")

    def _refused(self, what: str, said: str) -> None:
        self._due = self._clock() + AGAIN_SECONDS
        self._tell_once(f"{what}, trying again every {AGAIN_SECONDS:g} s: {_short(said)}")

    def _tell_once(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            self._tell(f"[yellow]{escape(problem)}[/]")


def _output(child: Child) -> str:
    try:
        with child.log.open("rb") as file:
            file.seek(child.begin)
            return file.read(_OUTPUT).decode(errors="replace")
    except OSError:
        return ""


def _node_id(said: str) -> str | None:
    """The id in what Flower's command has printed, which may hold warnings besides; None if the
    command has failed."""
    decoder, at = json.JSONDecoder(), said.find("{")
    while at >= 0:
        try:
            found, _ = decoder.raw_decode(said, at)
        except ValueError:
            found = None
        node_id = found.get("node-id") if isinstance(found, dict) else None
        if isinstance(node_id, int):
            return str(node_id)
        at = said.find("{", at + 1)
    return None


def _short(said: str) -> str:
    return " ".join(said.split())[-300:]
