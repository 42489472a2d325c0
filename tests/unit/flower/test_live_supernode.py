"""The program around Flower's SuperNode: whatever ends the SuperNode ends the process."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from lumos_core.flower import commands, live_supernode

PROGRAM = """
import importlib.util, sys, threading, time
spec = importlib.util.spec_from_file_location("live_supernode", {path!r})
live = importlib.util.module_from_spec(spec)
spec.loader.exec_module(live)
threading.Thread(target=time.sleep, args=(600,)).start()  # as Flower's runtime API

def heartbeats():
    raise RuntimeError("not recognised")

def program():
    print("working")
    {body}

live.end(live.run(program))
"""


def ended(body: str) -> "subprocess.CompletedProcess[str]":
    """A program with a thread that stays, as it ends."""
    code = PROGRAM.format(path=live_supernode.__file__, body=body)
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", live_supernode.ENDED, "The SuperNode has stopped working"),
        ("raise ValueError('database is locked')", 1, "ValueError: database is locked"),
        ("sys.exit(1)", 1, ""),
        ("sys.exit('no such option')", 1, "no such option"),
        ("sys.exit()", 0, ""),
        ("raise KeyboardInterrupt", 130, ""),
        (
            "threading.Thread(target=heartbeats).start(); time.sleep(600)",
            live_supernode.ENDED,
            "RuntimeError: not recognised",
        ),
    ],
)
def test_the_process_ends_with_the_supernode(body: str, code: int, said: str) -> None:
    done = ended(body)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == "working\n"  # nothing that was written is lost


def test_the_command_runs_flowers_program_in_any_folder(tmp_path: Path) -> None:
    command = live_supernode.command("/somewhere/flower-supernode")
    (tmp_path / "flwr.py").write_text("raise SystemExit('the wrong flwr')")
    installed = commands.write_installed(tmp_path / "installed.zip")
    done = subprocess.run(
        [*command, "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **commands.approving(installed, "")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Flower version: 1.39" in done.stdout


def test_the_program_is_found_by_its_name() -> None:
    (entry,) = entry_points(group="console_scripts", name="flower-supernode")
    assert live_supernode.command(f"/bin/{entry.name}")[-1] == entry.name
