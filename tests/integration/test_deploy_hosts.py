"""A federation across three hosts (network namespaces), with TLS and node keys.

The commands are those of docs/operations.md, with tiny data and a small model.
"""

import json
import shlex
import signal
import sys
from pathlib import Path

import pytest
from deployment_support import wait_for
from hosts_support import FLEET, Deployment, settings
from namespaces import Network, require_namespaces

pytestmark = pytest.mark.integration

PROBE = """
import sys
import grpc
from flwr.proto import control_pb2, fleet_pb2, runtime_pb2

ca, address = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
channel = grpc.secure_channel(address, credentials)
grpc.channel_ready_future(channel).result(20)
for module in (fleet_pb2, control_pb2, runtime_pb2):
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods_by_name:
            call = channel.unary_unary(f"/{service.full_name}/{method}")
            try:
                call(b"", timeout=20)
                print("OK", service.name, method)
            except grpc.RpcError as error:
                print(error.code().name, service.name, method)
"""


@pytest.fixture(scope="module")
def network():
    require_namespaces()
    with Network("server", "one", "two") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def deployment(network, tmp_path_factory):
    return Deployment(network, tmp_path_factory.mktemp("deployment"))


@pytest.fixture(scope="module")
def server(deployment):
    process = deployment.start_server(rounds=2)
    wait_for(deployment.serving, 90)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def supernode(deployment, ca, *options):
    """A SuperNode without LUMOS around it, on host one; what it says until it ends."""
    program = str(Path(sys.executable).with_name("flower-supernode"))
    address = f"{deployment.network.address('server')}:{FLEET}"
    limits = ["--max-retries", "1", "--max-wait-time", "5", "--isolation", "process"]
    argv = [program, "--superlink", address, "--root-certificates", str(ca), *limits, *options]
    return deployment.network.run("one", argv, deployment.place, seconds=60)


def test_only_the_fleet_port_listens_beyond_loopback(deployment, server):
    listening = deployment.network.listening("server")
    beyond = {(a, port) for a, port in listening if not a.startswith("127.")}
    assert {port for _, port in beyond} == {FLEET}
    assert len(listening - beyond) == 1  # control and runtime, on loopback


def test_an_unregistered_key_is_refused(deployment, server):
    stranger = deployment.place / "stranger"
    deployment.lumos("one", f"deploy init {stranger} --host nowhere.test --nodes 1")
    key = stranger / "nodes" / "node-0" / "node.key"
    ca = deployment.home("one") / "node-0" / "ca.crt"
    done = supernode(deployment, ca, "--auth-supernode-private-key", str(key))
    assert done.returncode != 0
    assert "SuperNode ID" not in done.stdout
    assert "2004" in done.stdout or "not registered" in done.stdout.lower(), done.stdout


def test_no_key_is_refused(deployment, server):
    done = supernode(deployment, deployment.home("one") / "node-0" / "ca.crt")
    assert done.returncode != 0
    assert "SuperNode ID" not in done.stdout


def test_a_node_with_another_authority_refuses_the_server(deployment, server):
    other = deployment.place / "other"
    address = deployment.network.address("server")
    deployment.lumos("one", f"deploy init {other} --host {address} --nodes 1")
    key = deployment.home("one") / "node-0" / "node.key"  # even with a registered key
    ca = other / "nodes" / "node-0" / "ca.crt"
    done = supernode(deployment, ca, "--auth-supernode-private-key", str(key))
    assert done.returncode != 0
    assert "SuperNode ID" not in done.stdout
    checked = deployment.lumos("one", f"node start {other / 'nodes' / 'node-0'} --data data")
    assert checked.returncode == 1
    assert "its certificate is refused" in checked.stdout


def test_who_has_only_the_ca_file_gets_nothing_at_the_fleet_port(deployment, server):
    ca = deployment.home("one") / "node-0" / "ca.crt"
    address = f"{deployment.network.address('server')}:{FLEET}"
    argv = [sys.executable, "-c", PROBE, str(ca), address]
    done = deployment.network.run("one", argv, deployment.place)
    assert done.returncode == 0, done.stdout
    answers = [line.split() for line in done.stdout.splitlines()]
    fleet = {method: code for code, service, method in answers if service == "Fleet"}
    assert "PullMessages" in fleet
    assert set(fleet.values()) <= {"UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"}
    assert {code for code, service, _ in answers if service != "Fleet"} == {"UNIMPLEMENTED"}


def test_the_documented_procedure_trains_across_hosts(deployment, server):
    nodes = [
        deployment.start("one", "node start node-0 --data data"),
        deployment.start("two", "node start node-1 --data data"),
    ]
    try:
        server.wait(180)
    finally:
        for node in nodes:
            node.send_signal(signal.SIGINT)
        codes = [node.wait(30) for node in nodes]
    assert server.returncode == 0, deployment.log("server").read_text()
    assert codes == [130, 130]
    summary = json.loads((deployment.home("server") / "server/run/summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
    assert (deployment.home("server") / "server/run/checkpoint/best.safetensors").exists()
    assert (deployment.home("one") / "data/state/ledger.jsonl").exists()
    again = deployment.lumos("server", "deploy server server --catalog catalog.tsv --rounds 2 "
                             + shlex.join(settings()))  # fmt: skip
    assert again.returncode == 0
    assert "completed" in again.stdout


def test_the_run_goes_on_for_more_rounds_without_a_removed_node(deployment, server):
    """After the run of the test before has completed with two nodes."""
    run_dir = deployment.home("server") / "server" / "run"
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == 2
    removed = deployment.lumos(
        "server", "deploy remove-node deployment node-1", deployment.operator
    )
    assert removed.returncode == 0, removed.stdout
    deployment.copy_server()
    again = deployment.start_server(rounds=3)
    nodes = [
        deployment.start("one", "node start node-0 --data data"),
        deployment.start("two", "node start node-1 --data data"),
    ]
    try:
        assert again.wait(180) == 0, deployment.log("server").read_text()
    finally:
        for process in (again, *nodes):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(30)
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == 3
    rounds = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    trained = [e["ok"] for e in rounds if e["event"] == "round"]
    assert trained == [["node-0", "node-1"], ["node-0", "node-1"], ["node-0"]]
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["run"]["min-nodes"], list(config["nodes"])) == (1, ["node-0"])
