"""What a SuperExec does about the processes that it has started."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from lumos_core.flower import failed_tasks, live_superexec, preload_stub
from lumos_core.flower.live_superexec import PATIENCE_SECONDS, PLACES, Patience, Task, Watched


class Process:
    """A process that ends when the test says so, or when it is killed."""

    pid = 1

    def __init__(self) -> None:
        self.code: int | None = None
        self.signals: list[str] = []

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.signals.append("terminate")

    def kill(self) -> None:
        self.signals.append("kill")
        self.code = -signal.SIGKILL


class Flowers:
    """Flower's executor."""

    def __init__(self, started: list[Any]) -> None:
        self.started, self.processes = started, list[Process]()

    def get_eligible_capacity(self, types: Any, **options: Any) -> Any:
        return types, {"some"}

    def launch(self, spec: Any) -> str:
        self.processes.append(Process())
        self.started.append(self.processes[-1])
        return "accepted"

    def reconcile(self) -> None:
        pass

    def close(self) -> str:
        return "closed"


class Scene:
    """An executor with a clock, and everything that is asked about tasks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asked, self.claimed, self.used = 0.0, list[tuple[int, str]](), True, 0.0
        monkeypatch.setattr(live_superexec, "cpu_seconds", lambda pid: self.used)
        started: list[Any] = []
        self.flowers = Flowers(started)
        self.executor = Watched(self.flowers, started, self._asking, lambda: self.now)

    def _asking(self, spec: Any) -> Any:
        def ask(what: str) -> bool:
            self.asked.append((spec.task_id, what))
            return self.claimed

        return ask

    def launch(self, task: int) -> Process:
        assert self.executor.launch(SimpleNamespace(task_id=task)) == "accepted"
        return self.flowers.processes[-1]

    def after(self, seconds: float) -> list[tuple[int, str]]:
        """What is asked within so many seconds, looking every second."""
        self.asked.clear()
        for _ in range(round(seconds)):
            self.now += 1
            self.executor.reconcile()
        return list(self.asked)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_death_is_reported_at_once_and_an_end_is_not(scene: Scene) -> None:
    first, second = scene.launch(1), scene.launch(2)
    first.code, second.code = -signal.SIGKILL, 0
    assert scene.after(1) == [(1, "lost")]
    assert scene.after(60) == []


def test_what_cannot_even_begin_is_reported_later_each_time(scene: Scene) -> None:
    waited = []
    for number in range(7):
        scene.launch(number).code = 1
        begin = scene.now
        while not scene.after(1):
            assert scene.now < begin + 60
        waited.append(round(scene.now - begin) - 1)
    assert waited == [0, 1, 3, 7, 15, 15, 15]
    scene.launch(8).code = 0
    scene.after(1)
    scene.launch(9).code = 1
    assert scene.after(1) == [(9, "lost")]


def test_a_claim_is_renewed_while_its_process_is_starting(scene: Scene) -> None:
    """A process that uses the processor may be importing, on a slow machine for minutes; one that
    does not is not."""
    scene.launch(1)
    assert {what for _, what in scene.after(59)} == {"renew"}
    found = []
    for _ in range(20):
        scene.used += 1
        found += scene.after(5)
    assert {what for _, what in found} == {"renew"}
    scene.after(5)
    assert {what for _, what in scene.after(30)} == {"ask"}
    scene.now += 300
    scene.used += 1
    assert {what for _, what in scene.after(30)} == {"ask"}


def test_no_request_of_its_own_keeps_a_hung_process_alive(scene: Scene) -> None:
    process = scene.launch(1)
    scene.after(100)
    scene.claimed = False  # given up, as it has sent no sign of life itself
    assert scene.after(5) == [(1, "ask")]
    assert process.signals == []  # it may be about to end
    scene.after(6)
    assert process.signals[0] == "terminate"
    scene.after(6)
    assert process.signals[-1] == "kill"


def test_no_more_than_a_few_are_at_work(scene: Scene) -> None:
    processes = [scene.launch(n) for n in range(PLACES)]
    assert scene.executor.get_eligible_capacity({"app"}) == (set(), set())
    processes[0].code = 0
    scene.after(1)
    assert scene.executor.get_eligible_capacity({"app"}, insecure=True) == ({"app"}, {"some"})


class Server:
    """Answers questions for tasks: with a status, or with a task if that is 200."""

    def __init__(self) -> None:
        self.status, self.now, self.slept = 200, 0.0, list[float]()

    def acquire(self, request: str) -> str:
        if self.status != 200:
            response = httpx.Response(self.status, request=httpx.Request("POST", "http://server"))
            response.raise_for_status()
        return f"a task for {request}"

    def patience(self) -> Patience:
        return Patience(self.acquire, lambda: "nothing", lambda: self.now, self.slept.append)


def test_an_error_of_the_server_is_no_task_and_is_asked_about_again() -> None:
    server = Server()
    ask = server.patience()
    assert ask("me") == "a task for me"
    for trouble in range(2):
        server.status = 500
        for _ in range(5):
            assert ask("me") == "nothing"
            server.now += PATIENCE_SECONDS / 5 - 0.1
        server.status = 200
        assert ask("me") == "a task for me", trouble  # and then patience begins anew
    assert server.slept == [live_superexec.ERROR_SECONDS] * 10


@pytest.mark.parametrize(("status", "after"), [(500, PATIENCE_SECONDS), (401, 0.0), (403, 0.0)])
def test_an_error_that_stays_and_a_refusal_are_raised(status: int, after: float) -> None:
    server = Server()
    server.status = status
    ask = server.patience()
    if after:
        assert ask("me") == "nothing"
    server.now += after
    with pytest.raises(httpx.HTTPStatusError):
        ask("me")


def test_the_installed_flowers_client_asks_with_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("flwr.supercore.superexec.run_superexec")
    monkeypatch.setattr(run, "RuntimeHttpClient", run.RuntimeHttpClient)
    monkeypatch.setattr(live_superexec, "ERROR_SECONDS", 0.0)
    assert live_superexec.ask_again(run)
    client = run.RuntimeHttpClient.from_server_address("127.0.0.1:1", True, None, [])
    answers = iter([500, 200])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(next(answers), request=request)

    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    messages = importlib.import_module("flwr.proto.runtime_pb2")
    assert not client.AcquireTask(messages.AcquireTaskRequest()).HasField("task")
    assert next(answers, None) == 200
    client.close()


def test_everything_else_is_flowers(scene: Scene) -> None:
    assert scene.executor.close() == "closed"


def test_processor_time_of_a_process() -> None:
    assert live_superexec.cpu_seconds(2**22 + 1) == 0.0
    code = "t = 0\nwhile True: t += 1"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        until = time.monotonic() + 30
        while not live_superexec.cpu_seconds(busy.pid) > 5:
            assert time.monotonic() < until
        busy.kill()


@pytest.fixture
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module(live_superexec._RUN)
    module = importlib.import_module(live_superexec._SUBPROCESS)
    monkeypatch.setattr(run, "get_executor", run.get_executor)
    monkeypatch.setattr(module, "subprocess", module.subprocess)


@pytest.mark.usefixtures("_put_back")
def test_the_installed_flower_starts_processes_that_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = importlib.import_module("flwr.supercore.constant")
    program = tmp_path / constants.TASK_TYPE_TO_COMMAND[constants.TaskType.CLIENT_APP]
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert live_superexec.install()
    run = importlib.import_module(live_superexec._RUN)
    executor = run.get_executor(constants.ExecutorType.SUBPROCESS)
    types = importlib.import_module("flwr.supercore.superexec.executor.types")
    executor.launch(
        types.ExecutionSpec(
            task_type=constants.TaskType.CLIENT_APP, runtime_api_address="127.0.0.1:1",
            token="t", insecure=True, root_certificates_path=None,
            runtime_dependency_install=False, parent_pid=None, suppress_output=True, task_id=5,
        )
    )  # fmt: skip
    [task] = executor._tasks
    assert isinstance(task, Task)
    assert task.process.wait(20) == 3


@pytest.mark.usefixtures("_put_back")
def test_another_flower_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module(live_superexec._RUN)
    before = run.get_executor
    monkeypatch.setattr(live_superexec, "version", lambda name: "1.40.0")
    assert not live_superexec.install()
    assert run.get_executor is before


def test_nobody_to_ask_is_no_answer_that_the_claim_is_gone() -> None:
    spec = SimpleNamespace(
        runtime_api_address="127.0.0.1:1", insecure=True, root_certificates_path=None, token="t"
    )
    for what in ("renew", "ask", "lost"):
        assert live_superexec._requests(spec)(what)


def test_a_superexec_is_found_by_its_name(tmp_path: Path) -> None:
    live_superexec.install_in(tmp_path / "bin")
    done = subprocess.run(
        [tmp_path / "bin" / live_superexec.PROGRAM, "--version"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "1.39" in done.stdout + done.stderr, done.stderr
    beside = Path(sys.executable).parent / live_superexec.PROGRAM
    assert live_superexec.program(str(beside))[1] == "-P"
    assert live_superexec.program("/elsewhere/flower-superexec") == ["/elsewhere/flower-superexec"]


def test_both_sides_say_the_same() -> None:
    assert live_superexec.LOST == failed_tasks.LOST


def test_a_superexec_and_its_stubs_agree_on_the_places() -> None:
    """Programs that are loaded by their paths cannot share a constant."""
    assert preload_stub.PLACES == PLACES
