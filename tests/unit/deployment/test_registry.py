"""Registering nodes at a running SuperLink, and what Flower may answer."""

import json
import os
import sys
from pathlib import Path

import pytest

from lumos_core.deployment import folders, registry
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.registry import Registry
from lumos_core.errors import FederationError, NewerFileError
from lumos_core.flower import commands
from lumos_core.flower.registered_nodes import RegisteredNodes

ACCEPTS = "print('{\"node-id\": 7}')"
REFUSES = "import sys; print('error:  key is\\n taken', file=sys.stderr); sys.exit(1)"


@pytest.fixture
def nodes(tmp_path: Path) -> Registry:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a", "b"], 9092, 60)
    (tmp_path / "state").mkdir()
    return Registry(ServerKit.read(tmp_path / "deployment" / "server"), tmp_path / "state")


def answers(monkeypatch: pytest.MonkeyPatch, **programs: str) -> list[str]:
    """What Flower's command does, by node; returns the nodes that it was called for."""
    called: list[str] = []

    def register(public_key: Path, name: str) -> list[str]:
        assert public_key.name == f"{name}.pub"
        called.append(name)
        return [sys.executable, "-S", "-c", programs[name]]

    monkeypatch.setattr(commands, "register", register)
    return called


def test_only_new_nodes_are_registered(
    nodes: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = answers(monkeypatch, a=ACCEPTS, b=ACCEPTS)
    nodes.register(os.environ, tmp_path)
    nodes.register(os.environ, tmp_path)
    assert called == ["a", "b"]
    found = RegisteredNodes.read(nodes.path).nodes
    assert {name: node.id for name, node in found.items()} == {"a": "7", "b": "7"}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (REFUSES, "node b could not be registered: error: key is taken"),
        ("print('[]')", r"node b could not be registered: \[\]"),
        ("print('{}')", "node b could not be registered: {}"),
        ('print(\'{"node-id": "x"}\')', 'node b could not be registered: {"node-id": "x"}'),
    ],
)
def test_a_refusal_is_told_and_the_nodes_before_it_stay_registered(
    nodes: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    answers(monkeypatch, a=ACCEPTS, b=program)
    with pytest.raises(FederationError, match=told):
        nodes.register(os.environ, tmp_path)
    assert RegisteredNodes.read(nodes.path).nodes.keys() == {"a"}


def test_no_answer_is_waited_for_without_end(
    nodes: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, a="import time; time.sleep(600)")
    monkeypatch.setattr(registry, "REGISTER_SECONDS", 0.5)
    with pytest.raises(FederationError, match="registering node a took too long"):
        nodes.register(os.environ, tmp_path)


@pytest.fixture
def before_versions(nodes: Registry) -> Registry:
    """With a file of the form that it had before there were schema versions."""
    nodes.path.write_text(json.dumps({"a": {"id": "18", "key": nodes._digest("a")}}))
    nodes.database.write_bytes(b"x")
    return nodes


def test_nodes_of_a_file_of_before_there_were_versions_stay_registered(
    before_versions: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = answers(monkeypatch, b=ACCEPTS)
    before_versions.prepare()
    before_versions.register(os.environ, tmp_path)
    assert called == ["b"]
    assert RegisteredNodes.read(before_versions.path).names() == {18: "a", 7: "b"}
    before_versions.prepare()
    assert before_versions.database.exists()


def test_a_damaged_file_is_dropped_and_a_newer_one_refused(before_versions: Registry) -> None:
    before_versions.path.write_text('{"schema_version": 3}')
    with pytest.raises(NewerFileError, match=r"nodes\.json: has schema version 3"):
        before_versions.prepare()
    assert before_versions.database.exists()
    before_versions.path.write_text("{")
    before_versions.prepare()
    assert not before_versions.database.exists()
