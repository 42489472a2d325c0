"""A SuperLink on this machine, from its start to the summary of the run that is submitted to it."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.deployment.follow import RunLostError, Tail, Watch, ended, follow
from lumos_core.deployment.hung_processes import Probe, link_answers
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children
from lumos_core.runs.history import HISTORY
from lumos_core.runs.summary import RunSummary

HEALTH_SECONDS = 90.0  # a cold start on a busy machine takes 20


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder, for Flower's home folders."""
    with tempfile.TemporaryDirectory(prefix="lumos-", ignore_cleanup_errors=True) as place:
        yield Path(place)


class SuperLink:
    """Starts a SuperLink. When it is healthy, the run can be submitted, and again if it is lost.

    Args:
        children: the processes that are ended together; the SuperLink becomes one of them.
        place: an empty :func:`workplace`.
        config: the run's configuration.
        control_port: loopback port.
        fleet: ``host:port`` for the nodes; None for the simulation runtime.
        security: None for a SuperLink without TLS, for this machine alone.
        database: file for the SuperLink's state; None: the state is lost when it ends.
        variables: further environment variables.

    Attributes:
        process: the SuperLink.
        environment: the environment of every program that talks to it.
        cwd: an empty folder to start programs in, so that no package is picked up from there.
    """

    def __init__(
        self,
        children: Children,
        place: Path,
        config: RunConfig,
        control_port: int,
        fleet: str | None,
        *,
        security: commands.LinkSecurity | None = None,
        database: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._children, self._control_port = children, control_port
        self._ca = security.ca if security else None
        home = place / "superlink"
        commands.write_connection(home, control_port, self._ca)
        environment = commands.environment(
            home,
            # Seconds between polls. The SuperLink starts only one ServerApp: more polls would only
            # take processor time from the nodes, and each writes a line to the log.
            FLWR_SUPEREXEC_TASK_POLL_INTERVAL="1",
            **(variables or {}),
        )
        self.environment = commands.with_superexec(place / "superexec", environment)
        self.cwd = place / "empty"
        self.cwd.mkdir()
        options = [] if database is None else ["--database", str(database)]
        command = commands.superlink(control_port, fleet, *options, security=security)
        self.process = self.start("superlink", command)
        self._app = commands.stage_app(place / "app")  # while the SuperLink starts
        self._settings = commands.write_toml(place / "run.toml", config.to_flat())

    def start(
        self, name: str, command: list[str], variables: Mapping[str, str] | None = None
    ) -> Child:
        """Start a program that talks to the SuperLink."""
        environment = {**self.environment, **(variables or {})}
        return self._children.start(name, command, environment=environment, cwd=self.cwd)

    def probe(self) -> Probe:
        """A probe that asks the SuperLink whether it is healthy."""
        return Probe(link_answers(self._control_port, self._ca))

    def wait_healthy(self) -> None:
        """Wait until the SuperLink answers.

        Raises:
            FederationError: it has ended, or does not answer in time.
        """
        wait_healthy(self.process, self._control_port, self._ca)

    def run(self, run_dir: Path, watch: Watch, virtual_nodes: int | None = None) -> RunSummary:
        """Submit the run to the healthy SuperLink and follow it.

        Args:
            run_dir: the run's folder.
            watch: what is done while waiting.
            virtual_nodes: number of nodes to simulate; None for real SuperNodes.

        Returns:
            The run's summary; look at its ``outcome``.

        Raises:
            RunLostError: the run ended without a summary; it may be submitted again.
            FederationError: raised by the watch, with the reason why the run cannot continue.
        """
        events = Tail(run_dir / HISTORY, watch.on_event)
        run = self.start("server", commands.submit(self._app, self._settings, virtual_nodes))
        try:
            return follow(run_dir, run, events, watch)
        except RunLostError:
            self._children.stop_one(run)
            raise


def wait_healthy(link: Child, control_port: int, ca: Path | None = None) -> None:
    """Wait until a SuperLink answers on its control port.

    Args:
        link: the SuperLink.
        control_port: its loopback port.
        ca: authority of its certificate; None for plain HTTP.

    Raises:
        FederationError: it has ended, or does not answer in time.
    """
    answers = link_answers(control_port, ca)
    until = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < until:
        if link.exit_code is not None:
            raise ended(link)
        if answers(timeout=2):
            return
        time.sleep(0.1)
    raise FederationError(
        f"the SuperLink did not become healthy within {HEALTH_SECONDS:g} s; the end of "
        f"{link.log}:\n{link.last_lines()}"
    )
