"""Compose projects of the tests of containers."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCKER = Path(__file__).parents[2] / "docker"
IMAGE = "lumos:0.2.0"
RUN = "/state/run"
# A run in which nobody needs the language model, and rounds are short but many; with a single reply
# a round has not failed, whoever was killed.
QUICK = (
    "--method fedavg -c semantic-start=none -c local-epochs=1 -c dim=16 -c round-timeout=60 "
    "-c min-replies=1"
)

_KILL = """
import os, sys
found = []
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{name}/cmdline").read().split(chr(0))
    except OSError:
        continue
    if int(name) != os.getpid() and any(w.rpartition("/")[2] == sys.argv[1] for w in words):
        found.append(int(name))
for number in found:
    os.kill(number, 9)
print(len(found))
"""


def docker(*words: str, check: bool = True, seconds: float = 300.0) -> str:
    """The output of a docker command."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert not check or done.returncode == 0, f"docker {' '.join(words)}\n{done.stderr[-2000:]}"
    return done.stdout


class Project:
    """A compose project.

    Args:
        name: its name, which is a part of the names of its volumes.
        file: the compose file, below ``docker/``.
        variables: what an operator writes into ``.env``.
    """

    def __init__(self, name: str, file: str, variables: Mapping[str, str] | None = None) -> None:
        self.name, self._file = name, DOCKER / file
        self.variables = dict(variables or {})

    def compose(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """A ``docker compose`` command, whether it succeeds or not."""
        command = ["docker", "compose", "--ansi", "never", "-p", self.name, "-f", str(self._file)]
        environment = {**os.environ, **self.variables}
        return subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    def __call__(self, *words: str) -> str:
        """The output of a ``docker compose`` command that must succeed."""
        done = self.compose(*words)
        assert done.returncode == 0, f"{words}: {done.stderr[-3000:]}{self.logs()[-3000:]}"
        return done.stdout

    def logs(self, *services: str) -> str:
        return self.compose("logs", "--no-log-prefix", *services).stdout

    def id(self, service: str) -> str:
        return self("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.id(service)))[0]
        return found

    def state(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.inspect(service)["State"]
        return found

    def health(self, service: str) -> str:
        return str(self.state(service)["Health"]["Status"])

    def python(self, service: str, program: str, *words: str, check: bool = True) -> str:
        """The output of a Python program inside a running container."""
        command = ("exec", self.id(service), "python", "-c", program, *words)
        return docker(*command, check=check, seconds=60).strip()

    def kill_supervisor(self, service: str) -> None:
        """SIGKILL the command ``lumos`` of a container, which ends the container."""
        before = self.state(service)["StartedAt"]
        self.python(service, _KILL, "lumos", check=False)  # it ends with the container
        self.wait(lambda: bool(self.state(service)["StartedAt"] != before), "another start")

    def kill(self, service: str, program: str) -> None:
        """SIGKILL all processes of a program inside a container; there must be one."""
        assert int(self.python(service, _KILL, program)) > 0, f"no {program} in {service}"

    def kill_and_wait_for_connection(self, node: str, program: str) -> None:
        """SIGKILL a process of a node, and wait until the node is connected anew."""

        def connection() -> dict[str, str]:
            found: dict[str, str] = json.loads(
                docker("exec", self.id(node), "cat", "/state/connection.json")
            )
            return found

        before = connection()
        self.kill(node, program)

        def connected_anew() -> bool:
            now = connection()
            return now["state"] == "connected" and now["since"] != before["since"]

        self.wait(connected_anew, f"new connection of {node}")

    def history(self) -> list[dict[str, Any]]:
        """The events that the run's history holds now."""
        text = docker("exec", self.id("server"), "cat", f"{RUN}/history.jsonl", check=False)
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def rounds(self) -> list[int]:
        """Numbers of the finished rounds, in the order of the history."""
        return [int(event["round"]) for event in self.history() if event["event"] == "round"]

    def ask_for_two_more_rounds(self) -> int:
        """Stop the server, and start it with other options; returns how many rounds it will do."""
        self("stop", "server")
        with tempfile.TemporaryDirectory() as place:
            self("cp", f"server:{RUN}/history.jsonl", place)
            text = Path(place, "history.jsonl").read_text("utf-8")
        events = [json.loads(line) for line in text.splitlines()]
        rounds = 2 + max(int(event["round"]) for event in events if event["event"] == "round")
        self.variables["LUMOS_SERVER_OPTIONS"] = f"--rounds {rounds} {QUICK}"
        self("up", "--detach")
        return rounds

    def wait_for_round(self, number: int, seconds: float = 180.0) -> None:
        self.wait(lambda: max(self.rounds(), default=0) >= number, f"round {number}", seconds)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
        """Wait until a condition holds; the error shows the end of all logs."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"no {what} in {seconds} s\n{self.logs()[-5000:]}"
            time.sleep(0.5)

    def wait_for_end(self, seconds: float = 300.0) -> int:
        """The exit code of the server's container."""

        def ended() -> bool:
            return str(self.state("server")["Status"]) == "exited"

        self.wait(ended, "end of the run", seconds)
        return int(self.state("server")["ExitCode"])

    def remove(self) -> None:
        self.compose("down", "--volumes", "--timeout", "5")
