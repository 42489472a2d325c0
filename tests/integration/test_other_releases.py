"""Nodes of four releases under one server, real processes: protocols decide, releases are named,
and no code that the server sent runs anywhere."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_support import TINY, wait_for, write_prepared
from release_support import imagined_release

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.deployment.local_supernode import LocalSuperNode
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.flower import app_archive, commands
from lumos_core.processes.children import Children, ending_on_signals
from lumos_core.runs.history import Event, read_history
from lumos_core.runs.status import status_of
from lumos_core.wire import versions
from lumos_core.wire.versions import PROTOCOL

pytestmark = [pytest.mark.integration, pytest.mark.faults]

SERVER = ("0.2.99", PROTOCOL)
RELEASES = {
    "node-0": (versions.own().lumos, PROTOCOL),
    "node-1": ("0.1.9", PROTOCOL - 1),
    "node-2": ("9.0", PROTOCOL + 2),
    "node-3": SERVER,
}
MARK = "\n__import__('pathlib').Path(__import__('os').environ['FLWR_HOME'], 'ran').touch()\n"
"""A line that the server adds to the app that it sends; so node-3 has to refuse that app."""
WANTED = f"pip install lumos=={SERVER[0]}"


def sent() -> dict[str, bytes]:
    files = imagined_release(*SERVER)
    path = "client_app/client.py"
    return {**files, path: files[path] + MARK.encode()}


class Federation:
    """A server and a node of each release, after a run of two rounds."""

    def __init__(self, children: Children, place: Path, data: Path) -> None:
        self.place, self.run_dir = place, place / "run"
        config = RunConfig.from_flat(
            {
                **TINY, "rounds": 2, "min-nodes": 2, "min-replies": 2, "start-timeout": 120,
                "catalog": str(data / "catalog.tsv"), "run-dir": str(self.run_dir),
            }
        )  # fmt: skip
        control, port = commands.free_ports(2)
        fleet = f"{commands.LOOPBACK}:{port}"
        link = SuperLink(children, place, config, control, fleet)
        for name, (release, protocol) in RELEASES.items():
            installed = place / f"{name}.zip"
            installed.write_bytes(app_archive.write(imagined_release(release, protocol)))
            flat = NodeConfig(name=name, data=str(data / name)).to_flat()
            LocalSuperNode(children, place, link.cwd, fleet, flat, installed, 0)
        link.wait_healthy()
        settings = commands.write_toml(place / "settings.toml", config.to_flat())
        app = place / "sent" / "app"
        app_archive.write_files(sent(), app)
        run = link.start("server", commands.submit(app, settings, None))
        wait_for(lambda: run.exit_code is not None, 300, every=0.5)

    def events(self, kind: str) -> list[Event]:
        return [e for e in read_history(self.run_dir / "history.jsonl") if e["event"] == kind]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def federation(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    data = write_prepared(tmp_path_factory.mktemp("data") / "data", nodes=len(RELEASES))
    with workplace() as place, ending_on_signals(), Children(logs) as children:
        yield Federation(children, place, data)


def test_the_older_protocol_is_served(federation: Federation) -> None:
    assert [e["ok"] for e in federation.events("round")] == [["node-0", "node-1"]] * 2
    summary = json.loads((federation.run_dir / "summary.json").read_text())
    assert summary["outcome"] == "completed"


def test_who_has_what_is_named_with_what_to_install(federation: Federation, logs: Path) -> None:
    told = {e["node"]: (e["lumos"], e["protocol"]) for e in federation.events("versions")}
    assert told == {name: RELEASES[name] for name in ("node-0", "node-1", "node-2")}
    notes = {node.name: node.note for node in status_of(federation.run_dir).nodes}
    assert [WANTED in notes[name] for name in told] == [True] * 3
    said = (logs / "server.log").read_text(errors="replace")
    assert "node node-2: refused: it has LUMOS 9.0, which speaks protocol" in said


def test_nodes_of_other_releases_ran_their_own(federation: Federation, logs: Path) -> None:
    for name in ("node-0", "node-1", "node-2"):
        app = app_archive.digest(imagined_release(*RELEASES[name]))
        unpacked = [path.name for path in (federation.place / name / "apps").iterdir()]
        assert [folder.split(".")[1] for folder in unpacked] == [app]
        said = (logs / f"{name}.log").read_text(errors="replace")
        own = f"this node works for it with its own, {RELEASES[name][0]}"
        assert f"is of a server with LUMOS {SERVER[0]}; {own}" in said
    assert list(federation.place.glob("node-*/ran")) == []


def test_a_changed_app_of_the_same_release_stays_foreign(
    federation: Federation, logs: Path
) -> None:
    said = (logs / "server.log").read_text(errors="replace")
    assert "node node-3: refused: it answers with error 'foreign-app'" in said
    assert "client_app/client.py differs" in (logs / "node-3.log").read_text(errors="replace")
    assert list((federation.place / "node-3").glob("apps/*")) == []
