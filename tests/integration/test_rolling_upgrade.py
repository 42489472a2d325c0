"""The rolling upgrade of docs/operations.md: a server and two nodes of the previous release, from
its wheel, are upgraded one after the other while a run goes on. TLS and node keys, on this machine.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_support import LUMOS, wait_for, write_prepared
from hosts_support import settings
from release_support import ROOT, previous_release

from lumos_core.flower import commands
from lumos_core.runs.history import Event, read_history
from lumos_core.wire import versions

pytestmark = [pytest.mark.integration, pytest.mark.faults]

BOTH = ["node-0", "node-1"]
OWN = versions.own().lumos


class Machines:
    """A server and two nodes, each with a terminal of its own; they begin with the old release."""

    def __init__(self, place: Path, old: Path) -> None:
        self.place, self.old, self.data = place, old, write_prepared(place / "data")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0
        [port] = commands.free_ports(1)
        init = ["deploy", "init", "deployment", "--host", "127.0.0.1", "--nodes", "2"]
        environment = {**os.environ, "PYTHONPATH": str(old)}
        argv = [*LUMOS, *init, "--port", str(port)]
        subprocess.run(argv, cwd=place, env=environment, check=True)
        self.run_dir = place / "deployment" / "server" / "run"

    def start(self, name: str, release: Path) -> Path:
        """Start the server or a node; returns the file with what it says."""
        if name == "server":
            arguments = [
                "deploy", "server", "deployment/server", "--catalog", "data/catalog.tsv",
                "--bind", "127.0.0.1", "--rounds", "5000",
                *settings(
                    round_timeout="60", min_nodes="1", min_replies="1", max_failed_rounds="99"
                ),
            ]  # fmt: skip
        else:
            bundle = f"deployment/nodes/{name}"
            arguments = ["node", "start", bundle, "--data", str(self.data / name)]
        self._starts += 1
        said = self.place / f"{name}-{self._starts}.txt"
        with said.open("wb") as terminal:
            self._running[name] = subprocess.Popen(
                [*LUMOS, *arguments], cwd=self.place, stdin=subprocess.DEVNULL, stdout=terminal,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400",
                    "PYTHONPATH": str(release),
                },
            )  # fmt: skip
        return said

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    def upgrade(self, name: str) -> Path:
        """Stop it, and start it with this release; returns the file with what it says."""
        self.stop(name)
        return self.start(name, ROOT)

    def wait_for_round(self, names: list[str], seconds: float = 240) -> None:
        """Wait for a round of exactly these nodes that begins after now."""
        known = len(self.rounds()) + 1  # the present one may have been answered before
        wait_for(lambda: any(e["ok"] == names for e in self.rounds()[known:]), seconds, every=0.5)

    def rounds(self) -> list[Event]:
        history = self.run_dir / "history.jsonl"
        events = read_history(history) if history.exists() else []
        return [e for e in events if e["event"] in ("round", "failed-round")]

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    (tmp_path / "release").mkdir()
    found = Machines(tmp_path, previous_release(tmp_path / "release"))
    try:
        yield found
    finally:
        found.stop_all()


@pytest.mark.timeout(1500)
def test_nodes_first_then_the_server(machines: Machines) -> None:
    for name in ("server", *BOTH):
        machines.start(name, machines.old)
    machines.wait_for_round(BOTH)

    # a node of this release works for the old server, with its own code
    said = machines.upgrade("node-0")
    machines.wait_for_round(BOTH)
    line = f"is of a server with LUMOS 0.1.0; this node works for it with its own, {OWN}"
    assert line in said.read_text()

    # a node of 0.1.0 does not work for a server of this release, which says what to install
    said = machines.upgrade("server")
    machines.wait_for_round(["node-0"])
    refused = wait_for(
        lambda: [t for t in _texts(machines.run_dir / "logs") if "node node-1: refused" in t], 60
    )
    assert "'foreign-app'" in refused[-1]
    assert f"install on the node: pip install lumos=={OWN}" in refused[-1]

    machines.upgrade("node-1")
    machines.wait_for_round(BOTH)
    events = machines.rounds()
    assert [e["round"] for e in events if e["event"] == "round"] == sorted(
        {e["round"] for e in events if e["event"] == "round"}
    ), "no round was lost or done twice"
    assert [e["event"] for e in read_history(machines.run_dir / "history.jsonl")].count(
        "versions"
    ) == 0, "in the end, server and nodes are equal"


def _texts(logs: Path) -> list[str]:
    """The lines of all logs of a server."""
    texts = [path.read_text(errors="replace") for path in logs.glob("*.log")]
    return [line for text in texts for line in text.splitlines()]
