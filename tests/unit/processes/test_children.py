"""One child of several is ended, and no other; logs have a bound."""

import os
import re
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lumos_core.processes import bounded_logs
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


@pytest.mark.skipif(sys.platform != "linux", reason="only there orphans are adopted")
def test_what_outlives_its_parent_does_not_stay_as_a_zombie(tmp_path: Path) -> None:
    with Children(tmp_path / "others") as others, Children(tmp_path) as children:
        parent, orphan = start(children, "parent", FAMILY, tmp_path)
        lasting, _ = start(others, "lasting", FAMILY, tmp_path)
        parent.process.kill()
        until = time.monotonic() + 20
        while orphan.ppid() != os.getpid():
            assert time.monotonic() < until
            time.sleep(0.01)
        children.reap(others)
        assert orphan.is_running()
        for process in (orphan, psutil.Process(lasting.process.pid)):
            process.kill()
        while orphan.is_running():
            assert time.monotonic() < until
            if psutil.Process(lasting.process.pid).status() == psutil.STATUS_ZOMBIE:
                children.reap(others)
        assert (parent.exit_code, lasting.exit_code) == (-9, -9), "known to their own objects"


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


CHATTY = """
import sys, time
number = 0
while True:
    print("line", f"{number:09d}", flush=True)
    number += 1
    time.sleep(0.0005)
"""


def test_a_log_stays_below_its_bound_while_its_writer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_logs, "LOOK_SECONDS", 0.05)
    with Children(tmp_path, log_limit=3000) as children:
        command = [sys.executable, "-S", "-c", CHATTY]
        child = children.start("x", command, environment=os.environ, cwd=tmp_path)
        longest, until = 0, time.monotonic() + 30
        while not re.search(r"line 00000[4-9]\d{3}\n", child.last_lines()):
            longest = max(longest, child.log.stat().st_size)
            assert time.monotonic() < until, "the child is too slow"
            time.sleep(0.01)
        assert child.exit_code is None
        assert len(child.last_lines().splitlines()) == 15
    assert 0 < longest < 30_000  # of 60,000 that were written
    old, new = ((tmp_path / name).read_text().splitlines() for name in ("x.log.1", "x.log"))
    assert all(line.startswith("line 0") for line in [*old, *new[:-1]])
    numbers = [int(line.split()[1]) for line in [*old, *new[:-1]]]
    assert numbers == sorted(set(numbers))  # none twice; at a cut some may be lost


def test_a_log_that_is_too_long_is_cut_back_before_a_child_starts(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("of an earlier child\n" * 200)
    with Children(tmp_path, log_limit=1000) as children:
        child, _ = start(children, "x", FAMILY, tmp_path)
        assert child.begin == 0
        assert child.log.read_text() == "ready\n"
    assert set((tmp_path / "x.log.1").read_text().splitlines()) == {"of an earlier child"}


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    def new() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in before]

    with Children(tmp_path) as children:
        start(children, "x", FAMILY, tmp_path)
        assert "bounded-logs" in new()
        children.stop()
        start(children, "y", FAMILY, tmp_path)  # what was stopped can start children again
    assert "bounded-logs" not in new()
