"""Nodes of other releases under a server of this one, real processes: protocols decide, releases
are named, and no code that the server sent runs anywhere."""

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

pytestmark = pytest.mark.integration

RELEASES = {
    "node-0": (versions.own().lumos, PROTOCOL),
    "node-1": ("0.1.9", PROTOCOL - 1),
    "node-2": ("9.0", PROTOCOL + 2),
}


class Federation:
    """A server of this release and a node of each of three, after a run of two rounds."""

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
        app = commands.stage_app(place / "sent" / "app")
        run = link.start("server", commands.submit(app, settings, None))
        wait_for(lambda: run.exit_code is not None, 300, every=0.5)

    def events(self, kind: str) -> list[Event]:
        return [e for e in read_history(self.run_dir / "history.jsonl") if e["event"] == kind]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def federation(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    data = write_prepared(tmp_path_factory.mktemp("data") / "data", nodes=3)
    with workplace() as place, ending_on_signals(), Children(logs) as children:
        yield Federation(children, place, data)


def test_the_older_protocol_is_served(federation: Federation) -> None:
    assert [e["ok"] for e in federation.events("round")] == [["node-0", "node-1"]] * 2
    summary = json.loads((federation.run_dir / "summary.json").read_text())
    assert summary["outcome"] == "completed"


def test_who_has_what_is_named_with_what_to_install(federation: Federation, logs: Path) -> None:
    told = {e["node"]: (e["lumos"], e["protocol"]) for e in federation.events("versions")}
    assert told == {name: RELEASES[name] for name in ("node-1", "node-2")}
    wanted = f"pip install lumos=={versions.own().lumos}"
    notes = {node.name: node.note for node in status_of(federation.run_dir).nodes}
    assert wanted in notes["node-1"]
    assert wanted in notes["node-2"]
    assert notes["node-0"] == ""
    said = (logs / "server.log").read_text(errors="replace")
    assert "node node-2: refused: it has LUMOS 9.0, which speaks protocol" in said


def test_every_node_ran_its_own_release(federation: Federation, logs: Path) -> None:
    for name, release in RELEASES.items():
        app = app_archive.digest(imagined_release(*release))
        unpacked = [path.name for path in (federation.place / name / "apps").iterdir()]
        assert [folder.split(".")[1] for folder in unpacked] == [app]
    own = versions.own().lumos
    for name, (release, _) in list(RELEASES.items())[1:]:
        said = (logs / f"{name}.log").read_text(errors="replace")
        line = f"is of a server with LUMOS {own}; this node works for it with its own, {release}"
        assert line in said
