"""Whether a process that exists does its work: it is asked, or shows signs of life.

A process that is stopped, or waits for something that never comes, does not end by itself, so a
supervisor that only waits for its end waits for ever. Supervisors end such a process; then what
follows is what follows when it dies.
"""

import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

from lumos_core.flower import commands, sign_of_life
from lumos_core.processes.children import Child

LINK_SECONDS = 30.0  # without an answer of a SuperLink; one that is busy answers in a few
PROGRAM_SECONDS = 60.0  # without a sign of life of a SuperNode or SuperExec
PROBE_SECONDS = 2.0  # between two questions
ANSWER_SECONDS = 10.0
Clock = Callable[[], float]


class SignOfLife:
    """A file that a program changes as long as it works; see ``lumos_core/flower/sign_of_life.py``.

    Args:
        path: the file; one that is there already counts for nothing.
        limit: seconds without a change after which the program counts as hung.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self, path: Path, limit: float = PROGRAM_SECONDS, clock: Clock = time.monotonic
    ) -> None:
        self._path, self._limit, self._clock = path, limit, clock
        self._found = self._read()
        self._since = clock()
        self._seen = False

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of the program."""
        return {sign_of_life.SWITCH: str(self._path)}

    def hung(self) -> bool:
        """Whether the program has worked, and has not for too long. One that never showed a sign
        of life, such as another version of Flower, is not judged."""
        found, now = self._read(), self._clock()
        if found != self._found:
            self._found, self._since, self._seen = found, now, True
        return self._seen and now - self._since > self._limit

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""


class Probe:
    """Asks again and again, in a thread of its own; use it in a ``with`` block.

    Args:
        ask: whether there is an answer; has to return within a few seconds.
        limit: seconds without an answer after which what is asked counts as hung.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        ask: Callable[[], bool],
        limit: float = LINK_SECONDS,
        clock: Clock = time.monotonic,
        every: float = PROBE_SECONDS,
    ) -> None:
        self._ask, self._limit, self._clock, self._every = ask, limit, clock, every
        self._answered = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def hung(self) -> bool:
        """Whether there was no answer for too long."""
        return self._clock() - self._answered > self._limit

    def __enter__(self) -> Self:
        self._answered = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()  # the thread ends with its question: nobody waits for that

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._ask():
                self._answered = self._clock()
            self._stop.wait(self._every)


def link_answers(control_port: int, ca: Path | None = None) -> Callable[..., bool]:
    """A function that asks a SuperLink on this machine whether it is healthy.

    Args:
        control_port: its loopback port.
        ca: authority of its certificate; None for plain HTTP.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca is not None:
        context = ssl.create_default_context(cafile=str(ca))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    scheme = "http" if ca is None else "https"
    url = f"{scheme}://{commands.LOOPBACK}:{control_port}/health"

    def answers(timeout: float = ANSWER_SECONDS) -> bool:
        try:
            with opener.open(url, timeout=timeout):
                return True
        except (urllib.error.URLError, OSError):
            return False

    return answers


def end_hung(child: Child, what: str, seconds: float) -> str:
    """Kill a process that hangs; returns a line that says so."""
    child.process.kill()
    child.process.wait()
    return f"{what} runs, but has shown no sign of life for {seconds:g} s; it was ended"
