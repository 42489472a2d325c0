"""A Ray cluster of hosts of a test network: each has an address and a temporary folder of its own,
and all see one shared folder at the same path."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from deployment_support import LUMOS, wait_for
from namespaces import Network

PORT = 6379
_RAY = str(Path(sys.executable).with_name("ray"))
_SECONDS = 300.0  # for a command, on a busy machine
_STORE = "100000000"  # bytes; Ray's own choice is a third of the memory
# Mounts of a host: what is shared is put into its own folder, and that over the temporary folder.
_MOUNTED = 'mount --bind "$1" "$2/$3" && mount --rbind "$2" "$4" && cd "$1" && shift 4 && exec "$@"'


class RayHosts:
    """Machines of one cluster, the first of them its head.

    Args:
        network: its hosts are the machines.
        place: below the temporary folder; ``shared`` in it is what all machines see.
    """

    def __init__(self, network: Network, place: Path) -> None:
        self.network, self.place = network, place
        self.shared = place / "shared"
        self.shared.mkdir()
        self.address = f"{network.address(network.hosts[0])}:{PORT}"
        self._temporary = Path(tempfile.gettempdir()).resolve()
        for host in network.hosts:
            # Ray finds a machine's own address by the route to the outside
            route = network.run(host, ["ip", "route", "replace", "default", "dev", "eth0"], place)
            assert route.returncode == 0, route.stdout
            (self.own(host) / self._below()).mkdir(parents=True)

    def start_ray(self, host: str, token: str, cpus: int = 1) -> "subprocess.Popen[bytes]":
        """``ray start`` on a machine; returns when it has joined the cluster."""
        head = host == self.network.hosts[0]
        role = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
        argv = [
            "nice", _RAY, "start", *(role if head else ["--address", self.address]),
            "--node-ip-address", self.network.address(host), "--num-cpus", str(cpus),
            "--object-store-memory", _STORE, "--disable-usage-stats", "--block",
        ]  # fmt: skip
        log = self.place / f"ray-{host}.txt"
        argv = ["env", *(f"{k}={v}" for k, v in self.credentials(token).items()), *argv]
        started = self.network.start(host, self.on(host, argv), Path("/"), log)
        wait_for(lambda: "Ray runtime started" in log.read_text() or started.poll() is not None, 90)
        assert started.poll() is None, log.read_text()
        return started

    def credentials(self, token: str) -> dict[str, str]:
        """Variables with which Ray asks for this token, and shows it."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}

    def on(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` with the mounts of a host, in the shared folder."""
        mounts = [str(self.shared), str(self.own(host)), self._below(), str(self._temporary)]
        return ["unshare", "--mount", "sh", "-c", _MOUNTED, "sh", *mounts, *argv]

    def command(self, host: str, arguments: str, *more: str, token: str) -> list[str]:
        """The command line of a command of LUMOS on a machine."""
        variables = [f"{k}={v}" for k, v in self.credentials(token).items()]
        argv = ["env", *variables, "nice", *LUMOS, *shlex.split(arguments), *more]
        return self.on(host, argv)

    def lumos(
        self, host: str, arguments: str, *more: str, token: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of LUMOS to its end; its output is in ``stdout``."""
        argv = self.command(host, arguments, *more, token=token)
        return self.network.run(host, argv, Path("/"), _SECONDS)

    def client_apps(self, host: str) -> list[int]:
        """Processes of a machine that run ClientApps."""
        return [p.pid for p in self._processes(host) if "ClientAppActor" in " ".join(p.cmdline())]

    def kill(self, host: str) -> None:
        """End everything that runs on a machine, as a power cut does."""
        for process in self._processes(host):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _processes(self, host: str) -> list[psutil.Process]:
        found = []
        for pid in self.network.pids(host):
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def own(self, host: str) -> Path:
        """What is the temporary folder on a host."""
        return self.place / f"tmp-{host}"

    def _below(self) -> str:
        """Where the shared folder is in the temporary folder."""
        return os.path.relpath(self.shared.resolve(), self._temporary)
