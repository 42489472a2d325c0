"""What a supervised server does about what dies, with programs that stand in for Flower's."""

import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from flower_programs import FlowerPrograms
from rich.console import Console

from lumos_core.config import RunConfig
from lumos_core.deployment import (
    admission,
    folders,
    follow,
    live_admission,
    live_certificates,
    node_keys,
    renewal,
    server_supervisor,
    superlink,
)
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.hung_processes import Probe, SignOfLife
from lumos_core.deployment.registry import Registry
from lumos_core.deployment.server_supervisor import _EXECUTOR_STARTS, ServerOptions, serve
from lumos_core.deployment.supervision import Backoff
from lumos_core.errors import FederationError, NewerFileError
from lumos_core.flower.registered_nodes import RegisteredNode, RegisteredNodes
from lumos_core.runs.certificate_dates import CertificateDates


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServerOptions:
    monkeypatch.setattr(follow, "SUMMARY_SECONDS", 0.2)
    monkeypatch.setattr(Backoff, "pause", lambda self: 0.0)
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a", "b"], 9092, 30)
    return ServerOptions(
        kit=ServerKit.read(tmp_path / "deployment" / "server"),
        config=RunConfig(catalog="catalog.tsv"),
        run_dir=tmp_path / "run",
        state=tmp_path / "state",
        bind="127.0.0.1",
        control_port=0,
    )


def served(options: ServerOptions) -> tuple[dict[str, object], str]:
    console = Console(file=io.StringIO(), width=500)
    summary = serve(options, console)
    return summary, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_lost_serverapp_costs_a_submission_and_a_lost_superlink_a_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    """The second ServerApp's failure is that of its SuperLink, and no outcome of the run."""
    script = ["", "kill-superlink failed", "completed"]
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, script)
    summary, said = served(options)
    assert summary.outcome == "completed"
    assert len(programs.submitted) == 3
    lines = [line.partition(" ")[2].partition(" ")[2] for line in said.splitlines()]
    [again] = [n for n, line in enumerate(lines) if line.startswith("the ServerApp ended")]
    assert lines[again] == "the ServerApp ended without a result; submitting it again in 0 s"
    starts = [n for n, line in enumerate(lines) if "serving on 127.0.0.1:9092" in line]
    assert len(starts) == 2
    assert starts[0] < again < starts[1]
    assert "registered nodes: a, b" in lines[starts[0]]
    assert any("superlink ended with exit code -9" in line for line in said.splitlines())
    assert "starting everything again in 0 s" in lines
    registered = json.loads((options.state / "nodes.json").read_text())
    assert {n: entry["id"] for n, entry in registered["nodes"].items()} == {"a": "7", "b": "7"}


def test_a_lost_superexec_is_started_again_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    programs = FlowerPrograms(
        monkeypatch, tmp_path / "programs", options.run_dir, ["kill-superexec", "completed"]
    )
    summary, said = served(options)
    assert summary.outcome == "completed"
    assert len(programs.submitted) == 2
    assert said.count("serving on 127.0.0.1:9092") == 1
    assert "superexec ended with exit code -9" in said
    assert said.count("starting the SuperExec again in 0 s") == 1
    assert "starting everything again" not in said


def test_a_superexec_that_ends_again_and_again_costs_a_start_of_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    script = ["kill-superexec"] * (_EXECUTOR_STARTS + 1) + ["completed"]
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, script)
    summary, said = served(options)
    assert summary.outcome == "completed"
    assert len(programs.submitted) == len(script)
    assert said.count("starting the SuperExec again in 0 s") == _EXECUTOR_STARTS
    assert said.count("starting everything again in 0 s") == 1
    assert said.count("serving on 127.0.0.1:9092") == 2


def test_what_never_served_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, [])
    (programs.folder / "flower-superlink").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(FederationError, match="superlink ended with exit code 3"):
        served(options)
    assert programs.submitted == []


def test_pauses_grow_until_the_run_makes_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    pauses: list[int] = []

    def pause(self: Backoff) -> float:
        self._times += 1
        pauses.append(self._times)
        return 0.0

    monkeypatch.setattr(Backoff, "pause", pause)
    script = ["", "", "event=progress", "", "kill-superlink", "kill-superlink", "completed"]
    FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, script)
    summary, _ = served(options)
    assert summary.outcome == "completed"
    of_the_serverapp, of_the_superlink = pauses[:4], pauses[4:]
    assert of_the_serverapp == [1, 2, 1, 2]
    assert of_the_superlink == [1, 2]


def test_a_superlink_that_does_not_answer_costs_a_start_of_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    monkeypatch.setattr(superlink, "Probe", partial(Probe, limit=1.0, every=0.05))
    script = ["event=a stop-superlink wait", "completed"]
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, script)
    summary, said = served(options)
    assert summary.outcome == "completed"
    assert len(programs.submitted) == 2
    assert said.count("serving on 127.0.0.1:9092") == 2
    assert "the SuperLink runs, but has shown no sign of life for 30 s; it was ended" in said


def test_a_superexec_without_a_sign_of_life_is_started_again_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    monkeypatch.setattr(server_supervisor, "SignOfLife", partial(SignOfLife, limit=1.0))
    FlowerPrograms(
        monkeypatch, tmp_path / "programs", options.run_dir, ["stop-superexec", "completed"]
    )
    monkeypatch.setattr(follow, "SUMMARY_SECONDS", 3.0)
    summary, said = served(options)
    assert summary.outcome == "completed"
    assert said.count("serving on 127.0.0.1:9092") == 1
    assert "the SuperExec runs, but has shown no sign of life for 60 s; it was ended" in said
    assert said.count("starting the SuperExec again in 0 s") == 1


# ---------------------------------------------------------------- changes while it runs
def meanwhile(options: ServerOptions, *steps: Callable[[], object]) -> Thread:
    """Do this while the run goes on, one after another, each once the one before is true."""

    def follow() -> None:
        for step in steps:
            until = time.monotonic() + 60
            while not step() and time.monotonic() < until:
                time.sleep(0.05)
        summary = {"outcome": "completed", "reason": "", "rounds": 1, "best_round": 1, "test": {}}
        (options.run_dir / "summary.json").write_text(json.dumps(summary))

    thread = Thread(target=follow)
    thread.start()
    return thread


def registered(options: ServerOptions) -> list[str]:
    found = RegisteredNodes.read_if_sound(options.state / "nodes.json")
    return [] if found is None else sorted(found.nodes)


def once(change: Callable[[], object]) -> Callable[[], bool]:
    def step() -> bool:
        change()
        return True

    return step


def test_nodes_are_added_and_removed_while_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    monkeypatch.setattr(live_admission, "LOOK_SECONDS", 0.1)
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, ["wait"])
    public = node_keys.init(tmp_path / "owner", "c", None, None).public
    folder = options.kit.folder
    thread = meanwhile(
        options,
        lambda: programs.submitted,
        once(lambda: admission.add_node(folder, "c", public)),
        lambda: registered(options) == ["a", "b", "c"],
        once(lambda: admission.remove_node(folder, "a")),
        once(lambda: admission.remove_node(folder, "b")),
        lambda: registered(options) == ["c"],
        lambda: list(json.loads((options.run_dir / "config.json").read_text())["nodes"]) == ["c"],
    )
    _, said = served(options)
    thread.join()
    assert "c was added (SHA256:" in said
    assert "a was removed: its key is refused from now on" in said
    assert "1 nodes are registered, but the run needs min-replies = 2" in said
    assert said.count("serving on 127.0.0.1:9092") == 1
    assert len(programs.submitted) == 1


def test_a_renewed_certificate_costs_a_start_of_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    monkeypatch.setattr(live_certificates, "LOOK_SECONDS", 0.1)
    programs = FlowerPrograms(
        monkeypatch, tmp_path / "programs", options.run_dir, ["event=a wait", "wait"]
    )
    deployment = options.kit.folder.parent
    public = node_keys.init(tmp_path / "owner", "c", None, None).public

    def renew() -> None:
        admission.add_node(deployment, "c", public)  # the next start has it as well
        renewal.renew(deployment, renewal.Authority(deployment / "ca"))

    thread = meanwhile(
        options, lambda: programs.submitted, once(renew), lambda: len(programs.submitted) == 2
    )
    _, said = served(options)
    thread.join()
    assert said.count("serving on 127.0.0.1:9092") == 2
    assert "the server has a new certificate, valid for 825 days" in said
    assert "registered nodes: a, b, c" in said
    assert "starting everything again in" not in said  # without a pause
    days = CertificateDates.of_run(options.run_dir).days()
    assert 824 < days["server"] <= 825


def test_a_database_that_does_not_take_a_key_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    """As after a supervisor was killed between Flower's registration and its own note of it."""
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, ["completed"])
    options.state.mkdir()
    known = Registry(options.kit, options.state)
    known.record("a", RegisteredNode(id="7", key=known._digest("a")))
    known.database.write_bytes(b"x")
    flwr = programs.folder / "flwr"
    flwr.write_text(flwr.read_text().replace(
        'if sys.argv[1] == "supernode":',
        f"if pathlib.Path({str(known.database)!r}).exists():\n"
        '    sys.exit("Public key already in use")\nif sys.argv[1] == "supernode":',
    ))  # fmt: skip
    _, said = served(options)
    assert "node b could not be registered: Public key already in use" in said
    assert "registered nodes: a, b" in said
    assert registered(options) == ["a", "b"]


def test_a_new_database_that_does_not_take_a_key_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: ServerOptions
) -> None:
    programs = FlowerPrograms(monkeypatch, tmp_path / "programs", options.run_dir, [])
    (programs.folder / "flwr").write_text("#!/bin/sh\necho key is no key\nexit 1\n")
    with pytest.raises(FederationError, match="node a could not be registered: key is no key"):
        served(options)


def test_the_state_of_a_newer_server_is_refused_before_anything_starts(
    options: ServerOptions,
) -> None:
    options.state.mkdir()
    newer = {"kind": "server state", "version": 99, "lumos": "0.9.0"}
    (options.state / "folder.json").write_text(json.dumps(newer))
    with pytest.raises(NewerFileError, match=r"pip install lumos==0\.9\.0"):
        served(options)
    assert not options.run_dir.exists()
