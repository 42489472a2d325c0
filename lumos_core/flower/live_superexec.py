"""A program that runs Flower's SuperExec and stays responsible for the processes that it starts.

Flower 1.39's SuperExec starts a process for a task and forgets it:

* If the process dies, the task is given up when it has sent no sign of life for a minute, and so
  long the server waits for the node. Here the SuperExec reports the death at once.
* A task that was claimed but not begun within half a minute is started a second time, and on a slow
  machine a third time, each making the others slower. Here the claim is renewed as long as the
  process is starting.
* It starts as many processes as there are tasks. Here at most ``PLACES`` are at work at a time;
  other tasks wait.
* A process that hangs stays for ever. Here it is ended when its task has been given up.
* It ends, and with it the processes that it started, as soon as a question for a task is answered
  by an error of the server, such as that of a full disk. Here it asks again, for a minute.

It also writes a sign of life of its own: see :func:`beat`. The names of Flower are changed only in
the version that this module was written for, and only if they are as expected; otherwise a warning
is logged, and the SuperExec runs as it is. It is started by its path, so it imports nothing but
Flower:

    python -P live_superexec.py flower-superexec ARGUMENT…
"""

import importlib
import logging
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

PROGRAM = "flower-superexec"
FLOWER = "1.39."
PLACES = 4
LOST = "lumos: the process of this task has ended"  # failed_tasks.py looks for it
ASK_SECONDS = 5.0  # between two questions about a task
SURELY_STARTING = 60.0  # seconds after its start in which a claim is renewed in any case
MAYBE_STARTING = 300.0  # and if the process uses the processor
GRACE_SECONDS = 5.0  # for a process whose task has been given up
LONGEST_PAUSE = 15.0  # before it is reported that one more process has ended at once
REQUEST_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # with a server that answers by errors
ERROR_SECONDS = 0.5  # between two questions meanwhile
_UNAUTHORIZED = 401
_SERVER_ERROR = 500

_RUN = "flwr.supercore.superexec.run_superexec"
_SUBPROCESS = "flwr.supercore.superexec.executor.subprocess_executor"
_CLIENT, _MESSAGES = "RuntimeHttpClient", "flwr.proto.runtime_pb2"


def program(path: str) -> list[str]:
    """The beginning of the command for a SuperExec. A program that is not beside this Python may
    belong to another Flower, and runs as it is."""
    if Path(path).parent != Path(sys.executable).parent:
        return [path]
    return [sys.executable, "-P", str(Path(__file__).absolute()), Path(path).name]


def install_in(folder: Path) -> None:
    """Put a program of this name in a folder, for a SuperLink or SuperNode that starts its
    SuperExec by name: the folder has to come first on its PATH."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    script = folder / PROGRAM
    script.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -P '{Path(__file__).absolute()}' {PROGRAM} \"$@\"\n"
    )
    script.chmod(0o700)


class Task:
    """A task and its process.

    Args:
        spec: what Flower wants to be started.
        process: what was started.
        ask: sends a request about the task: ``"renew"`` its claim, ``"ask"`` whether it is still
            claimed, report that its process was ``"lost"``; returns False if it is not claimed any
            more.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        spec: Any,
        process: "subprocess.Popen[bytes]",
        ask: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.process = spec, process
        self._ask, self._clock = ask, clock
        self._begin = self._asked = clock()
        self._used = 0.0
        self._given_up: float | None = None

    def look(self) -> int | None:
        """Renew the claim if it is due, end the process if its task has been given up; returns the
        process's exit code once it has ended."""
        code = self.process.poll()
        now = self._clock()
        if code is not None:
            return code
        if self._given_up is not None:
            if now - self._given_up > 2 * GRACE_SECONDS:
                self.process.kill()
            elif now - self._given_up > GRACE_SECONDS:
                self.process.terminate()
        elif now - self._asked >= ASK_SECONDS:
            self._asked = now
            if not self._ask("renew" if self._is_starting(now) else "ask"):
                self._given_up = now
        return None

    def lost(self) -> None:
        """Report that the process has ended without a result."""
        self._ask("lost")

    def _is_starting(self, now: float) -> bool:
        """Whether the process may not have come so far that it renews the claim itself."""
        before, self._used = self._used, cpu_seconds(self.process.pid)
        age = now - self._begin
        return age < SURELY_STARTING or (age < MAYBE_STARTING and self._used > before)


class Watched:
    """One of Flower's executors, and the tasks that it has started.

    Args:
        executor: Flower's.
        started: the processes that it has started, which it adds to.
        asking: makes the function of a task that sends requests about it.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        executor: Any,
        started: "list[subprocess.Popen[bytes]]",
        asking: Callable[[Any], Callable[[str], bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor, self._started, self._asking = executor, started, asking
        self._clock = clock
        self._tasks: list[Task] = []
        self._dead: list[tuple[float, Task]] = []  # when to report it
        self._in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def get_eligible_capacity(self, types: Any, **options: Any) -> Any:
        """What may be started now: nothing, if enough are at work."""
        if len(self._tasks) >= PLACES:
            return set(), set()
        return self._executor.get_eligible_capacity(types, **options)

    def launch(self, spec: Any) -> Any:
        """Start a task."""
        self._started.clear()
        result = self._executor.launch(spec)
        self._tasks += [
            Task(spec, process, self._asking(spec), self._clock) for process in self._started
        ]
        return result

    def reconcile(self) -> None:
        """Look after all tasks; Flower calls this before it asks for another one."""
        beat()
        self._executor.reconcile()
        now = self._clock()
        for task in list(self._tasks):
            code = task.look()
            if code is not None:
                self._tasks.remove(task)
                self._ended(task, code, now)
        for due, task in list(self._dead):
            if now >= due:
                self._dead.remove((due, task))
                task.lost()

    def _ended(self, task: Task, code: int, now: float) -> None:
        if code == 0:
            self._in_a_row = 0
            return
        # A process that cannot even begin must not be started at every look.
        pause = min(2.0**self._in_a_row - 1, LONGEST_PAUSE)
        self._in_a_row = min(self._in_a_row + 1, 10)
        log.warning("the process of task %s has ended with code %s", task.spec.task_id, code)
        self._dead.append((now + pause, task))


class Patience:
    """Asks for tasks, and takes an error of the server for the answer that there is none, until the
    server has answered with nothing but errors for too long.

    Args:
        acquire: sends the question; raises an error that says the ``response``'s status.
        nothing: makes the answer that there is no task.
        clock, sleep: replaced in tests.
    """

    def __init__(
        self,
        acquire: Callable[[Any], Any],
        nothing: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._acquire, self._nothing = acquire, nothing
        self._clock, self._sleep = clock, sleep
        self._errors_since: float | None = None

    def __call__(self, request: Any) -> Any:
        try:
            answer = self._acquire(request)
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status < _SERVER_ERROR or not self._may_pass():
                raise
            self._sleep(ERROR_SECONDS)
            return self._nothing()
        self._errors_since = None
        return answer

    def _may_pass(self) -> bool:
        now = self._clock()
        if self._errors_since is None:
            self._errors_since = now
            log.warning("the server answers with errors; asking again")
        return now - self._errors_since < PATIENCE_SECONDS


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, in clock ticks; 0 if it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(int(fields[11]) + int(fields[12]))
    except (OSError, ValueError, IndexError):
        return 0.0


def beat() -> None:
    """Write a sign of life, if somebody waits for it (``sign_of_life.py``)."""
    _life["beat"]()


_life: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("sign_of_life.py")))


def install() -> bool:
    """Make these changes in this process; returns whether it was done."""
    run, module = importlib.import_module(_RUN), importlib.import_module(_SUBPROCESS)
    if not version("flwr").startswith(FLOWER):
        return _left(f"this is for Flower {FLOWER}*, found {version('flwr')}")
    if not callable(getattr(run, "get_executor", None)) or (
        getattr(module, "subprocess", None) is not subprocess
    ):
        return _left("it does not start processes as it did")
    started: list[subprocess.Popen[bytes]] = []

    def popen(*args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(*args, **kwargs)
        started.append(process)
        return process

    get_executor = run.get_executor
    setattr(module, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))  # noqa: B010
    setattr(  # noqa: B010
        run, "get_executor", lambda *a, **k: Watched(get_executor(*a, **k), started, _requests)
    )
    return ask_again(run)


def ask_again(run: Any) -> bool:
    """Let the SuperExec outlive errors of the server, by changing the client that its module uses;
    returns whether it was done."""
    client, messages = getattr(run, _CLIENT, None), importlib.import_module(_MESSAGES)
    if client is None or not callable(getattr(client, "AcquireTask", None)):
        return _left("it does not ask for tasks as it did")

    class Patient(client):  # type: ignore[misc, valid-type]
        """The client, with patience."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.AcquireTask = Patience(super().AcquireTask, messages.AcquireTaskResponse)

    setattr(run, _CLIENT, Patient)
    return True


def _requests(spec: Any) -> Callable[[str], bool]:
    """A function that sends requests about a task, with the task's token."""

    def ask(what: str) -> bool:
        httpx = importlib.import_module("httpx")
        try:
            _send(spec, what)
        except httpx.HTTPStatusError as error:
            return bool(error.response.status_code != _UNAUTHORIZED)
        except Exception as error:  # whom it asks may be in trouble, or gone
            log.debug("could not ask about a task (%s)", type(error).__name__)
        return True

    return ask


def _send(spec: Any, what: str) -> None:
    runtime = importlib.import_module("flwr.supercore.runtime")
    interceptors = importlib.import_module("flwr.supercore.interceptors")
    messages = importlib.import_module(_MESSAGES)
    certificate = spec.root_certificates_path
    client = runtime.RuntimeHttpClient.from_server_address(
        spec.runtime_api_address,
        spec.insecure,
        Path(certificate).read_bytes() if certificate else None,
        [
            interceptors.RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            interceptors.RuntimeTokenHttpInterceptor(spec.token),
        ],
    )
    with suppress(AttributeError):
        client._client.timeout = REQUEST_SECONDS
    try:
        if what == "renew":
            client.SendTaskHeartbeat(messages.SendTaskHeartbeatRequest())
        elif what == "lost":
            client.PushTaskOutput(messages.PushTaskOutputRequest(sub_status="failed", details=LOST))
        else:  # for an object that is not there: the answer tells whether the token is valid
            pulled = importlib.import_module("flwr.proto.message_pb2")
            client.PullObject(pulled.PullObjectRequest(object_id="none"))
    finally:
        client.close()


def _left(reason: str) -> bool:
    log.warning("the SuperExec does not look after its processes: %s", reason)
    return False


def main() -> None:
    (entry,) = entry_points(group="console_scripts", name=sys.argv[1])
    run = entry.load()
    install()
    sys.argv = sys.argv[1:]
    sys.exit(run())


if __name__ == "__main__":
    main()
