"""Several hosts on one: network namespaces of Linux, joined by a bridge in a namespace of its own.

Needs root (or the capabilities to make namespaces) and iproute2. Nothing of the machine's own
network is touched, and nothing in a namespace reaches beyond the bridge.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_PREFIX = "10.77.0."


class Network:
    """Hosts ``10.77.0.1``, ``10.77.0.2`` … in the order of their names; use it in a ``with`` block.

    Args:
        hosts: their names.
    """

    def __init__(self, *hosts: str) -> None:
        self._id = f"lt{secrets.token_hex(3)}"
        self.hosts = hosts
        self._made: list[str] = []

    def address(self, host: str) -> str:
        return f"{_PREFIX}{self.hosts.index(host) + 1}"

    def on(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` on a host."""
        return ["ip", "netns", "exec", self._name(host), *argv]

    def start(
        self, host: str, argv: Sequence[str], cwd: Path, log: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a program on a host, its output in a file."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.on(host, argv),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
                start_new_session=True,
            )

    def run(
        self, host: str, argv: Sequence[str], cwd: Path, seconds: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program on a host; its output is in ``stdout``."""
        return subprocess.run(
            self.on(host, argv),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
            check=False,
        )

    def listening(self, host: str) -> set[tuple[str, int]]:
        """Addresses and ports of a host's listening TCP sockets."""
        lines = self.run(host, ["ss", "-H", "-ltn"], Path("/")).stdout.splitlines()
        found = (line.split()[3].rpartition(":") for line in lines)
        return {(address.strip("[]"), int(port)) for address, _, port in found}

    def pids(self, host: str) -> list[int]:
        """The processes that run on a host."""
        return [int(pid) for pid in _pids(self._name(host))]

    def plug(self, host: str, up: bool = True) -> None:
        """Put a host's cable in, or pull it out."""
        state = "up" if up else "down"
        _ip("-n", self._name("switch"), "link", "set", self._port(host), state)

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _make(self) -> None:
        switch = self._name("switch")
        self._add(switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host in self.hosts:
            name, port = self._name(host), self._port(host)
            self._add(name)
            _ip("-n", switch, "link", "add", port, "type", "veth",
                "peer", "name", "eth0", "netns", name)  # fmt: skip
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in self._made:
            _kill_all(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        self._made.clear()

    def _name(self, host: str) -> str:
        return f"{self._id}-{host}"

    def _port(self, host: str) -> str:
        return f"p{self.hosts.index(host)}"


def require_namespaces() -> None:
    """Skip the test where namespaces are not permitted, and say why."""
    for program in ("ip", "ss"):
        if shutil.which(program) is None:
            pytest.skip(f"network namespaces need iproute2: '{program}' is not installed")
    try:
        with Network("probe") as network:
            done = network.run("probe", ["true"], Path("/"))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    if done.returncode:
        pytest.skip(f"network namespaces cannot be entered here: {done.stdout.strip()}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _pids(namespace: str) -> list[str]:
    argv = ["ip", "netns", "pids", namespace]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()


def _kill_all(namespace: str) -> None:
    """End what still runs in a namespace of ours."""
    for number in ("-TERM", "-KILL"):
        pids = _pids(namespace)
        if not pids:
            return
        subprocess.run(["kill", number, *pids], capture_output=True, check=False)
        time.sleep(0.5)
