"""A SuperNode of lumos run that ends is started again, with pauses, and not for ever."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flower_programs import FlowerPrograms

from lumos_core.config import APPROVED_APPS, NodeConfig
from lumos_core.deployment.local_supernode import LocalSuperNode
from lumos_core.deployment.supervision import Backoff
from lumos_core.errors import NewerFileError
from lumos_core.processes.children import Children

CONNECTED = "INFO :      SuperNode ID: 17"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FlowerPrograms:
    monkeypatch.setenv("LUMOS_PRELOAD", "0")
    return FlowerPrograms(monkeypatch, tmp_path / "programs", tmp_path / "run", [])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often in a row each pause was asked for; none is waited for."""
    found: list[int] = []

    def pause(self: Backoff) -> float:
        self._times += 1
        found.append(self._times)
        return 0.0

    monkeypatch.setattr(Backoff, "pause", pause)
    return found


def watched(tmp_path: Path, until: Callable[[LocalSuperNode], bool]) -> list[dict[str, Any]]:
    """The events of a node that is looked at until something is true."""
    config = NodeConfig(name="node-0", data=str(tmp_path), approved_apps="0" * 64)
    flat = config.to_flat()
    events: list[dict[str, Any]] = []
    with Children(tmp_path / "logs") as children:
        app = tmp_path / "installed.zip"
        node = LocalSuperNode(children, tmp_path / "place", tmp_path, "127.0.0.1:1", flat, app)
        end = time.monotonic() + 60
        while not until(node):
            assert time.monotonic() < end
            node.look(events.append)
            time.sleep(0.02)
        node.look(events.append)
    return events


def test_it_is_started_six_times_in_all_and_then_lost(
    programs: FlowerPrograms, pauses: list[int], tmp_path: Path
) -> None:
    programs.script_supernodes(([], 70))
    events = watched(tmp_path, lambda node: node.lost)
    assert [e["again_in"] for e in events] == [0.0] * 5 + [None]
    assert {(e["event"], e["node"]) for e in events} == {("node-lost", "node-0")}
    assert pauses == [1, 2, 3, 4, 5]
    assert events[0]["log"] == str(tmp_path / "logs" / "node-0.log")
    assert len(programs.supernode_starts) == 6


def test_a_connection_begins_the_row_anew(
    programs: FlowerPrograms, pauses: list[int], tmp_path: Path
) -> None:
    programs.script_supernodes(([], 1), ([], 1), ([CONNECTED], 70), ([], 1), ([CONNECTED], None))

    def settled(node: LocalSuperNode) -> bool:
        return CONNECTED in node.process.last_lines(1) and len(programs.supernode_starts) == 5

    events = watched(tmp_path, settled)
    assert len(events) == 4
    assert pauses == [1, 2, 1, 2]


def test_each_start_has_a_home_and_a_port_of_its_own(
    programs: FlowerPrograms, pauses: list[int], tmp_path: Path
) -> None:
    """ClientApps of the SuperNode that died may still run: they must not meet the new one."""
    programs.script_supernodes(([], 1), ([], 1), ([CONNECTED], None))
    watched(tmp_path, lambda node: CONNECTED in node.process.last_lines(1))
    starts = programs.supernode_starts
    assert len({str(start["home"]) for start in starts}) == 3
    for start in starts:
        arguments = start["argv"]
        assert isinstance(arguments, list)
        settings = Path(arguments[arguments.index("--node-config") + 1])
        assert settings.parent == Path(str(start["home"]))
        assert settings.parent.name == "node-0"
        assert APPROVED_APPS not in settings.read_text(), "it is not the app's business"
        assert start["apps"] == [str(tmp_path / "installed.zip"), "0" * 64]


def test_the_state_of_a_newer_node_is_refused(tmp_path: Path) -> None:
    state = NodeConfig(name="node-0", data=str(tmp_path)).state_folder
    state.mkdir()
    newer = {"kind": "node state", "version": 99, "lumos": "0.9.0"}
    (state / "folder.json").write_text(json.dumps(newer))
    with pytest.raises(NewerFileError, match=r"pip install lumos==0\.9\.0"):
        watched(tmp_path, lambda node: True)
