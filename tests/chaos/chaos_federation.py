"""The federation that suffers: a server and nodes on hosts of their own (network namespaces), and
what is seen of them from outside: their rounds, their processes, their memory."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from deployment_support import app_digest, approve, named, wait_for, wrapped_app
from hosts_support import FLEET, Deployment
from namespaces import Network

HERE = Path(__file__).parent
NODES = 4
HOSTS = tuple(f"n{n}" for n in range(NODES))
BEHIND_PROXY = ("n2", "n3")  # the others reach the server directly
SMALL_DISK = "n1"
WRONG_CLOCK = "n2"
PROXY_PORT = 9093
ENDLESS = 100_000
SETTINGS = {
    "round_timeout": "60", "min_replies": "1", "max_failed_rounds": "1000", "evaluate_every": "5",
}  # fmt: skip
SAMPLE_SECONDS = 2.0
ZOMBIE_LINE = 100  # characters: no tokens
ZOMBIE_SECONDS = 30.0  # a supervisor may pause before it looks
ROLES = {
    "flower-superlink": "SuperLink", "flower-supernode": "SuperNode",
    "flower-superexec": "SuperExec", "flwr-serverapp": "ServerApp", "flwr-clientapp": "ClientApp",
    "preload_server.py": "preloaded process", "guard.py": "guard", "flwr": "flwr run",
    "chaos_proxy.py": "",
}  # fmt: skip


@dataclass
class Seen:
    """What the sampler has seen.

    Attributes:
        peak: by role, the most memory of one process, in MiB.
        together: the most memory of all processes at a time, in MiB.
        clients: the most ClientApps of one node at a time.
        processes: all that ever belonged to the federation.
        zombies: processes that nobody had waited for half a minute later, although whoever started
            them was not stopped: the beginnings of their command lines.
        memory: (seconds since the beginning, MiB of all processes), one per sample.
    """

    peak: dict[str, float] = field(default_factory=dict)
    together: float = 0.0
    clients: int = 0
    processes: set[psutil.Process] = field(default_factory=set)
    zombies: set[str] = field(default_factory=set)
    memory: list[tuple[float, float]] = field(default_factory=list)


class Federation:
    """A server and four nodes; use it in a ``with`` block.

    Args:
        network: hosts ``server`` and those of :data:`HOSTS`.
        place: an empty folder.
        shim: a library that shifts a program's clock (``wrong_clock.c``).
    """

    def __init__(self, network: Network, place: Path, shim: Path) -> None:
        self.network, self.place, self._shim = network, place, shim
        self.hosts = ("server", *HOSTS)
        for host in ("server", SMALL_DISK):
            (place / host).mkdir()
            size = "192m" if host == "server" else "64m"
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place / host))
        self.deployment = Deployment(network, place, HOSTS)
        # terminals are not on the small disks
        setattr(self.deployment, "log", lambda host: place / f"{host}.txt")  # noqa: B010
        self.hostile = place / "hostile"
        self.orders = place / "orders.json"
        self.orders.write_text("{}")
        self._wrap_app()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.seen = Seen()
        self._lines: dict[psutil.Process, str] = {}
        self._ended: dict[psutil.Process, float] = {}  # when it was first seen as a zombie
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def _wrap_app(self) -> None:
        code = (HERE / "hostile_client.py").read_text()
        code = code.replace("@ORDERS@", str(self.hostile))
        code = code.replace("@SUPPORT@", str(HERE.parent / "support"))
        digest = app_digest(wrapped_app(self.deployment.home("server"), code))
        for number, host in enumerate(HOSTS):  # or they would refuse it
            approve(self.deployment.home(host) / f"node-{number}", digest)

    def __enter__(self) -> Self:
        for host in ("server", WRONG_CLOCK):
            self.clock(host).write_bytes(struct.pack("q", 0))
        self.start("server")
        wait_for(self.deployment.serving, 120)
        kit = self.deployment.home("server") / "server"
        address = f"{self.network.address('server')}:{PROXY_PORT}"
        proxy = [sys.executable, str(HERE / "chaos_proxy.py"), str(kit), str(FLEET), address,
                 str(self.orders)]  # fmt: skip
        path = os.pathsep.join((str(HERE.parents[1]), str(HERE.parent / "support")))
        argv = ["env", f"PYTHONPATH={path}", *proxy]
        self.running["proxy"] = self.network.start(
            "server", argv, self.place, self.place / "proxy.txt"
        )
        for host in HOSTS:
            self.start(host)
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        for host in ("server", SMALL_DISK):
            _run("umount", "--lazy", str(self.place / host))

    # --- what runs

    def start(self, host: str, rounds: int = ENDLESS) -> "subprocess.Popen[bytes]":
        """Start a server or a node, by the commands of docs/operations.md."""
        if host == "server":
            command = f"deploy server server --catalog catalog.tsv --rounds {rounds}"
            more = _settings()
        else:
            node = f"node-{HOSTS.index(host)}"
            port = PROXY_PORT if host in BEHIND_PROXY else FLEET
            server = f"{self.network.address('server')}:{port}"
            command, more = f"node start {node} --data data --superlink {server}", []
        argv = [*self.deployment.argv(command), *more]
        if host in ("server", WRONG_CLOCK):
            shim = ["env", f"LD_PRELOAD={self._shim}", f"WRONG_BY_FILE={self.clock(host)}"]
            argv = [*shim, *argv]
        log, home = self.deployment.log(host), self.deployment.home(host)
        self.running[host] = self.network.start(host, argv, home, log)
        return self.running[host]

    def client_app(self, host: str, seconds: float = 60) -> psutil.Process:
        """The process of a node that answers a message, forked from the preloaded one."""

        def forks() -> list[psutil.Process]:
            with suppress(psutil.Error):  # one may end while it is looked for
                return self.find(host, "preload_server.py", seconds).children()
            return []

        return wait_for(forks, seconds, every=0.01)[-1]

    def clock(self, host: str) -> Path:
        """A file of eight bytes: the seconds by which the host's clock is wrong."""
        return self.place / f"{host}.clock"

    def find(self, host: str, program: str, seconds: float = 60) -> psutil.Process:
        """The newest process of a host that runs a program, once there is one."""
        pid = self.running[host].pid
        return wait_for(lambda: named(pid, program), seconds, every=0.02)[-1]

    def supervisor(self, host: str) -> psutil.Process:
        return psutil.Process(self.running[host].pid)

    def order(self, **order: Any) -> None:
        """Tell the proxy what to do."""
        path = self.orders.with_suffix(".new")
        path.write_text(json.dumps(order))
        path.replace(self.orders)

    # --- what is seen

    @property
    def run_dir(self) -> Path:
        return self.deployment.home("server") / "server" / "run"

    def stop(self) -> None:
        """End everything as Ctrl-C does."""
        self._stop.set()
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)

    def left(self) -> list[str]:
        """Processes of the federation that still run, or have not been waited for."""
        found = []
        for process in self.seen.processes:
            with suppress(psutil.Error):
                if process.is_running():
                    found.append(f"{process.pid} {process.status()} {self._lines[process]}")
        return sorted(found)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            with suppress(psutil.Error):
                self._look()

    def _look(self) -> None:
        total = 0.0
        self._look_for_zombies()
        for host in self.hosts:
            try:
                top = self.supervisor(host)
                family = [top, *top.children(recursive=True)]
            except psutil.Error:
                continue
            clients = 0
            for process in family:
                with suppress(psutil.Error):
                    role = role_of(process.cmdline()) or f"supervisor ({host[0]})"
                    mib = process.memory_info().rss / 2**20
                    self.seen.peak[role] = max(self.seen.peak.get(role, 0.0), round(mib, 1))
                    total += mib
                    if process not in self.seen.processes:
                        self.seen.processes.add(process)
                        self._lines[process] = " ".join(process.cmdline())[:300]
                    clients += role == "ClientApp" and "preload" not in role
            self.seen.clients = max(self.seen.clients, clients)
        self.seen.together = max(self.seen.together, round(total, 1))
        self.seen.memory.append((round(time.monotonic() - self._begin, 1), round(total, 1)))

    def _look_for_zombies(self) -> None:
        now = time.monotonic()
        ended = [p for p in self.seen.processes if is_zombie(p) and not _is_stopped(p.parent())]
        self._ended = {process: self._ended.get(process, now) for process in ended}
        self.seen.zombies |= {
            self._lines[process][:ZOMBIE_LINE]
            for process, since in self._ended.items()
            if now - since > ZOMBIE_SECONDS
        }


def is_zombie(process: psutil.Process) -> bool:
    """Whether a process has ended and was not waited for."""
    with suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return False


def _is_stopped(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return process is not None and process.status() == psutil.STATUS_STOPPED
    return False


class Processor:
    """Processor seconds: of this process and all that it has started, and of the whole machine.

    The first come from a group of its own (cgroup v1, ``cpuacct``); without that they are unknown.
    """

    def __init__(self) -> None:
        self._group = Path(f"/sys/fs/cgroup/cpuacct/lumos-chaos-{os.getpid()}")
        try:
            self._group.mkdir()
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            self._group = Path("/nowhere")

    def used(self) -> tuple[float, float]:
        """Seconds used so far: by this federation (0 if unknown), and by everybody."""
        times = psutil.cpu_times()
        everybody = sum(times) - times.idle - times.iowait
        try:
            own = int((self._group / "cpuacct.usage").read_text()) / 1e9
        except OSError:
            own = 0.0
        return own, everybody

    def close(self) -> None:
        """Remove the group."""
        with suppress(OSError):
            (self._group.parent / "cgroup.procs").write_text(str(os.getpid()))
            self._group.rmdir()


class Rounds:
    """Reads the history while it grows, and notes when each event was seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[str] = set()

    def news(self) -> list[dict[str, Any]]:
        """Rounds and failed rounds that were not there before; ``at`` is when they were seen."""
        found = []
        with suppress(OSError):
            for line in self._path.read_text(errors="replace").splitlines(keepends=True):
                if line.endswith("\n") and line not in self._known:
                    self._known.add(line)
                    with suppress(ValueError):
                        event = json.loads(line)
                        if event["event"] in ("round", "failed-round"):
                            found.append({**event, "at": time.monotonic()})
        return found

    def wait(self, since: float, nodes: int = NODES, seconds: float = 240) -> list[dict[str, Any]]:
        """All rounds until one of so many nodes that began at a time or later.

        Returns:
            The rounds, that one at the end; none if it does not come.
        """
        until, found = time.monotonic() + seconds, []
        while time.monotonic() < until:
            for event in self.news():
                found.append(event)
                begin = event["at"] - event["seconds"]
                if event["event"] == "round" and event["nodes_ok"] >= nodes and begin >= since:
                    return found
            time.sleep(0.05)
        return []


def role_of(line: list[str]) -> str:
    """What a command line runs; empty for a supervisor."""
    for part in line[:4]:
        name = Path(part).name
        if name in ROLES:
            return ROLES[name]
    return ""


def filled(folder: Path) -> Path:
    """Take all space that a folder's file system has left; returns the file that has it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 4096, 512):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return path


@contextmanager
def compiled_shim(folder: Path) -> Iterator[Path]:
    """The library of ``wrong_clock.c``."""
    library = folder / "wrong_clock.so"
    source = HERE.parent / "integration" / "wrong_clock.c"
    _run("cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")
    yield library


def _settings() -> list[str]:
    from hosts_support import settings

    return settings(**SETTINGS)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
