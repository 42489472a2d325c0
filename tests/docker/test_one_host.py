"""The stack of one host: what containers may do, and a run that completes whatever is killed.

The tests run in this order, on one stack: its run goes on while each of them looks or kills.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_support import IMAGE, QUICK, RUN, Project, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
NODES = ("node-0", "node-1", "node-2")
ROUNDS = 500  # more than are done before everything was killed; then fewer are asked for
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("open")
except OSError as error:
    print("closed")
"""
WRITE = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "w").close()
        print(path)
    except OSError:
        pass
"""
STATUS = "print(open('/proc/self/status').read())"


@pytest.fixture(scope="module")
def stack(image: str, prefix: str) -> Iterator[Project]:
    variables = {"LUMOS_SERVER_OPTIONS": f"--rounds {ROUNDS} {QUICK}"}
    project = Project(f"{prefix}-host", "compose.yml", variables)
    try:
        project("up", "--detach")
        yield project
    finally:
        project.remove()


def still_runs(stack: Project) -> None:
    """A fault after the end of the run would show nothing."""
    assert stack.state("server")["Running"], stack.logs("server")[-3000:]


def address(project: Project, service: str, network: str) -> str:
    networks = project.inspect(service)["NetworkSettings"]["Networks"]
    return str(networks[f"{project.name}_{network}"]["IPAddress"])


def test_it_becomes_healthy(stack: Project) -> None:
    """Which says of nodes that the server has accepted them."""
    for service in ("server", *NODES):
        stack.wait(lambda name=service: stack.health(name) == "healthy", f"healthy {service}")
    logs = stack.logs(*NODES)
    assert logs.count("connected as node") >= len(NODES)


def test_limits_and_rights(stack: Project) -> None:
    for service in ("server", *NODES):
        found = stack.inspect(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] == "49999:49999"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert 0 < host["PidsLimit"] <= 512
        assert 0 < host["Memory"] <= 3 << 30
        assert host["LogConfig"]["Config"]["max-size"]
        assert not found["NetworkSettings"]["Ports"]
        status = dict(line.split(":\t", 1) for line in stack.python(service, STATUS).splitlines())
        assert status["Uid"].split() == ["49999"] * 4
        assert status["CapEff"].strip("0") == ""
        assert status["NoNewPrivs"] == "1"


def test_where_a_container_can_write(stack: Project) -> None:
    paths = ("/x", "/opt/code/x", "/opt/lumos/x", "/given/x", "/init/x", "/state/x", "/tmp/x")
    for service in ("server", *NODES):
        assert stack.python(service, WRITE, *paths).split() == ["/state/x", "/tmp/x"]
        assert stack.python(service, WRITE, "/given/data/interactions.tsv") == ""


def test_a_node_reaches_the_fleet_port_and_nothing_else(stack: Project) -> None:
    server, other = address(stack, "server", "node-0"), address(stack, "node-1", "node-1")
    assert stack.python("node-0", CONNECT, server, "9092") == "open"
    assert stack.python("node-0", CONNECT, server, "8000") == "closed"
    assert stack.python("server", CONNECT, "127.0.0.1", "8000") == "open"
    assert stack.python("node-0", CONNECT, "node-1", "9092") == "closed"
    assert stack.python("node-0", CONNECT, other, "22") == "closed"
    assert stack.python("node-0", CONNECT, "1.1.1.1", "443") == "closed"


def test_a_node_has_its_own_key_and_data_only(stack: Project) -> None:
    program = "import pathlib; print(*sorted(str(p) for p in pathlib.Path('/given').rglob('*')))"
    for node in NODES:
        files = stack.python(node, program).split()
        assert "/given/bundle/node.key" in files
        assert not any("server" in name or name.endswith((".pub", "ca.key")) for name in files)
        names = stack.python(node, "print(open('/given/bundle/node.toml').read())")
        assert f'name = "{node}"' in names
    keys = {stack.python(n, "print(open('/given/bundle/node.key').read())") for n in NODES}
    assert len(keys) == len(NODES)


@pytest.mark.parametrize("program", ["flwr-serverapp", "flower-superexec", "flower-superlink"])
def test_a_killed_process_of_the_server(stack: Project, program: str) -> None:
    before = max(stack.rounds(), default=0)
    stack.wait_for_round(before + 1)
    still_runs(stack)
    stack.kill("server", program)
    stack.wait_for_round(before + 3)
    assert stack.inspect("server")["RestartCount"] == 0  # the supervisor did it


def test_a_killed_supernode(stack: Project) -> None:
    """Its supervisor starts it again, until the server accepts the key again."""
    still_runs(stack)
    stack.kill_and_wait_for_connection("node-1", "flower-supernode")
    assert stack.inspect("node-1")["RestartCount"] == 0


def test_a_killed_container_of_a_node(stack: Project) -> None:
    """The round goes on with the others, and `up` brings the node back."""
    still_runs(stack)
    before = max(stack.rounds(), default=0)
    stack.wait_for_round(before + 1)  # a run that has not begun waits for all its nodes
    stack("kill", "node-2")
    stack.wait_for_round(before + 3)
    server = stack.id("server")
    stack("up", "--detach")
    assert stack.id("server") == server
    stack.wait(lambda: stack.state("node-2")["Running"], "running node-2")


def test_a_killed_supervisor_of_the_server(stack: Project) -> None:
    """Then the container ends, and Docker starts it again."""
    still_runs(stack)
    before = max(stack.rounds(), default=0)
    stack.kill_supervisor("server")
    stack.wait_for_round(before + 1)
    assert stack.inspect("server")["RestartCount"] == 1


def test_the_run_completes(stack: Project, tmp_path: Path) -> None:
    """With as many rounds as other options ask for, under which `up` resumes it."""
    still_runs(stack)
    rounds = stack.ask_for_two_more_rounds()
    assert stack.wait_for_end() == 0
    logs = stack.logs("server")
    assert "federated fedavg" in logs
    assert "completed; round" in logs
    stack("cp", f"server:{RUN}", str(tmp_path / "result"))
    summary = json.loads((tmp_path / "result/summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", rounds)
    lines = (tmp_path / "result/history.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["round"] for e in events if e["event"] == "round"] == list(range(1, rounds + 1))
    assert (tmp_path / "result/checkpoint/best.safetensors").is_file()


def test_up_after_the_end_changes_nothing(stack: Project) -> None:
    """Also after the image was built again."""
    Project("lumos", "compose.yml")("build")
    before = {name: stack.id(name) for name in ("server", *NODES)}
    stack("up", "--detach")
    assert {name: stack.id(name) for name in before} == before
    assert stack.wait_for_end() == 0
    assert "nothing to do" in stack.logs("server")


def test_data_are_not_put_over_others(stack: Project, tmp_path: Path) -> None:
    (tmp_path / "catalog.tsv").touch()
    done = stack.compose("run", "--rm", "--volume", f"{tmp_path}:/prepared:ro", "init")
    assert done.returncode != 0
    assert "down --volumes" in done.stdout + done.stderr


def test_no_image_is_ever_pulled(stack: Project) -> None:
    docker("tag", IMAGE, "lumos-test:kept")
    docker("image", "rm", "--force", "--no-prune", IMAGE)
    try:
        for file in ("server.yml", "node.yml"):
            other = Project(f"{stack.name}-pull", file, {"LUMOS_BUNDLE": "/tmp", "LUMOS_DATA": "/"})
            other.variables |= {"LUMOS_KIT": "/tmp", "LUMOS_CATALOG": "/etc/hostname"}
            done = other.compose("up", "--detach")
            other.remove()
            assert done.returncode != 0
            assert "Pulling" not in done.stderr
            assert "no such image" in done.stderr.lower()
    finally:
        docker("tag", "lumos-test:kept", IMAGE)
        docker("image", "rm", "--no-prune", "lumos-test:kept")
