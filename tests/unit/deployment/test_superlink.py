"""A SuperLink from its start to a summary, with programs that stand in for Flower's."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from flower_programs import FlowerPrograms

from lumos_core.config import RunConfig
from lumos_core.deployment import follow
from lumos_core.deployment.follow import RunLostError, Watch
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Children
from lumos_core.runs.summary import RunSummary


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_lost_run_is_submitted_again_to_the_same_superlink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_dir: Path
) -> None:
    monkeypatch.setattr(follow, "SUMMARY_SECONDS", 0.2)
    script = ["event=a", "event=b event=c completed"]
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", run_dir, script)
    told: list[Any] = []
    config = RunConfig(run_dir=str(run_dir), seed=5)
    with workplace() as place, Children(run_dir / "logs") as children:
        [control] = commands.free_ports(1)
        link = SuperLink(children, place, config, control, None, variables={"ADDED": "yes"})
        link.wait_healthy()
        assert (link.environment["ADDED"], list(link.cwd.iterdir())) == ("yes", [])
        with pytest.raises(RunLostError, match=r"without a result; .*server\.log"):
            link.run(run_dir, Watch(told.append), virtual_nodes=3)
        (run_dir / "history.jsonl").unlink()  # a resumed run writes it anew
        summary = link.run(run_dir, Watch(told.append), virtual_nodes=3)
        assert link.process.exit_code is None
        settings = tomllib.loads((place / "run.toml").read_text())
    assert link.process.exit_code is not None
    assert not place.exists()
    assert summary == RunSummary.read(run_dir / "summary.json")
    assert [event["event"] for event in told] == ["a", "b", "c"]
    assert RunConfig.from_flat(settings) == config
    assert len(programs.submitted) == 2
    assert all("num-supernodes=3" in arguments for arguments in programs.submitted)


def test_a_superlink_that_ends_at_once_is_named_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_dir: Path
) -> None:
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", run_dir, [])
    program = programs.folder / "flower-superlink"
    program.write_text("#!/bin/sh\necho port in use\nexit 3\n")
    with workplace() as place, Children(run_dir / "logs") as children:
        link = SuperLink(children, place, RunConfig(), 1, None)
        with pytest.raises(FederationError, match=r"superlink ended with exit code 3; .*\nport in"):
            link.wait_healthy()
