"""A node whose process exists does its work, or says why not and comes back: nodes with TLS and
keys on this machine, behind a proxy that answers as a server in trouble does.

``pytest -s -m faults tests/integration/test_liveness.py`` prints how long nodes were away."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_support import LUMOS, named, wait_for, write_prepared
from fleet_proxy import FleetProxy
from hosts_support import settings

from lumos_core.flower import commands
from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

NODES = 2


class Machine:
    """A server and two nodes, each with a terminal of its own, and the proxy between them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._processes: list[subprocess.Popen[bytes]] = []
        data = write_prepared(place / "data")
        [port] = commands.free_ports(1)
        init = ["deploy", "init", "deployment", "--host", "127.0.0.1", "--nodes", str(NODES)]
        subprocess.run([*LUMOS, *init, "--port", str(port)], cwd=place, check=True)
        kit = place / "deployment" / "server"
        self.proxy = FleetProxy(kit, port)
        self.server = self.start(
            "server", "deploy", "server", str(kit), "--catalog", str(data / "catalog.tsv"),
            "--bind", "127.0.0.1", "--rounds", "5000",
            *settings(round_timeout="60", min_replies="1", max_failed_rounds="99"),
        )  # fmt: skip
        self.run_dir = kit / "run"
        self.nodes = [
            self.start(
                f"node-{n}", "node", "start", f"deployment/nodes/node-{n}",
                "--data", str(data / f"node-{n}"), "--superlink", f"127.0.0.1:{self.proxy.port}",
            )
            for n in range(NODES)
        ]  # fmt: skip

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.place / f"{name}.txt").open("wb") as terminal:
            process = subprocess.Popen(
                [*LUMOS, *arguments], cwd=self.place, stdin=subprocess.DEVNULL, stdout=terminal,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.place / f"{name}.txt").read_text()

    def supernodes(self) -> list[int]:
        return [named(node.pid, "flower-supernode")[-1].pid for node in self.nodes]

    def wait_for_round(self, seconds: float = 200) -> float:
        """Wait for a round of all nodes that begins after now; returns the seconds."""
        begin = time.monotonic()
        known = len(self._rounds()) + 1  # the present one may have been answered before
        wait_for(lambda: any(e["nodes_ok"] == NODES for e in self._rounds()[known:]), seconds)
        return time.monotonic() - begin

    def _rounds(self) -> list[dict]:
        history = self.run_dir / "history.jsonl"
        events = read_history(history) if history.exists() else []
        return [e for e in events if e["event"] in ("round", "failed-round")]

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            process.wait(60)
        self.proxy.stop()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(tmp_path / "data", ignore_errors=True)


@pytest.mark.timeout(900)
def test_nodes_come_back_from_whatever_the_server_answers(machine: Machine) -> None:
    machine.wait_for_round()
    before = machine.supernodes()

    # INTERNAL passes: the same SuperNodes go on, and their terminals say what happened
    machine.proxy.fail("INTERNAL", 12, "PullMessages")
    wait_for(lambda: machine.proxy.left == 0, 120)
    seconds = machine.wait_for_round()
    print(f"\nINTERNAL, 12 times: a round of both nodes {seconds:.1f} s after the last of them")
    assert machine.supernodes() == before
    for n in range(NODES):
        lines = wait_for(lambda n=n: after(machine.said(f"node-{n}"), "with an error (INTERNAL)"))
        assert "trying again in" in lines[0]
        assert any(line.endswith("connected again") for line in lines)

    # A status that Flower never retries ends both SuperNodes, but not the nodes
    machine.proxy.fail("UNIMPLEMENTED", NODES, "PullMessages")
    wait_for(lambda: machine.proxy.left == 0, 60)
    wait_for(lambda: sum(machine.said(f"node-{n}").count("has ended") for n in range(NODES)), 60)
    seconds = machine.wait_for_round()
    print(f"UNIMPLEMENTED: a round of both nodes {seconds:.1f} s after a SuperNode had ended")
    assert machine.supernodes() != before

    # A heartbeat that fails for good ends a SuperNode as well: the server would take it for gone
    ends = sum(machine.said(f"node-{n}").count("has ended") for n in range(NODES))
    machine.proxy.fail("UNIMPLEMENTED", 1, "SendNodeHeartbeat")
    wait_for(
        lambda: sum(machine.said(f"node-{n}").count("has ended") for n in range(NODES)) > ends, 60
    )
    seconds = machine.wait_for_round()
    print(f"heartbeat refused: a round of both nodes {seconds:.1f} s after the SuperNode's end")

    # SIGKILL: the next SuperNode signs the dead one off, so that its key is accepted at once
    said = len(machine.said("node-0"))
    os.kill(machine.supernodes()[0], signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: "connected as node" in machine.said("node-0")[said:], 120)
    seconds = time.monotonic() - killed
    print(f"SIGKILL of a SuperNode: connected again after {seconds:.1f} s")
    assert "refused" not in machine.said("node-0")[said:]
    machine.wait_for_round()

    # SIGKILL of the SuperLink
    said = len(machine.said("server"))
    named(machine.server.pid, "flower-superlink")[0].kill()
    killed = time.monotonic()
    wait_for(lambda: "serving on" in machine.said("server")[said:], 120)
    machine.wait_for_round()
    print(
        f"SIGKILL of the SuperLink: a round of both nodes after {time.monotonic() - killed:.1f} s"
    )


def after(text: str, part: str) -> list[str]:
    """The line that holds a part, and all that follow; nothing as long as none follows."""
    lines = text.splitlines()
    found = next((n for n, line in enumerate(lines) if part in line), len(lines))
    return lines[found:] if len(lines) > found + 1 else []
