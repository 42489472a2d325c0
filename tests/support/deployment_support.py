"""Small data and helpers for tests that start real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil
from flower_in_process import write_nodes

from lumos_core.config import RunConfig

T = TypeVar("T")
LUMOS = [sys.executable, "-c", "from lumos_core.cli.app import main; main()"]
TINY = {
    "method": "fedavg", "semantic-start": "none", "dim": "8", "heads": "1", "layers": "1",
    "local-epochs": "1", "start-timeout": "60", "round-timeout": "60",
}  # fmt: skip


def write_prepared(folder: Path, nodes: int = 2, users: int = 8, items: int = 40) -> Path:
    """A folder as ``lumos prepare`` writes it, with short random histories."""
    import json

    write_nodes(folder, nodes, users, items, title="thing number", seed=3)
    (folder / "dataset.json").write_text(json.dumps({"nodes": nodes}))
    return folder


def command(name: str, data: Path, run_dir: Path, rounds: int, **changes: str) -> list[str]:
    """``lumos run`` or ``lumos simulate`` on tiny data without baselines."""
    settings = {**TINY, **{k.replace("_", "-"): v for k, v in changes.items()}}
    options = [o for key, value in settings.items() for o in ("-c", f"{key}={value}")]
    return [
        *LUMOS, name, "--data", str(data), "--run-dir", str(run_dir), "--rounds", str(rounds),
        "--no-baselines", *options,
    ]  # fmt: skip


def start(argv: list[str], cwd: Path) -> "subprocess.Popen[str]":
    """Start a command as a terminal would, its output readable afterwards."""
    return subprocess.Popen(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Callable[[], T], seconds: float = 60.0, every: float = 0.1) -> T:
    """The first true value of ``condition``."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"still waiting after {seconds} s"
        time.sleep(every)
    return found


def wait_while_files_change(
    condition: Callable[[], T], files: Callable[[], Iterable[Path]], quiet: float = 600.0
) -> T:
    """The first true value of ``condition``, for however long it takes, as long as something is
    written: a loaded machine is slower, but not for minutes without a line.

    Args:
        condition: what to wait for.
        files: those in which progress shows, which need not be there yet.
        quiet: so many seconds without a change of any of them fail.
    """
    last, since = None, time.monotonic()
    while not (found := condition()):
        now = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files())]
        if now != last:
            last, since = now, time.monotonic()
        assert time.monotonic() - since < quiet, f"nothing was written for {quiet} s"
        time.sleep(0.1)
    return found


def family(pid: int) -> list[psutil.Process]:
    """All descendants."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def named(pid: int, program: str) -> list[psutil.Process]:
    """Descendants that run a program, in the order they were started."""
    found = []
    for process in family(pid):
        try:
            if any(Path(part).name == program for part in process.cmdline()[:4]):
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda p: p.create_time())


def leftovers(run_dir: Path, processes: list[psutil.Process]) -> list[str]:
    """Those of ``processes`` that still run, and whatever else mentions the run's folder."""
    left = []
    for process in {*processes, *psutil.process_iter()}:
        try:
            line = " ".join(process.cmdline())
            known = process in processes or str(run_dir) in line
            own = process.pid in (os.getpid(), os.getppid())
            if known and not own and process.status() != psutil.STATUS_ZOMBIE:
                left.append(line)
        except psutil.Error:
            continue
    return left


def node_process(pid: int, name: str) -> psutil.Process | None:
    """The SuperNode of this name, once it is there."""
    for process in named(pid, "flower-supernode"):
        line = process.cmdline()
        if line[line.index("--node-config") + 1].split("/")[-2] == name:
            return process
    return None


def wrapped_app(folder: Path, wrapper: str) -> Path:
    """A folder with a package ``client_app`` that is found before the installed one: its ``client``
    is the wrapper, and what that wraps is its module ``honest``.

    Nodes of ``lumos run`` that is started there have the same app as its server. Any other node has
    to :func:`approve` it."""
    import client_app

    package = folder / "client_app"
    shutil.copytree(Path(client_app.__path__[0]), package)
    (package / "client.py").rename(package / "honest.py")
    (package / "client.py").write_text(wrapper)
    return folder


def app_digest(folder: Path) -> str:
    """The digest of the app that a server sends which is started in a folder, such as that of
    :func:`wrapped_app`."""
    argv = [*LUMOS, "node", "app-digest"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def approve(bundle: Path, digest: str) -> None:
    """What the owner of a node does to run another app than the installed LUMOS."""
    with (bundle / "node.toml").open("a") as file:
        file.write(f'approved-apps = ["{digest}"]\n')


def deploying(
    app: Path, data: Path, config: RunConfig, nodes: int, run_dir: Path, *, resume: bool = False
) -> list[str]:
    """A command that deploys the app of a folder, as ``lumos run`` does the installed one,
    except that a node that died is not started again."""
    code = (
        f"import sys; sys.path.insert(0, {str(app)!r})\n"
        "from pathlib import Path\n"
        "from lumos_core.config import RunConfig\n"
        "from lumos_core.deployment.local import LocalNode, deploy\n"
        f"data, config = Path({str(data)!r}), RunConfig.from_flat({config.to_flat()!r})\n"
        f"nodes = [LocalNode(f'node-{{n}}', data / f'node-{{n}}') for n in range({nodes})]\n"
        f"summary = deploy(config, nodes, Path({str(run_dir)!r}), print, {resume}, restarts=0)\n"
        "print(summary.reason)\n"
        "sys.exit(summary.outcome != 'completed')"
    )
    return [sys.executable, "-c", code]


class Terminals:
    """Commands as their users start them: each in a terminal of its own, whose text is kept.

    Attributes:
        place: the folder in which all are started; also that of the texts.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def lumos(self, *arguments: str) -> str:
        """What a command that ends well prints."""
        argv = [*LUMOS, *arguments]
        done = subprocess.run(argv, cwd=self.place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command that goes on, in the terminal called ``name``."""
        with (self.place / f"{name}.txt").open("ab") as terminal:
            self._processes[name] = subprocess.Popen(
                [*LUMOS, *arguments], cwd=self.place, stdin=subprocess.DEVNULL, stdout=terminal,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
            )  # fmt: skip
        return self._processes[name]

    def said(self, name: str) -> str:
        return (self.place / f"{name}.txt").read_text()

    def interrupt(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            process.wait(60)
