"""What ``lumos node start`` says and does about a SuperNode that ends or loses its server."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flower_programs import FlowerPrograms
from rich.console import Console

from lumos_core.config import APPROVED_APPS, NodeConfig
from lumos_core.deployment import node_supervisor
from lumos_core.deployment.connection_file import CONNECTION, ConnectionFile
from lumos_core.deployment.connection_log import REFUSED
from lumos_core.deployment.folders import NodeBundle
from lumos_core.deployment.node_supervisor import keep_running
from lumos_core.deployment.supervision import Backoff
from lumos_core.errors import NewerFileError
from lumos_core.federation.owner_floor import REFUSED as REFUSAL
from lumos_core.federation.owner_floor import Refusal
from lumos_core.flower import (
    app_archive,
    app_gate,
    commands,
    live_supernode,
    steady_connection,
)

CONNECTED = "INFO :      SuperNode ID: 17"


class EnoughError(Exception):
    """Ends the supervisor."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``said(starts, script)``: the lines of a supervisor, without the time, that is ended instead
    of its so many-th pause, and the times in a row of each pause."""
    monkeypatch.setenv("LUMOS_PRELOAD", "0")
    monkeypatch.setattr(node_supervisor, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(node_supervisor, "seed_cache", lambda cache: None)
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", tmp_path / "run", [])
    (tmp_path / "data").mkdir()
    config = NodeConfig(name="node-0", data=str(tmp_path / "data"), approved_apps="0" * 64)
    bundle = NodeBundle("127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "node.key", config)

    def run(starts: int, *script: tuple[list[str], int | None]) -> tuple[list[str], list[int]]:
        programs.script_supernodes(*script)
        pauses: list[int] = []

        def pause(self: Backoff) -> float:
            self._times += 1
            pauses.append(self._times)
            if len(pauses) == starts:
                raise EnoughError
            return 0.0

        monkeypatch.setattr(Backoff, "pause", pause)
        console = Console(file=io.StringIO(), width=500)
        with pytest.raises(EnoughError):
            keep_running(bundle, 0, console)
        text = console.file.getvalue()
        return [line.split(" ", 2)[2] for line in text.splitlines()], pauses

    return run


def test_a_supernode_that_stops_working_is_started_again(said):
    lines, pauses = said(3, ([CONNECTED], 70), ([CONNECTED], 70))
    started = f"node-0 started; logs in {lines[0].partition('logs in ')[2]}"
    once = [started, "connected as node 17"]
    assert lines == [*once, "its SuperNode has ended; starting again in 0 s"] * 2 + once
    assert pauses == [1, 1, 1]  # each start was a success


def test_pauses_grow_until_the_server_accepts_it(said):
    _, pauses = said(5, ([], 1), ([], 1), ([], 1), ([CONNECTED], 1), ([], 1))
    assert pauses == [1, 2, 3, 1, 2]


def test_the_last_lines_before_an_end_are_read(said):
    """Also if the SuperNode ends in the same moment."""
    lines, pauses = said(3, (["[code: 2004] Failed to activate SuperNode."], 1))
    assert lines[1] == f"{REFUSED}; starting again in 0 s"
    assert pauses == [1, 1, 1]  # the refusal passes


def test_every_change_of_the_connection_is_a_line(said):
    failed = steady_connection.LINE % ("UNAVAILABLE", 3.4)
    again = "INFO :      Connection successful after 30.00 seconds and 8 tries."
    lines, _ = said(1, ([CONNECTED, failed, failed, failed, again], 70))
    assert lines[1:] == [
        "connected as node 17",
        "server does not answer; trying again in 4 s",
        "connected again",
    ]


def test_a_refused_run_is_a_line_that_says_what_to_do(said):
    refused = app_gate.LINE % (app_gate.FOREIGN_APP, 7, "torch.py is added; its digest is …")
    lines, _ = said(1, ([CONNECTED, f"INFO: x\n{refused}"], 70))
    assert lines[1:] == ["connected as node 17", refused]


def test_a_supernode_that_must_not_start_says_why(said):
    reason = live_supernode.REASON.format("apps are checked inside Flower 1.39.0, found 1.40.0")
    lines, _ = said(2, ([reason], app_gate.UNSAFE), ([], 70))
    assert lines[1] == f"{reason}; starting again in 0 s"


def test_a_supernode_is_told_what_its_owner_approved(said, tmp_path, monkeypatch):
    """By its environment; the app is told nothing of it."""
    given = []
    start = node_supervisor.Children.start

    def note(self, name, command, *, environment, cwd):
        given.append((name, command, environment))
        return start(self, name, command, environment=environment, cwd=cwd)

    monkeypatch.setattr(node_supervisor.Children, "start", note)
    said(1, ([CONNECTED], 70))
    assert {name for name, _, _ in given} == {"supernode", "superexec"}
    installed = tmp_path / "data" / "state" / node_supervisor.INSTALLED
    files = app_archive.read(installed.read_bytes())
    assert app_archive.digest(files) == commands.app_digest()
    for _, command, environment in given:
        assert environment[app_gate.APP] == str(installed)
        assert environment[app_gate.APPROVED] == "0" * 64
        if "--node-config" in command:
            settings = Path(command[command.index("--node-config") + 1])
            assert APPROVED_APPS not in settings.read_text()


def test_changes_are_shown_while_the_node_runs(said, monkeypatch):
    say = node_supervisor.say

    def note(console: Console, text: str) -> None:
        say(console, text)
        if "connected" in text:
            raise EnoughError

    monkeypatch.setattr(node_supervisor, "say", note)
    lines, pauses = said(1, ([CONNECTED], None))
    assert lines == [lines[0], "connected as node 17"]
    assert pauses == []


def test_the_state_of_the_connection_is_noted(said, tmp_path, monkeypatch):
    states: list[str] = []
    write = ConnectionFile.write

    def note(self: ConnectionFile, path: Path, mode: int = 0o644) -> None:
        write(self, path, mode)
        assert path == tmp_path / "data" / "state" / CONNECTION
        states.append(self.state)

    monkeypatch.setattr(ConnectionFile, "write", note)
    failed = steady_connection.LINE % ("UNAVAILABLE", 3.4)
    said(2, ([CONNECTED], 70), ([failed], 70))
    assert [state for state in states if state != "starting"] == [
        "connected",
        "ended",
        "silent",
        "ended",
    ]


def test_the_terminal_says_why_the_node_refuses_a_run_once(tmp_path):
    console = Console(file=io.StringIO(), width=500)
    Refusal(time=1.0, sentences=("of a run long ago",)).write(tmp_path / REFUSAL)
    shown = node_supervisor._RefusalLog(tmp_path, console)
    shown.look()
    assert console.file.getvalue() == ""
    for reasons in (("one [key]", "two"), ("one [key]", "two"), ("three",)):
        Refusal(time=time.time(), sentences=reasons).write(tmp_path / REFUSAL)
        shown.look()
        shown.look()
    lines = console.file.getvalue().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["one [key]", "two", "three"]


def test_a_node_that_was_connected_and_is_refused_says_what_may_have_happened(said) -> None:
    lines, _ = said(3, ([CONNECTED, "SuperNode terminated gracefully."], 0), (
        ["SuperNode terminated gracefully."], 0))  # fmt: skip
    removed, clock = (line for line in lines if "refuses what this node signs" in line)
    assert "the node was removed there or has another key" in removed
    assert "probably this machine's clock" in clock


def test_the_state_of_a_newer_node_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = NodeConfig(name="node-0", data=str(tmp_path / "data"))
    bundle = NodeBundle("127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "node.key", config)
    config.state_folder.mkdir(parents=True)
    newer = {"kind": "node state", "version": 99, "lumos": "0.9.0"}
    (config.state_folder / "folder.json").write_text(json.dumps(newer))
    with pytest.raises(NewerFileError, match=r"pip install lumos==0\.9\.0"):
        keep_running(bundle, 0, Console(file=io.StringIO()))
    assert not (config.state_folder / node_supervisor.INSTALLED).exists()


def test_looking_at_a_node_before_it_starts_loads_no_torch(tmp_path: Path) -> None:
    """A supervisor runs as long as its node, and torch takes 190 MiB."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lumos_core.config import NodeConfig\n"
        "from lumos_core.deployment import node_supervisor\n"
        "from lumos_core.deployment.folders import NodeBundle\n"
        f"place = Path({str(tmp_path)!r})\n"
        "config = NodeConfig(name='node-0', data=str(place))\n"
        "bundle = NodeBundle('127.0.0.1:1', place / 'ca.crt', place / 'node.key', config)\n"
        "Unfinished = node_supervisor.Unfinished\n"
        "assert Unfinished.of_node(node_supervisor.state_folder(bundle)) is None\n"
        "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
