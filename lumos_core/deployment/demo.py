"""``make deploy-demo``: the documented deployment on one machine, from credentials to the end.

Every step is a command that an operator would type; each is shown before it runs. The server's
output is shown while it runs. At the end every process is ended, and the folder is kept for
inspection.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children, ending_on_signals

_LUMOS = [sys.executable, "-c", "from lumos_core.cli.app import main; main()"]


def run_demo(
    folder: Path, nodes: int, rounds: int, settings: Sequence[str], console: Console
) -> None:
    """Deploy, train and tear down.

    Args:
        folder: a new folder; everything is written below it.
        nodes: number of nodes.
        rounds: rounds of training.
        settings: ``KEY=VALUE`` texts of the run.
        console: where the steps are shown.

    Raises:
        FederationError: a step failed.
    """
    from lumos_core.data.prepare import prepare
    from lumos_core.data.sample import SAMPLE_DOMAIN, bundled_sample

    folder.mkdir(parents=True)
    console.print(f"# the bundled sample, prepared for {nodes} nodes in {folder / 'data'}")
    prepare(bundled_sample(), folder / "data", nodes=nodes, seed=0, domain=SAMPLE_DOMAIN)
    [port] = commands.free_ports(1)
    demo = _Demo(folder, console)
    demo.run("deploy", "init", "deployment", "--host", "127.0.0.1", "--nodes", str(nodes),
             "--port", str(port))  # fmt: skip
    options = [text for setting in settings for text in ("-c", setting)]
    with ending_on_signals(), Children(folder / "logs", grace=20.0) as children:
        server = demo.start(
            children, "deploy", "server", "deployment/server", "--catalog", "data/catalog.tsv",
            "--bind", "127.0.0.1", "--rounds", str(rounds), *options, name="server",
        )  # fmt: skip
        for name in (f"node-{n}" for n in range(nodes)):
            demo.start(
                children, "node", "start", f"deployment/nodes/{name}", "--data", f"data/{name}",
                name=name,
            )  # fmt: skip
        _show_until_end(server, console)
        if server.exit_code:
            raise FederationError(f"the server ended with {server.exit_code}; see {server.log}")
        demo.run("status", "deployment/server/run")
    console.print("# every process was ended")


class _Demo:
    """Runs ``lumos`` commands in a folder and shows them."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._environment = {**os.environ, "COLUMNS": "120"}

    def run(self, *arguments: str) -> None:
        """Run a command and wait for its end.

        Raises:
            FederationError: it failed.
        """
        self._show(arguments)
        code = subprocess.run(
            [*_LUMOS, *arguments], cwd=self._folder, env=self._environment, check=False
        ).returncode
        if code:
            raise FederationError(f"lumos {arguments[0]} ended with exit code {code}")

    def start(self, children: Children, *arguments: str, name: str) -> Child:
        """Start a command that runs in the background."""
        self._show(arguments)
        return children.start(
            name, [*_LUMOS, *arguments], environment=self._environment, cwd=self._folder
        )

    def _show(self, arguments: Sequence[str]) -> None:
        self._console.print(f"[bold]$ lumos {shlex.join(arguments)}[/]", highlight=False)


def _show_until_end(child: Child, console: Console) -> None:
    with child.log.open("rb") as file:
        while True:
            running = child.exit_code is None
            console.out(file.read().decode(errors="replace"), end="", highlight=False)
            if not running:
                return
            time.sleep(0.5)
