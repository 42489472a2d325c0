"""What a running server does about changes of its folder; Flower's commands are stand-ins."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumos_core.deployment import admission, folders, live_admission, node_keys
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.live_admission import AGAIN_SECONDS, LOOK_SECONDS, LiveAdmission
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.deployment.registry import REGISTER_SECONDS, Registry
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.flower.registered_nodes import RegisteredNode


class Flower:
    """Commands of Flower, which end when the test says so; registered keys by their ids.

    Attributes:
        asked: the commands, in short.
        answer: replaces what the next commands print; None for what Flower prints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.keys: dict[str, bytes] = {}
        self.gone: list[bytes] = []
        self.asked: list[str] = []
        self.stopped = 0
        self.hangs = False
        self.answer: str | None = None

    def start(self, command: list[str]) -> Any:
        _, _, what, argument, *_ = command
        log = self._folder / "admission.log"
        begin = log.stat().st_size if log.exists() else 0
        with log.open("a") as file:
            file.write("a warning {with braces}\n" + self._said(what, argument))
        return SimpleNamespace(exit_code=None if self.hangs else 0, log=log, begin=begin)

    def _said(self, what: str, argument: str) -> str:
        if self.answer is not None:
            self.asked.append(what)
            return self.answer
        if what == "unregister":
            self.asked.append(f"unregister {argument}")
            self.gone.append(self.keys.pop(argument))
            return json.dumps({"success": True, "node-id": int(argument)}, indent=2)
        key = Path(argument).read_bytes()
        self.asked.append("register")
        if key in self.gone:
            return '{"success": false, "error-message": "Public key already in use"}'
        node_id = str(100 + len(self.asked))
        self.keys[node_id] = key
        return json.dumps({"success": True, "node-id": int(node_id)}, indent=2)

    def stop(self, child: object) -> None:
        self.stopped += 1


class Server:
    """A server's folder that is being looked at."""

    def __init__(self, place: Path) -> None:
        self.place = place
        folders.create(place / "deployment", ["10.0.0.1"], [], 9092, 30)
        self.folder = place / "deployment" / "server"
        self.state = place / "state"
        self.state.mkdir()
        self.flower = Flower(place)
        self.told: list[str] = []
        self.changes: list[Sequence[str]] = []
        self.now = 0.0
        self.public: dict[str, Path] = {}
        self.begin()

    def begin(self) -> None:
        self.registry = Registry(ServerKit.read(self.folder), self.state)
        self.live = LiveAdmission(
            self.folder, self.registry, self.flower.start, self.flower.stop, self.told.append,
            self.changes.append, lambda: self.now,
        )  # fmt: skip

    def key(self, name: str) -> Path:
        """The public key that a node has made."""
        number = len(list(self.place.glob("owner-*")))
        path = node_keys.init(self.place / f"owner-{number}", name, None, None).public
        self.public[name] = path
        return path

    def add(self, *names: str) -> None:
        for name in names:
            admission.add_node(self.folder, name, self.key(name))
        self.settle()

    def settle(self) -> None:
        """Look until there is nothing left to do."""
        for _ in range(20):
            self.live.look()
            self.now += LOOK_SECONDS

    def line(self, name: str) -> bytes:
        return PublicKey.read(self.public[name]).line

    def fits(self) -> bool:
        """Whether what Flower knows is what nodes.json says, and the folder."""
        nodes = self.registry.nodes()
        keys = {name: self.flower.keys[node.id] for name, node in nodes.items()}
        kit = ServerKit.read(self.folder)
        wanted = {name: kit.public_key(name).read_bytes() for name in kit.manifest.nodes}
        return keys == wanted and len(self.flower.keys) == len(keys)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(commands, "executable", lambda name: name)
    return Server(tmp_path)


def test_nodes_are_added(server: Server) -> None:
    server.add("north")
    server.add("south")
    assert server.fits()
    assert server.flower.asked == ["register", "register"]
    fingerprint = PublicKey.read(server.public["north"]).fingerprint
    assert server.told[0] == f"north was added ({fingerprint})"
    assert server.changes == [("north",), ("north", "south")]
    assert server.flower.stopped == 2  # commands that have ended are not kept


def test_a_node_is_removed(server: Server) -> None:
    server.add("north", "south")
    node_id = server.registry.nodes()["north"].id
    admission.remove_node(server.folder, "north")
    server.settle()
    assert server.fits()
    assert server.flower.asked[-1] == f"unregister {node_id}"
    assert server.told[-1] == "north was removed: its key is refused from now on"
    assert server.changes[-1] == ("south",)


def test_a_node_gets_another_key_and_another_id(server: Server) -> None:
    server.add("north", "south")
    before = server.registry.nodes()["north"]
    admission.rotate_node(server.folder, "north", server.key("north"))
    server.settle()
    assert server.fits()
    assert server.registry.nodes()["north"].id != before.id
    assert server.flower.asked[-2:] == [f"unregister {before.id}", "register"]
    assert server.told[-1].startswith("north has another key now (SHA256:")
    assert not any("removed" in text for text in server.told)
    assert server.changes == [("north", "south")]  # the names are the same


def test_what_was_registered_when_the_server_started_is_left_alone(server: Server) -> None:
    server.add("north")
    server.flower.asked.clear()
    server.begin()
    server.settle()
    assert server.flower.asked == []
    assert server.changes == [("north",)]


def test_nobody_waits_for_a_command_and_one_runs_at_a_time(server: Server) -> None:
    server.flower.hangs = True
    for name in ("north", "south"):
        admission.add_node(server.folder, name, server.key(name))
    server.settle()
    assert server.flower.asked == ["register"]
    assert server.registry.nodes() == {}
    server.now += REGISTER_SECONDS
    server.live.look()
    assert server.flower.stopped == 1
    assert "could not be registered, trying again every 30 s: it took too long" in server.told[0]


@pytest.mark.parametrize(
    "damage", ["{", '{"format": 1}', None], ids=["half", "without nodes", "gone"]
)
def test_a_list_that_cannot_be_read_changes_nothing(server: Server, damage: str | None) -> None:
    server.add("north")
    path = server.folder / "deployment.json"
    content = path.read_bytes()
    path.unlink() if damage is None else path.write_text(damage)
    server.settle()
    assert server.registry.nodes().keys() == {"north"}
    [problem] = [text for text in server.told if "until then the nodes stay as they are" in text]
    assert "deployment.json" in problem
    path.write_bytes(content)
    server.add("south")
    assert server.fits()


def test_a_key_that_is_not_there_yet_is_waited_for(server: Server) -> None:
    """As rsync copies a folder: the list first."""
    server.add("north")
    admission.add_node(server.folder, "south", server.key("south"))
    public = server.folder / "nodes" / "south.pub"
    content = public.read_bytes()
    public.unlink()
    server.settle()
    assert [text for text in server.told if "node south" in text] == [
        f"[yellow]node south: {public}: cannot be read: No such file or directory[/]"
    ]
    public.write_bytes(content)
    public.chmod(0o644)
    server.settle()
    assert f"chmod 600 {public}" in server.told[-1]
    assert server.registry.nodes().keys() == {"north"}
    public.chmod(0o600)
    server.settle()
    assert server.fits()


def test_a_key_that_disappears_does_not_remove_its_node(server: Server) -> None:
    server.add("north", "south")
    (server.folder / "nodes" / "north.pub").unlink()
    server.settle()
    assert server.registry.nodes().keys() == {"north", "south"}


def test_a_refusal_is_told_once_and_tried_again(server: Server) -> None:
    server.flower.answer = '{"success": false, "error-message": "The SuperLink is busy"}'
    server.add("north")
    assert server.told == [
        "[yellow]node north could not be registered, trying again every 30 s: a warning {with "
        'braces} {"success": false, "error-message": "The SuperLink is busy"}[/]'
    ]
    looks = 20 * LOOK_SECONDS
    assert 1 <= len(server.flower.asked) <= 1 + looks / AGAIN_SECONDS
    server.flower.answer = None
    server.now += AGAIN_SECONDS
    server.settle()
    assert server.fits()
    server.flower.answer = "the SuperLink is busy"
    server.add("south")
    assert server.fits() is False
    admission.remove_node(server.folder, "south")
    server.flower.answer = None
    server.now += AGAIN_SECONDS
    server.settle()
    assert server.fits()


def test_a_node_that_flower_does_not_know_is_forgotten(server: Server) -> None:
    server.add("north", "south")
    admission.remove_node(server.folder, "north")
    server.flower.answer = '{"success": false, "error-message": "Node ID not found"}'
    server.settle()
    assert server.registry.nodes().keys() == {"south"}


def test_an_old_key_needs_a_new_database(server: Server) -> None:
    """Flower never registers a key again that it has unregistered."""
    server.add("north", "south")
    old = server.public["north"]
    admission.rotate_node(server.folder, "north", server.key("north"))
    server.settle()
    admission.rotate_node(server.folder, "north", old)
    with pytest.raises(FederationError, match="node north has a key that was registered and"):
        server.settle()
    server.registry.database.write_bytes(b"x")
    assert not server.registry.prepare()  # begins anew


def test_what_is_registered_is_what_was_looked_at(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be replaced between the look and Flower's."""
    register: Callable[[Path, str], list[str]] = commands.register
    other = server.key("north")

    def late(path: Path, name: str) -> list[str]:
        monkeypatch.setattr(commands, "register", register)
        admission.rotate_node(server.folder, "north", other)
        return register(path, name)

    monkeypatch.setattr(commands, "register", late)
    server.add("north")
    assert server.fits()
    assert list(server.flower.keys.values()) == [PublicKey.read(other).line]


@pytest.mark.parametrize(
    ("said", "node_id"),
    [
        ('{"node-id": 18446744073709551615}', "18446744073709551615"),
        ('warning {x}\n{\n  "success": true,\n  "node-id": 7\n}\n', "7"),
        ('{"success": false}', None),
        ('{"node-id": "7"}', None),
        ("", None),
        ("{", None),
    ],
)
def test_the_id_is_found_in_what_flower_prints(said: str, node_id: str | None) -> None:
    assert live_admission._node_id(said) == node_id


def test_a_log_that_is_gone_says_nothing(tmp_path: Path) -> None:
    child: Any = SimpleNamespace(log=tmp_path / "none.log", begin=0)
    assert live_admission._output(child) == ""


def test_the_registry_notes_what_happens(server: Server) -> None:
    node = RegisteredNode(id="7", key="k")
    server.registry.record("a", node)
    server.registry.record("b", node)
    server.registry.forget("a")
    assert server.registry.nodes() == {"b": node}


def test_a_full_disk_ends_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("north")

    def full(name: str, node: RegisteredNode) -> None:
        raise OSError(28, "No space left on device", str(server.registry.path))

    monkeypatch.setattr(server.registry, "record", full)
    admission.add_node(server.folder, "south", server.key("south"))
    server.live.look()
    server.live.look()
    assert f"{server.registry.path}: No space left on device; trying again" in server.told[-1]
    monkeypatch.undo()
    server.now += AGAIN_SECONDS
    monkeypatch.setattr(commands, "executable", lambda name: name)
    server.live.look()
    assert server.flower.asked[-1] == "register"  # again
