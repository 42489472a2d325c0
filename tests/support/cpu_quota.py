"""A group of processes that gets only a part of a processor (Linux control groups)."""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PERIOD = 100_000  # microseconds
_ROOTS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))  # version 1, version 2


class Slow:
    """A group; what is started by :meth:`command` belongs to it.

    Args:
        folder: the group's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs ``argv`` in the group."""
        enter = f'echo $$ > {self._folder}/cgroup.procs && exec "$@"'
        return ["sh", "-c", enter, "sh", *argv]

    @property
    def throttled(self) -> int:
        """How many periods ended with the group waiting for the next."""
        for line in (self._folder / "cpu.stat").read_text().splitlines():
            if line.startswith("nr_throttled"):
                return int(line.split()[1])
        return 0

    def end(self) -> None:
        """Kill what is left, and remove the group."""
        for _ in range(50):
            pids = (self._folder / "cgroup.procs").read_text().split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.1)


@contextmanager
def slow_machine(cores: float) -> Iterator[Slow]:
    """A group that gets so many cores; skips the test where there can be none, and says why."""
    problem = "there are no control groups here"
    for root in _ROOTS:
        folder = root / f"lumos-{secrets.token_hex(3)}"
        quota = round(cores * PERIOD)
        limits = (("cpu.cfs_quota_us", f"{quota}"), ("cpu.max", f"{quota} {PERIOD}"))
        try:
            folder.mkdir()
        except OSError as error:
            problem = f"no control group can be made here: {error}"
            continue
        found = [(name, value) for name, value in limits if (folder / name).exists()]
        if not found:
            folder.rmdir()
            problem = f"{root} has no control of processor time"
            continue
        (folder / found[0][0]).write_text(found[0][1])
        group = Slow(folder)
        try:
            yield group
        finally:
            group.end()
        return
    pytest.skip(problem)
