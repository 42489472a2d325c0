"""Registering nodes at a running SuperLink, and what Flower may answer."""

import json
import os
import sys
from pathlib import Path

import pytest

from lumos_core.deployment import folders, registry
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.registry import Registry
from lumos_core.errors import FederationError
from lumos_core.flower import commands

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
    found = json.loads(nodes.path.read_text())
    assert {name: entry["id"] for name, entry in found.items()} == {"a": "7", "b": "7"}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (REFUSES, "node b could not be registered: error: key is taken"),
        ("print('[]')", r"node b could not be registered: \[\]"),
        ("print('{}')", "node b could not be registered: {}"),
    ],
)
def test_a_refusal_is_told_and_the_nodes_before_it_stay_registered(
    nodes: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    answers(monkeypatch, a=ACCEPTS, b=program)
    with pytest.raises(FederationError, match=told):
        nodes.register(os.environ, tmp_path)
    assert json.loads(nodes.path.read_text()).keys() == {"a"}


def test_no_answer_is_waited_for_without_end(
    nodes: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, a="import time; time.sleep(600)")
    monkeypatch.setattr(registry, "REGISTER_SECONDS", 0.5)
    with pytest.raises(FederationError, match="registering node a took too long"):
        nodes.register(os.environ, tmp_path)
