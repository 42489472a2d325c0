"""Child processes that end with their parent, however the parent ends.

Two mechanisms ensure this. :meth:`Children.stop` ends all of them in order, at the end of the
``with`` block, also on Ctrl-C, ``kill`` and a closed terminal (see :func:`ending_on_signals`); it
also finds descendants that are no longer below their parents. If the parent is killed with SIGKILL,
a guard process (:mod:`lumos_core.processes.guard`) kills them. Flower also ends the processes that
it started when their parent ends, but takes up to 20 seconds.

Children run for months and write much: :mod:`lumos_core.processes.bounded_logs` bounds their logs.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from lumos_core.errors import FederationError, reason_of
from lumos_core.processes import guard
from lumos_core.processes.bounded_logs import LIMIT_BYTES, BoundedLogs
from lumos_core.safe_files import older

GRACE_SECONDS = 4.0  # between SIGTERM and SIGKILL
_MARK = "LUMOS_PROCESS_GROUP"  # environment variable by which lost descendants are found
_PR_SET_CHILD_SUBREAPER = 36
_TAIL_BYTES = 256 * 1024  # of a log, in which its last lines are looked for
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Child:
    """A running child and the file that its output goes to, from the offset ``begin`` on."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    begin: int = 0

    @property
    def exit_code(self) -> int | None:
        """The child's exit code; None while it runs."""
        return self.process.poll()

    def last_lines(self, count: int = 15) -> str:
        """The end of the child's output, without colours; also of what was cut off the log."""
        lines = _tail(self.log)
        if len(lines) < count:
            lines = [*_tail(older(self.log)), *lines]
        return "\n".join(_ANSI.sub("", line) for line in lines[-count:])


class Children:
    """Starts children; ends all of them and their descendants on leaving the ``with`` block.

    Args:
        logs: folder for ``<name>.log``.
        grace: seconds between SIGTERM and SIGKILL, when the ``with`` block is left.
        log_limit: bytes of a log; what is beyond them goes to ``<name>.log.1``.
    """

    def __init__(
        self, logs: Path, grace: float = GRACE_SECONDS, log_limit: int = LIMIT_BYTES
    ) -> None:
        self._logs, self._grace = logs, grace
        self._bounded = BoundedLogs(log_limit)
        self._mark = uuid.uuid4().hex
        self._children: list[Child] = []
        self._guard: subprocess.Popen[str] | None = None

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], cwd: Path
    ) -> Child:
        """Start a child in a new process group; its output goes to ``<logs>/<name>.log``.

        Raises:
            FederationError: the program cannot be started.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        self._bounded.watch(log)
        with log.open("ab") as output:
            begin = output.tell()
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**environment, _MARK: self._mark},
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise FederationError(f"cannot start {command[0]}: {reason_of(error)}") from error
        child = Child(name, process, log, begin)
        self._children.append(child)
        self._tell_guard(str(process.pid))
        return child

    def runs(self, program: str) -> bool:
        """Whether a descendant runs a program of this name now."""
        for process in self._family():
            with suppress(psutil.Error, OSError):
                if any(Path(part).name == program for part in process.cmdline()[:3]):
                    return True
        return False

    def reap(self, *others: "Children") -> None:
        """Wait for descendants that have ended after whoever started them: they would stay as
        zombies. A supervisor calls this now and then, in the thread that starts other processes.

        Args:
            others: further children of this process.
        """
        if _somebody_has_ended():
            _reap_orphans(self._own().union(*(other._own() for other in others)))

    def stop_one(self, child: Child, grace: float = GRACE_SECONDS) -> None:
        """End one child and everything that it started."""
        family = _tree(child)
        for process in family:
            with suppress(psutil.Error):
                process.terminate()
        psutil.wait_procs([p for p in family if p.pid != child.process.pid], grace)
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(grace)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        child.process.wait()
        self._children.remove(child)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End every child and everything they started; returns when nothing is left."""
        with _undisturbed():
            family = self._family()
            for process in family:
                with suppress(psutil.Error):
                    process.terminate()
            self._wait(family, grace)
            for process in {*family, *self._family(), *self._strays()}:
                with suppress(psutil.Error):
                    process.kill()
            for child in self._children:
                _signal_group(child.process.pid, signal.SIGKILL)
            self._wait(family | self._strays(), max(grace, GRACE_SECONDS))  # else zombies stay
            _reap_orphans(self._own())
            self._children.clear()
            self._bounded.stop()
            self._dismiss_guard()

    def __enter__(self) -> Self:
        _adopt_orphans()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(self._grace)

    def _tell_guard(self, line: str) -> None:
        if self._guard is None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, self._mark],
                stdin=subprocess.PIPE,
                start_new_session=True,
                text=True,
            )
        if self._guard.stdin is not None:
            with suppress(BrokenPipeError):  # somebody killed the guard; stop() still works
                self._guard.stdin.write(line + "\n")
                self._guard.stdin.flush()

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._tell_guard("done")
            self._guard.communicate()
            self._guard = None

    def _wait(self, others: set[psutil.Process], seconds: float) -> None:
        """Wait until the children (only Popen may reap them) and ``others`` have ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            running = [c for c in self._children if c.exit_code is None]
            if not running and not any(_runs(process) for process in others):
                return
            time.sleep(0.05)

    def _own(self) -> set[int]:
        """Processes that only their Popen may wait for."""
        own = {child.process.pid for child in self._children}
        return own if self._guard is None else {*own, self._guard.pid}

    def _family(self) -> set[psutil.Process]:
        return {process for child in self._children for process in _tree(child)}

    def _strays(self) -> set[psutil.Process]:
        """Processes with our mark in their environment, whoever their parent is now."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark and _runs(process):
                    found.add(process)
        return found


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn Ctrl-C, ``kill`` and a closed terminal into exceptions, so that clean-up code runs.

    SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise SystemExit(128 + number). Only the
    main thread can set this; in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals: a second Ctrl-C must not interrupt the stopping, whose time is limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tail(log: Path) -> list[str]:
    """The last lines of a log that may be long; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _tree(child: Child) -> list[psutil.Process]:
    """A child and its descendants that still run."""
    with suppress(psutil.Error):
        process = psutil.Process(child.process.pid)
        return [process, *process.children(recursive=True)]
    return []


def _adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent has ended (Linux), so that it can
    reap them. The first process of a container often does not, and they would stay as zombies."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _somebody_has_ended() -> bool:
    """Whether any child of this process has ended and was not waited for: one system call, where
    looking for them reads about every process of the machine."""
    if not sys.platform.startswith("linux"):  # elsewhere no orphans are adopted
        return False
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # there is no child
        return False


def _reap_orphans(known: set[int]) -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if process.pid not in known and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
