"""A node's SuperExec starts ClientApps of LUMOS and nothing else."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumos_core.flower import commands, gated_clientapp, gated_superexec, preload_stub

starter = importlib.import_module(gated_superexec._SUBPROCESS)
plugins = importlib.import_module(gated_superexec._PLUGIN)
constants = importlib.import_module("flwr.supercore.constant")
types = importlib.import_module("flwr.supercore.superexec.executor.types")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "subprocess", starter.subprocess)
    kind = plugins.AutoExecPlugin
    monkeypatch.setattr(kind, "supported_task_types", kind.supported_task_types)


def spec(kind: Any) -> Any:
    return types.ExecutionSpec(
        task_type=kind, runtime_api_address="127.0.0.1:1", token="t", insecure=True,
        root_certificates_path=None, runtime_dependency_install=False, parent_pid=None,
        suppress_output=True, task_id=5,
    )  # fmt: skip


def test_a_clientapp_is_started_wherever_the_path_leads(
    only: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[list[str]] = []

    def popen(command: list[str], **options: object) -> None:
        started.append(command)

    own = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    monkeypatch.setattr(starter, "subprocess", own)
    monkeypatch.setenv(gated_superexec.PRELOADED, "")
    assert gated_superexec.only_clientapps()
    starter.SubprocessExecutor().launch(spec(constants.TaskType.CLIENT_APP))
    monkeypatch.setenv(gated_superexec.PRELOADED, str(tmp_path))
    starter.SubprocessExecutor().launch(spec(constants.TaskType.CLIENT_APP))
    direct, stub = started
    assert direct[:4] == [sys.executable, "-P", gated_clientapp.__file__, "flwr-clientapp"]
    assert stub[:4] == [sys.executable, "-IS", preload_stub.__file__, "flwr-clientapp"]
    assert direct[4:] == stub[4:]
    assert direct[-3:] == ["--token", "t", "--insecure"]


@pytest.mark.parametrize("kind", [t for t in constants.TaskType if t != "flwr-clientapp"])
def test_no_other_program_is_started(
    kind: Any, only: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / str(kind)
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gated_superexec.only_clientapps()
    with pytest.raises(PermissionError, match="starts nothing but flwr-clientapp"):
        starter.SubprocessExecutor().launch(spec(kind))
    plugin = plugins.AutoExecPlugin("127.0.0.1:1", True, None, executor=None)
    assert plugin.supported_task_types == {"flwr-clientapp"}, "none is asked for"
    task = importlib.import_module("flwr.proto.task_pb2").Task(type=str(kind), task_id=5)
    assert "Unknown task type" in plugin.launch_task("t", task).message
    assert not (tmp_path / "ran").exists()


def test_where_flower_is_another_one_nothing_is_started(
    only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gated_superexec, "version", lambda name: "1.39.1")
        assert not gated_superexec.only_clientapps()
    monkeypatch.setattr(plugins.AutoExecPlugin, "supported_task_types", frozenset({"more"}))
    assert not gated_superexec.only_clientapps()


def test_the_program_ends_where_it_cannot_be_sure(tmp_path: Path) -> None:
    code = (
        "import importlib.metadata as m, sys, runpy\n"
        "found = m.version\n"
        "m.version = lambda name: '1.40.0' if name == 'flwr' else found(name)\n"
        f"sys.argv = ['x', {gated_superexec.PROGRAM!r}, '--insecure']\n"
        f"runpy.run_path({gated_superexec.__file__!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == gated_superexec.UNSAFE, done.stderr
    assert "found 1.40.0" in done.stderr
    assert "nothing is started" in done.stderr


def test_the_command_runs_flowers_superexec_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "flwr.py").write_text("raise SystemExit('the wrong flwr')")
    done = subprocess.run(
        [*gated_superexec.command(), "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "1.39" in done.stdout, done.stderr
    assert commands.node_superexec(9, tmp_path)[:4] == gated_superexec.command()
