"""A SuperNode that takes the place of one that was killed signs that one off."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes

from lumos_core.flower import sign_off
from lumos_core.flower.sign_off import GONE_SECONDS, Notes


class StatusError(grpc.RpcError):
    def __init__(self, status: str) -> None:
        super().__init__()
        self._status = grpc.StatusCode[status]

    def code(self) -> grpc.StatusCode:
        return self._status


class SuperLink:
    """Notes what is asked, and counts one node as connected until it has signed off."""

    def __init__(self, *errors: str) -> None:
        self.asked: list[str] = []
        self.errors = list(errors)  # of signing off, one after another

    def stub(self, channel: object) -> Any:
        return SimpleNamespace(
            ActivateNode=self._activate, DeactivateNode=self._deactivate,
            RegisterNode=lambda request: self.asked.append("register"),
        )  # fmt: skip

    def _activate(self, request: str) -> Any:
        self.asked.append("activate")
        return SimpleNamespace(node_id=17)

    def _deactivate(self, request: Any, timeout: float = 0.0) -> str:
        self.asked.append(f"deactivate {request.node_id}")
        if self.errors:
            raise StatusError(self.errors.pop(0))
        return "done"


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "connected.json"


def connect(note: Path, link: SuperLink) -> tuple[Any, list[float]]:
    waits: list[float] = []
    return Notes(note, waits.append).stub(link.stub)(None), waits


def test_a_node_notes_its_id_and_takes_the_note_away_when_it_signs_off(note: Path) -> None:
    link = SuperLink()
    stub, waits = connect(note, link)
    stub.ActivateNode("me")
    assert json.loads(note.read_text()) == {"node": 17, "key": ""}
    assert note.stat().st_mode & 0o077 == 0
    stub.DeactivateNode(SimpleNamespace(node_id=17))
    assert not note.exists()
    assert link.asked == ["activate", "deactivate 17"]
    assert waits == []


def test_one_that_was_killed_is_signed_off_first_and_once(note: Path) -> None:
    link = SuperLink()
    connect(note, link)[0].ActivateNode("me")
    stub, waits = connect(note, link)
    stub.ActivateNode("me")
    stub.ActivateNode("me")
    assert link.asked == ["activate", "deactivate 17", "activate", "activate"]
    assert waits == [GONE_SECONDS]  # until the server has seen it


def test_one_that_is_gone_already_is_no_problem(note: Path) -> None:
    note.write_text('{"node": 17, "key": ""}')
    link = SuperLink("FAILED_PRECONDITION")
    stub, waits = connect(note, link)
    stub.ActivateNode("me")
    assert link.asked == ["deactivate 17", "activate"]
    assert waits == []


def test_a_superlink_that_does_not_answer_is_asked_again(note: Path) -> None:
    note.write_text('{"node": 17, "key": ""}')
    link = SuperLink("UNAVAILABLE")
    stub, _ = connect(note, link)
    with pytest.raises(StatusError):
        stub.ActivateNode("me")
    stub.ActivateNode("me")
    assert link.asked == ["deactivate 17", "deactivate 17", "activate"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"node": "x", "key": ""}', "{}"])
def test_a_damaged_note_is_none(note: Path, text: str) -> None:
    note.write_text(text)
    link = SuperLink()
    connect(note, link)[0].ActivateNode("me")
    assert link.asked == ["activate"]


def test_a_node_without_a_key_of_its_own_keeps_the_one_it_made(note: Path) -> None:
    link = SuperLink()

    def start() -> bytes:
        notes = Notes(note, lambda seconds: None)
        private, _ = notes.keys(generate_key_pairs)()
        stub = notes.stub(link.stub)(None)
        stub.RegisterNode("me")
        stub.ActivateNode("me")
        return private_key_to_bytes(private)

    assert start() == start()
    assert link.asked == ["register", "activate", "deactivate 17", "activate"]


def test_it_is_installed_where_a_note_is_named(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(sign_off._CONNECTION)
    before = module.FleetStub
    for name in ("FleetStub", "generate_key_pairs"):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.delenv(sign_off.SWITCH, raising=False)
    assert not sign_off.install()
    monkeypatch.setenv(sign_off.SWITCH, str(note))
    assert sign_off.install()
    assert module.FleetStub is not before
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        stub = module.FleetStub(channel)
    assert callable(stub.ActivateNode)
    assert callable(stub.PullMessages)
