"""One child of several is ended, and no other."""

import os
import sys
import time
from pathlib import Path

import psutil

from lumos_core.processes.children import Child, Children

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}"


def start(children: Children, name: str, code: str, folder: Path) -> tuple[Child, psutil.Process]:
    """A child and the process that it started."""
    command = [sys.executable, "-S", "-c", code]
    child = children.start(name, command, environment=os.environ, cwd=folder)
    until = time.monotonic() + 20
    while "ready" not in child.last_lines():
        assert time.monotonic() < until, "the child never started"
        time.sleep(0.02)
    [grandchild] = psutil.Process(child.process.pid).children()
    return child, grandchild


def ends(process: psutil.Process) -> bool:
    """Whether it has ended, or does so at once: who is killed takes a moment."""
    gone, _ = psutil.wait_procs([process], 5)
    return bool(gone) or process.status() == psutil.STATUS_ZOMBIE


def test_one_ends_with_everything_it_started_and_the_others_go_on(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        one, below = start(children, "one", FAMILY, tmp_path)
        other, _ = start(children, "other", FAMILY, tmp_path)
        children.stop_one(one)
        assert one.exit_code is not None
        assert ends(below)
        assert other.exit_code is None
    assert other.exit_code is not None


def test_one_that_will_not_end_is_killed(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        one, below = start(children, "one", STUBBORN, tmp_path)
        children.stop_one(one, grace=0.3)
        assert one.exit_code == -9
        assert ends(below)


def test_a_program_is_found_among_descendants(tmp_path: Path) -> None:
    program = tmp_path / "flower-thing"
    program.write_text("import time; time.sleep(600)")
    code = f'import subprocess, sys\nsubprocess.run([sys.executable, "-S", {str(program)!r}])'
    with Children(tmp_path) as children:
        children.start(
            "x", [sys.executable, "-S", "-c", code], environment=os.environ, cwd=tmp_path
        )
        until = time.monotonic() + 20
        while not children.runs("flower-thing"):
            assert time.monotonic() < until, "the program was never found"
            time.sleep(0.02)
        assert not children.runs("flower")
