"""Server and nodes as on machines of their own: a compose file and a project each, folders as
``lumos deploy init`` and ``lumos prepare`` write them, and the published port."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from compose_support import IMAGE, QUICK, RUN, Project, docker

from lumos_core.data.prepare import prepare
from lumos_core.data.sample import bundled_sample
from lumos_core.deployment import folders

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
NODES = ("north", "south")
PORT, ROUNDS = 29092, 500  # the last test but one asks for fewer


class Machines(NamedTuple):
    """One project for each machine."""

    server: Project
    nodes: dict[str, Project]


@pytest.fixture(scope="module")
def place(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose files are given to the user of the containers, and taken back at the end."""
    folder = tmp_path_factory.mktemp("machines")
    yield folder
    _owner(folder, "0:0")


def _owner(folder: Path, owner: str) -> None:
    """`chown`, which on the machine of an operator needs sudo."""
    options = ("--user=0", "--entrypoint=chown", f"--volume={folder}:/folder")
    docker("run", "--rm", *options, IMAGE, "-R", owner, "/folder")


@pytest.fixture(scope="module")
def machines(place: Path, prefix: str) -> Iterator[Machines]:
    gateway = docker(
        "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"
    ).strip()
    prepare(bundled_sample(), place / "data", nodes=2, seed=0)
    folders.create(place / "deployment", [gateway], NODES, PORT, 30)
    shutil.copy(place / "data/catalog.tsv", place / "catalog.tsv")
    _owner(place, "49999:49999")
    variables = {
        "LUMOS_KIT": str(place / "deployment/server"),
        "LUMOS_CATALOG": str(place / "catalog.tsv"),
        "LUMOS_BIND": gateway,
        "LUMOS_PORT": str(PORT),
        "LUMOS_SERVER_OPTIONS": f"--rounds {ROUNDS} {QUICK}",
    }
    found = Machines(
        Project(f"{prefix}-server", "server.yml", variables),
        {
            name: Project(
                f"{prefix}-{name}",
                "node.yml",
                {
                    "LUMOS_BUNDLE": str(place / "deployment/nodes" / name),
                    "LUMOS_DATA": str(place / "data" / f"node-{number}"),
                },
            )
            for number, name in enumerate(NODES)
        },
    )
    try:
        for project in (*found.nodes.values(), found.server):
            project("up", "--detach")
        yield found
    finally:
        for project in (*found.nodes.values(), found.server):
            project.remove()


def test_one_port_is_published(machines: Machines) -> None:
    assert list(machines.server.inspect("server")["NetworkSettings"]["Ports"]) == [f"{PORT}/tcp"]
    for node in machines.nodes.values():
        assert not node.inspect("node")["NetworkSettings"]["Ports"]


def test_all_become_healthy(machines: Machines) -> None:
    machines.server.wait(lambda: machines.server.health("server") == "healthy", "healthy server")
    for name, node in machines.nodes.items():
        node.wait(lambda node=node: node.health("node") == "healthy", f"healthy {name}")


def test_a_killed_container_of_the_server_resumes(machines: Machines) -> None:
    server = machines.server
    server.wait_for_round(2)
    assert server.state("server")["Running"]
    server("kill", "server")
    server("up", "--detach")
    server.wait_for_round(3)


def test_a_killed_process_of_a_node(machines: Machines) -> None:
    """Of a later round it is a part again."""
    node, server = machines.nodes["south"], machines.server
    before = max(server.rounds())
    node.kill("node", "flower-superexec")

    def takes_part() -> bool:
        rounds = [event for event in server.history() if event["event"] == "round"]
        return any(event["round"] > before + 1 and "south" in event["ok"] for event in rounds)

    server.wait(takes_part, "south in a round")
    assert node.inspect("node")["RestartCount"] == 0


def test_the_run_completes(machines: Machines, tmp_path: Path) -> None:
    assert machines.server.state("server")["Running"]
    rounds = machines.server.ask_for_two_more_rounds()
    assert machines.server.wait_for_end() == 0
    machines.server("cp", f"server:{RUN}", str(tmp_path / "result"))
    summary = json.loads((tmp_path / "result/summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", rounds)


def test_a_node_without_a_server_is_not_healthy(machines: Machines) -> None:
    """The server has ended with its run."""
    node = machines.nodes["north"]
    node.wait(lambda: node.health("node") == "unhealthy", "unhealthy north")


def test_a_wrong_path_is_refused_and_no_folder_is_made(
    image: str, place: Path, prefix: str
) -> None:
    project = Project(
        f"{prefix}-wrong",
        "node.yml",
        {"LUMOS_BUNDLE": str(place / "absent"), "LUMOS_DATA": str(place / "missing")},
    )
    try:
        done = project.compose("up", "--detach")
    finally:
        project.remove()
    assert done.returncode != 0
    assert "absent" in done.stderr or "missing" in done.stderr
    assert not (place / "absent").exists()
    assert not (place / "missing").exists()
