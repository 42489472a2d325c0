"""A SuperNode of ``lumos run``, which is started again when it has ended."""

import time
from collections.abc import Mapping
from pathlib import Path

from lumos_core.config import APPROVED_APPS, NodeConfig, Scalar
from lumos_core.deployment.connection_log import ConnectionLog
from lumos_core.deployment.hung_processes import PROGRAM_SECONDS, SignOfLife, end_hung
from lumos_core.deployment.supervision import Backoff
from lumos_core.flower import commands, preload, sign_off
from lumos_core.processes.children import Child, Children
from lumos_core.runs.folder_version import open_folder
from lumos_core.runs.history import OnEvent
from lumos_core.safe_files import private_folder

RESTARTS = 5  # in a row, without a connection in between


class LocalSuperNode:
    """Starts a SuperNode; :meth:`look` starts it again.

    Args:
        children: the processes that are ended together; the SuperNode becomes one of them.
        place: a folder for the home folders of Flower's processes.
        cwd: an empty folder to start programs in.
        fleet: the SuperLink's ``host:port``.
        flat: the node's configuration.
        app: the installed LUMOS, the only app that it runs besides those that ``flat`` approves.
        restarts: how many times in a row it is started again.

    Attributes:
        name: the node's name.
        process: the SuperNode that was started last.
        lost: whether it has ended and will not be started again.
    """

    def __init__(
        self,
        children: Children,
        place: Path,
        cwd: Path,
        fleet: str,
        flat: Mapping[str, Scalar],
        app: Path,
        restarts: int = RESTARTS,
    ) -> None:
        self._children, self._place, self._cwd, self._fleet = children, place, cwd, fleet
        self._flat, self._restarts = dict(flat), restarts
        self.name = str(flat["name"])
        approved = commands.approving(app, str(self._flat.pop(APPROVED_APPS)))
        state = NodeConfig.from_flat(self._flat).state_folder
        private_folder(state)
        open_folder(state, "node state")
        home = place / self.name
        self._environment = preload.start(
            children, f"{self.name}-preloaded", home / "bin", self._own(home, approved), cwd
        )
        self._backoff = Backoff()
        self._starts, self._in_a_row = 0, 0
        self._due: float | None = None
        self.lost = False
        self._start(home)

    def look(self, on_event: OnEvent) -> None:
        """See whether it has ended, and start it again after a pause.

        Args:
            on_event: called with ``{"event": "node-lost", "node": …, "log": …, "again_in":
                seconds}`` when it has ended; ``again_in`` is None if it is not started again.
        """
        if self.lost:
            return
        if self._due is None:
            self._log.changes()
            if self.process.exit_code is None and self._signs.hung():
                end_hung(self.process, "the SuperNode", PROGRAM_SECONDS)
            if self.process.exit_code is not None:
                self._ended(on_event)
        elif time.monotonic() >= self._due:
            # Another home and port: a ClientApp of the old SuperNode may still run for a moment.
            self._start(self._place / f"again-{self._starts}" / self.name)

    def _ended(self, on_event: OnEvent) -> None:
        if self._log.connected:
            self._backoff.reset()
            self._in_a_row = 0
        pause: float | None = None
        if self._in_a_row < self._restarts:
            self._in_a_row += 1
            pause = self._backoff.pause()
            self._due = time.monotonic() + pause
        else:
            self.lost = True
        log = str(self.process.log)
        on_event({"event": "node-lost", "node": self.name, "log": log, "again_in": pause})

    def _start(self, home: Path) -> None:
        self._due = None
        self._starts += 1
        [port] = commands.free_ports(1)
        settings = commands.write_toml(home / "node.toml", self._flat)
        self._signs = SignOfLife(home / "supernode.alive")
        self.process: Child = self._children.start(
            self.name,
            commands.supernode(self._fleet, port, settings),
            environment={
                **self._environment,
                "FLWR_HOME": str(home),
                **self._signs.variables,
            },
            cwd=self._cwd,
        )
        self._log = ConnectionLog(self.process.log, self.process.begin)

    def _own(self, home: Path, approved: Mapping[str, str]) -> dict[str, str]:
        note = str(self._place / f"{self.name}-connected.json")
        variables = {sign_off.SWITCH: note, **approved}
        threads = str(self._flat["threads"])
        return commands.environment(home, OMP_NUM_THREADS=threads, **variables)
