"""A server sends nodes something else than the LUMOS that they have: nothing of it runs, node and
server are told, and a node whose owner approved it runs it. Real processes, all runs at a time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from deployment_support import TINY, wait_for, write_prepared

from lumos_core.config import APPROVED_APPS, NodeConfig, RunConfig
from lumos_core.deployment.local_supernode import LocalSuperNode
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.flower import app_archive, commands
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.history import read_history
from lumos_core.wire import versions

pytestmark = pytest.mark.integration

MARK = "\n__import__('pathlib').Path(__import__('os').environ['FLWR_HOME'], '{}').touch()\n"
PROBE = """
import json, pathlib, time
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.5)
    asked = [Message(RecordDict(), node, "query.describe") for node in nodes]
    answers = [dict(r.content["error"]) for r in grid.send_and_receive(asked, timeout=120)]
    pathlib.Path(context.run_config["run-dir"]).write_text(json.dumps(answers))
"""
"""A server that does nothing but ask the nodes who they are: it can do without torch."""
SEEDS = {"agent": 77, "key": 78}
HOSTILE_LINK = f"""
import importlib
module = importlib.import_module("flwr.server.superlink.fleet.message_handler.message_handler")
honest = module.get_run

def get_run(request, state):
    response = honest(request, state)
    seed = response.run.override_config["seed"].sint64
    if seed == {SEEDS["agent"]}:
        response.run.primary_task_type = "flwr-agentapp"
    if seed == {SEEDS["key"]}:
        response.run.override_config["extra-key"].string = "x"
    return response

module.get_run = get_run
"""
"""A SuperLink that says of a run, whose app is honest, that it is that of an agent, and of another
that it sets a key that does not exist."""
Files = dict[str, bytes]


def apps() -> dict[str, Files]:
    """By name, what the server sends."""
    honest = commands.app_files()
    path = "client_app/client.py"
    metadata = commands.app_metadata({**RunConfig().to_flat(), "rounds": 3})
    return {
        "line": {**honest, path: honest[path] + MARK.format("ran-line").encode()},
        "torch": {
            **honest,
            "torch.py": MARK.format("ran-torch").encode(),
            "server_app/server.py": PROBE.encode(),
        },
        # Flower's server unpacks equal archives to one folder, at the same time: these differ in
        # what does not count
        "agent": {**honest, app_archive.PROJECT: tomli_w.dumps(metadata).encode()},
        "key": honest,
    }


class Federation:
    """A SuperLink, a node that approves nothing, and one that approves the app ``line``.

    Args:
        children: its processes are some of them.
        place: an empty folder.
        data: of two nodes.
    """

    def __init__(self, children: Children, place: Path, data: Path) -> None:
        self.place, self.data, self.sent = place, data, apps()
        (place / "hostile").mkdir()
        (place / "hostile" / "sitecustomize.py").write_text(HOSTILE_LINK)
        path = os.pathsep.join((str(place / "hostile"), os.environ.get("PYTHONPATH", "")))
        control, port = commands.free_ports(2)
        fleet = f"{commands.LOOPBACK}:{port}"
        variables = {"PYTHONPATH": path}
        self.link = SuperLink(
            children, place, self.config("none"), control, fleet, variables=variables
        )
        installed = commands.write_installed(place / "installed.zip")
        approved = {"node-1": app_archive.digest(self.sent["line"])}
        for name in ("node-0", "node-1"):
            own = {"name": name, "data": str(data / name)}
            settings = NodeConfig.from_flat({**own, APPROVED_APPS: approved.get(name, "")})
            flat = settings.to_flat()
            LocalSuperNode(children, place, self.link.cwd, fleet, flat, installed, 0)
        self.link.wait_healthy()

    def config(self, name: str) -> RunConfig:
        flat = {
            **TINY, "rounds": 1, "min-nodes": 1, "min-replies": 1, "start-timeout": 90,
            "catalog": str(self.data / "catalog.tsv"), "run-dir": str(self.run_dir(name)),
            "seed": SEEDS.get(name, 0),
        }  # fmt: skip
        if name in SEEDS:  # no node will take part: nothing to wait for
            flat["start-timeout"] = 45
        return RunConfig.from_flat(flat)

    def run_dir(self, name: str) -> Path:
        return self.place / "runs" / name

    def submit(self, name: str) -> Child:
        app = self.place / "sent" / name / "app"
        app_archive.write_files(self.sent[name], app)
        settings = app.parent / "run.toml"
        commands.write_toml(settings, self.config(name).to_flat())
        return self.link.start(f"server-{name}", commands.submit(app, settings, None))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def federation(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """After all its runs have ended."""
    data = write_prepared(tmp_path_factory.mktemp("data") / "data")
    with workplace() as place, ending_on_signals(), Children(logs) as children:
        found = Federation(children, place, data)
        (place / "runs").mkdir()
        runs = [found.submit(name) for name in found.sent]
        wait_for(lambda: all(run.exit_code is not None for run in runs), 300, every=0.5)
        yield found


def refusals(logs: Path, node: str) -> list[str]:
    lines = (logs / f"{node}.log").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("foreign-app: run ")]


def test_the_node_says_what_it_refuses(federation: Federation, logs: Path) -> None:
    found = "\n".join(sorted(refusals(logs, "node-0")))
    assert found.count("foreign-app") == len(federation.sent)
    for told in (
        "client_app/client.py differs; its digest is "
        + app_archive.digest(federation.sent["line"]),
        "torch.py is added; its digest is " + app_archive.digest(federation.sent["torch"]),
        "of the type flwr-agentapp, expected flwr-serverapp",
        "Key 'extra-key' is not present",
    ):
        assert told in found
    assert len(refusals(logs, "node-1")) == len(federation.sent) - 1


def test_nothing_of_it_ran_there(federation: Federation) -> None:
    home = federation.place / "node-0"
    assert list(home.glob("ran*")) == []
    assert list(home.glob("apps/*")) == [], "nor was anything of it unpacked"
    ledger = (federation.data / "node-0" / "state" / "ledger.jsonl").read_text().splitlines()
    records = [json.loads(line)["records"] for line in ledger]
    assert len(records) >= len(federation.sent)
    assert {entry["record"] for record in records for entry in record} == {"error"}


@pytest.mark.parametrize("name", SEEDS)
def test_the_server_learns_the_code(name: str, federation: Federation, logs: Path) -> None:
    said = (logs / f"server-{name}.log").read_text(errors="replace")
    for node in ("node-0", "node-1"):
        assert f"node {node}: refused: it answers with error 'foreign-app'" in said
    summary = json.loads((federation.run_dir(name) / "summary.json").read_text())
    assert summary["outcome"] == "failed"
    assert "0 usable nodes" in summary["reason"]


def test_a_server_of_any_other_kind_learns_it_as_well(federation: Federation) -> None:
    answers = json.loads(federation.run_dir("torch").read_text())
    assert sorted(answers, key=lambda answer: answer["name"]) == [
        {"code": "foreign-app", "name": "node-0", **versions.own().to_info()},
        {"code": "foreign-app", "name": "node-1", **versions.own().to_info()},
    ]


def test_a_node_that_approved_it_runs_it(federation: Federation, logs: Path) -> None:
    home = federation.place / "node-1"
    assert [path.name for path in home.glob("ran*")] == ["ran-line"]
    [app] = home.glob("apps/*")
    assert app.name.split(".")[1] == app_archive.digest(federation.sent["line"])
    said = (logs / "server-line.log").read_text(errors="replace")
    assert "node node-0: refused: it answers with error 'foreign-app'" in said
    events = read_history(federation.run_dir("line") / "history.jsonl")
    assert [e["ok"] for e in events if e["event"] == "round"] == [["node-1"]]
    summary = json.loads((federation.run_dir("line") / "summary.json").read_text())
    assert summary["outcome"] == "completed"
