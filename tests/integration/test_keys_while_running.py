"""A node with a key that it has made itself is added to a running server, takes part, gets another
key, and is removed; then the server's certificate is renewed. The server is never started by hand
again, and its other node takes part all the time."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_support import Terminals, leftovers, named, wait_for, write_prepared
from hosts_support import settings

from lumos_core.flower import commands
from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

SECONDS = 180.0  # for anything that takes a few rounds, on a busy machine


class Machine(Terminals):
    """A server without nodes, and what the owners of two nodes do, each in a folder of its own."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.kit = place / "deployment" / "server"
        self.run_dir = self.kit / "run"
        self.data = write_prepared(place / "data")
        [port] = commands.free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.lumos("deploy", "init", "deployment", "--host", "127.0.0.1", "--port", str(port))

    def make_key(self, name: str) -> None:
        address = ["--superlink", self.address, "--ca", str(self.kit / "ca.crt")]
        self.lumos("node", "init", f"owners/{name}", *address)

    def admit(self, command: str, name: str) -> None:
        public = f"owners/{name}/{name}.pub"
        self.lumos("deploy", command, str(self.kit), name, "--public-key", public)

    def start_server(self) -> "subprocess.Popen[bytes]":
        return self.start(
            "server", "deploy", "server", str(self.kit), "--bind", "127.0.0.1",
            "--catalog", str(self.data / "catalog.tsv"), "--rounds", "5000",
            *settings(round_timeout="60", min_replies="1", max_failed_rounds="99"),
        )  # fmt: skip

    def start_node(self, name: str, number: int) -> None:
        self.start(name, "node", "start", f"owners/{name}", "--data", f"data/node-{number}")

    def wait_for_round_of(self, *names: str) -> None:
        """Wait for a round of exactly these nodes that begins after now."""
        known = len(self.rounds()) + 1  # the present one may have been answered before
        wait_for(lambda: any(e["ok"] == [*names] for e in self.rounds()[known:]), SECONDS)

    def rounds(self) -> list[dict]:
        history = self.run_dir / "history.jsonl"
        return [e for e in read_history(history) if e["event"] == "round"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    try:
        yield found
    finally:
        found.stop()
    assert leftovers(found.run_dir, []) == []


@pytest.mark.timeout(1200)
def test_keys_made_by_nodes_are_admitted_rotated_and_removed_while_the_server_runs(
    machine: Machine,
) -> None:
    machine.make_key("first")
    machine.admit("add-node", "first")
    server = machine.start_server()
    machine.start_node("first", 0)
    machine.wait_for_round_of("first")

    machine.make_key("second")
    machine.start_node("second", 1)  # before its key is known
    wait_for(lambda: "refused: the server refuses this node's key" in machine.said("second"), 60)
    machine.admit("add-node", "second")
    machine.wait_for_round_of("first", "second")
    assert "second was added (SHA256:" in machine.said("server")

    machine.lumos("node", "init", "owners/second", "--new-key")
    machine.admit("rotate-node", "second")
    wait_for(lambda: "second has another key now (SHA256:" in machine.said("server"), 60)
    machine.wait_for_round_of("first")  # the old key is refused
    assert "though it accepted it before" in machine.said("second")
    machine.interrupt("second")
    folder = machine.place / "owners" / "second"
    (folder / "node.key.new").rename(folder / "node.key")
    machine.start_node("second", 1)
    machine.wait_for_round_of("first", "second")

    refused = machine.said("second").count("refused: the server refuses this node's key")
    machine.lumos("deploy", "remove-node", str(machine.kit), "second")
    wait_for(lambda: "second was removed: its key is refused" in machine.said("server"), 60)
    machine.wait_for_round_of("first")
    wait_for(lambda: machine.said("second").count("refused: the server refuses") > refused, 60)
    rounds = len(machine.rounds())
    wait_for(lambda: len(machine.rounds()) > rounds + 2, SECONDS)
    assert all(e["ok"] == ["first"] for e in machine.rounds()[rounds:])
    assert machine.said("server").count("serving on") == 1

    [link] = named(server.pid, "flower-superlink")
    machine.lumos("deploy", "renew", "deployment")
    wait_for(lambda: machine.said("server").count("serving on") == 2, SECONDS)
    assert "the server has a new certificate, valid for 82" in machine.said("server")
    assert not link.is_running()
    machine.wait_for_round_of("first")
    assert machine.lumos("status", str(machine.run_dir)).count("certificate") >= 2

    numbers = [e["round"] for e in machine.rounds()]
    assert numbers == list(range(1, len(numbers) + 1))  # none lost, none twice
    private = [
        p for p in machine.place.rglob("*") if p.is_file() and b"OPENSSH PRIVATE" in beginning(p)
    ]
    assert {p.parent for p in private} == {folder, folder.with_name("first")}


def beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)
