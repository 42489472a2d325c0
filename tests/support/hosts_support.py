"""A deployment on hosts of a test network, made and started as docs/operations.md says."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deployment_support import LUMOS, TINY, write_prepared
from namespaces import Network

FLEET = 9092


def settings(**changes: str) -> list[str]:
    """``-c`` options of a small model, with keys changed (``_`` for ``-``)."""
    keys = {k: v for k, v in TINY.items() if k != "start-timeout"}
    keys |= {k.replace("_", "-"): v for k, v in changes.items()}
    return [option for key, value in keys.items() for option in ("-c", f"{key}={value}")]


class Deployment:
    """A server and hosts of one node each; each has a folder with only what the procedure copies
    there.

    Args:
        network: has a host ``server`` and those of the nodes.
        place: for the folders.
        hosts: of the nodes, in the order of their names.
    """

    def __init__(
        self, network: Network, place: Path, hosts: Sequence[str] = ("one", "two")
    ) -> None:
        self.network, self.place = network, place
        data = write_prepared(place / "prepared", nodes=len(hosts))
        self.operator = place / "operator"
        self.operator.mkdir()
        address = network.address("server")
        init = f"deploy init deployment --host {address} --nodes {len(hosts)}"
        self.lumos("server", init, self.operator)
        made = self.operator / "deployment"
        self.copy_server()
        shutil.copy(data / "catalog.tsv", self.home("server"))
        for n, host in enumerate(hosts):
            shutil.copytree(made / "nodes" / f"node-{n}", self.home(host) / f"node-{n}")
            shutil.copytree(data / f"node-{n}", self.home(host) / "data")

    def copy_server(self) -> None:
        """As ``rsync -a deployment/server/ HOST:server/``, the first time and later."""
        made, there = self.operator / "deployment" / "server", self.home("server") / "server"
        shutil.copytree(made, there, dirs_exist_ok=True)

    def home(self, host: str) -> Path:
        folder = self.place / host
        folder.mkdir(exist_ok=True)
        return folder

    def argv(self, arguments: str) -> list[str]:
        return [*LUMOS, *shlex.split(arguments)]

    def lumos(self, host: str, arguments: str, cwd: Path | None = None, seconds: float = 60):
        argv = self.argv(arguments)
        return self.network.run(host, argv, cwd or self.home(host), seconds)

    def start(self, host: str, arguments: str, *more: str) -> "subprocess.Popen[bytes]":
        argv = [*self.argv(arguments), *more]
        return self.network.start(host, argv, self.home(host), self.log(host))

    def log(self, host: str) -> Path:
        return self.home(host) / "terminal.txt"

    def says(self, host: str, text: str) -> bool:
        return self.log(host).exists() and text in self.log(host).read_text()

    def start_server(self, rounds: int, **changes: str) -> "subprocess.Popen[bytes]":
        command = f"deploy server server --catalog catalog.tsv --rounds {rounds}"
        return self.start("server", command, *settings(**changes))

    def serving(self) -> bool:
        return self.says("server", "serving on")
