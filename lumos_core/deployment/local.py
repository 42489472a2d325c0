"""A federation on this machine: real processes over gRPC, or Flower's simulation engine.

Both run the same two apps. The supervisor learns what happens from the run folder: events from
``history.jsonl``, the outcome from ``summary.json``; Flower's own idea of success is not asked.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumos_core.config import SIMULATION_DATA, NodeConfig, RunConfig, Scalar
from lumos_core.deployment.follow import (
    FOLLOW_SECONDS,
    SUMMARY_SECONDS,
    Tail,
    ended,
    wait_healthy,
)
from lumos_core.errors import FederationError
from lumos_core.flower import commands, preload
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.folder import check_same_run, read_summary, write_config
from lumos_core.runs.history import HISTORY, Event, OnEvent
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.views.llm.find import default_cache
from lumos_core.views.meter import ViewProgress
from lumos_core.views.titles.shipped import seed_cache


@dataclass(frozen=True)
class LocalNode:
    """A SuperNode of this machine.

    Attributes:
        name: under which the server knows it.
        data: its folder.
        settings: further keys of :class:`~lumos_core.config.NodeConfig`.
    """

    name: str
    data: Path
    settings: Mapping[str, Scalar] = field(default_factory=dict)

    def config(self) -> NodeConfig:
        """Raises ConfigError if a key is unknown or a value impossible."""
        flat = {"name": self.name, "data": str(self.data.resolve()), **self.settings}
        return NodeConfig.from_flat(flat)


def deploy(
    config: RunConfig,
    nodes: Sequence[LocalNode],
    run_dir: Path,
    on_event: OnEvent,
    resume: bool = False,
) -> RunSummary:
    """Run a federation of one SuperLink and one SuperNode per node; end every process.

    Args:
        config: the run; ``run-dir`` is set here.
        nodes: at least one.
        run_dir: a folder without a run in it.
        on_event: called with every event of the history, with ``{"event": "node-lost",
            "node": …, "log": …}`` when a SuperNode dies, and with ``{"event": "views-progress",
            "done": users, "total": users, "note": …}`` while nodes write views.
        resume: go on with the run in ``run_dir``.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        FederationError: the run ended without a summary.
        ConfigError: a node's settings are wrong, or the run to go on with is another one.
    """
    settings = {node.name: node.config().to_flat() for node in nodes}  # before anything starts
    config = _prepare(config, run_dir, settings, resume)
    events = Tail(run_dir / HISTORY, on_event)
    with _workplace() as place, ending_on_signals(), Children(run_dir / "logs") as children:
        control, fleet_port, *runtime = commands.free_ports(2 + len(nodes))
        fleet = f"{commands.LOOPBACK}:{fleet_port}"
        link = _start_superlink(children, place, control, fleet)
        supernodes = [
            _start_supernode(children, place, fleet, port, name, flat)
            for port, (name, flat) in zip(runtime, settings.items(), strict=True)
        ]
        run = _submit(children, place, config, control, link, None)
        watch = _Views([node.config().state_folder for node in nodes], on_event)
        return _follow(run_dir, events, on_event, run, link, supernodes, watch)


def simulate(
    config: RunConfig,
    data: Path,
    nodes: int,
    run_dir: Path,
    on_event: OnEvent,
    resume: bool = False,
) -> RunSummary:
    """Run a federation of virtual nodes under Flower's simulation engine.

    Args:
        config: the run; ``run-dir`` is set here.
        data: folder of ``node-0`` … ``node-{nodes - 1}``.
        nodes: number of virtual nodes.
        run_dir: a folder without a run in it.
        on_event: called with every event of the history.
        resume: go on with the run in ``run_dir``.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        FederationError: the run ended without a summary.
        ConfigError: the run to go on with is another one.
    """
    config = _prepare(config, run_dir, {"nodes": nodes, "data": str(data)}, resume)
    events = Tail(run_dir / HISTORY, on_event)
    with _workplace() as place, ending_on_signals(), Children(run_dir / "logs") as children:
        [control] = commands.free_ports(1)
        extra = {
            SIMULATION_DATA: str(data.resolve()),
            "RAY_TMPDIR": str(place / "r"),  # sockets live there: the path must stay short
            "OMP_NUM_THREADS": "1",
        }
        link = _start_superlink(children, place, control, None, **extra)
        run = _submit(children, place, config, control, link, nodes)
        folders = [NodeConfig(data=str(data / f"node-{n}")) for n in range(nodes)]
        watch = _Views([node.state_folder for node in folders], on_event)
        return _follow(run_dir, events, on_event, run, link, [], watch)


# ---------------------------------------------------------------- start
def _prepare(config: RunConfig, run_dir: Path, nodes: Mapping[str, Any], resume: bool) -> RunConfig:
    """The run's folder and final configuration.

    Raises:
        ConfigError: the run to go on with is another one.
        FederationError: there is a run, and it is not to be gone on with.
    """
    for name in (HISTORY, SUMMARY):
        if not resume and (run_dir / name).exists():
            raise FederationError(
                f"{run_dir} already holds a run ({name}); resume it or choose another --run-dir"
            )
    config = config.replace(
        run_dir=str(run_dir.resolve()), catalog=str(Path(config.catalog).resolve())
    )
    if resume:
        check_same_run(run_dir, config)
        (run_dir / SUMMARY).unlink(missing_ok=True)  # of the part before
    write_config(run_dir, config, nodes)
    seed_cache(default_cache())  # here: Flower sends the apps' code only
    return config


@contextmanager
def _workplace() -> Iterator[Path]:
    """A short-lived folder for Flower's homes; ``empty`` in it is where processes start, so that
    no package is picked up from the current folder."""
    place = Path(tempfile.mkdtemp(prefix="lumos-"))
    try:
        for name in ("empty", "r"):
            (place / name).mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _start_superlink(
    children: Children, place: Path, control: int, fleet: str | None, **extra: str
) -> Child:
    home = place / "superlink"
    commands.write_connection(home, control)
    # It starts one ServerApp; more questions would only take processor time from the nodes.
    extra["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "1"
    return children.start(
        "superlink",
        commands.superlink(control, fleet),
        environment=commands.environment(home, **extra),
        cwd=place / "empty",
    )


def _start_supernode(
    children: Children, place: Path, fleet: str, port: int, name: str, flat: Mapping[str, Scalar]
) -> Child:
    home, empty = place / name, place / "empty"
    environment = commands.environment(home, OMP_NUM_THREADS=str(flat["threads"]))
    return children.start(
        name,
        commands.supernode(fleet, port, commands.write_toml(home / "node.toml", flat)),
        environment=preload.start(children, f"{name}-preloaded", home / "bin", environment, empty),
        cwd=empty,
    )


def _submit(
    children: Children,
    place: Path,
    config: RunConfig,
    control: int,
    link: Child,
    virtual_nodes: int | None,
) -> Child:
    app = commands.stage_app(place / "app")
    run_config = commands.write_toml(place / "run.toml", config.to_flat())
    wait_healthy(link, control)
    return children.start(
        "server",
        commands.submit(app, run_config, virtual_nodes),
        environment=commands.environment(place / "superlink"),
        cwd=place / "empty",
    )


# ---------------------------------------------------------------- follow
def _follow(
    run_dir: Path,
    events: Tail,
    on_event: OnEvent,
    run: Child,
    link: Child,
    supernodes: Sequence[Child],
    views: "_Views",
) -> RunSummary:
    """Report events until the summary is there."""
    lost: set[str] = set()
    since: float | None = None
    while True:
        summary = read_summary(run_dir)
        views.report()
        events.report()  # after the summary was looked for, so that its last events are in
        if summary is not None:
            return summary
        for child in supernodes:
            if child.exit_code is not None and child.name not in lost:
                lost.add(child.name)
                on_event({"event": "node-lost", "node": child.name, "log": str(child.log)})
        if link.exit_code is not None:
            raise ended(link)
        if supernodes and len(lost) == len(supernodes):
            raise FederationError(
                "every SuperNode has ended; the end of "
                f"{supernodes[-1].log}:\n{supernodes[-1].last_lines()}"
            )
        if run.exit_code is not None:
            since = since or time.monotonic()
            if time.monotonic() - since > SUMMARY_SECONDS:
                raise FederationError(
                    f"the run ended without a result; the end of {run.log}:\n{run.last_lines(25)}"
                )
        time.sleep(FOLLOW_SECONDS)


class _Views:
    """Looks into the state folders of this computer's nodes for how far their views are."""

    def __init__(self, states: Sequence[Path], on_event: OnEvent) -> None:
        self._states, self._on_event = states, on_event
        self._since = time.time()
        self._last: Event = {}

    def report(self) -> None:
        """Look once."""
        found = {state: ViewProgress.of_node(state) for state in self._states}
        fresh = {s: p for s, p in found.items() if p is not None and p.time >= self._since}
        if not fresh:
            return
        busy = [p for p in fresh.values() if p.users_done < p.users]
        # what nothing else is waiting for says more than that a process is being started
        telling = sorted(busy, key=lambda p: (p.stage == "users", not p.stage))
        note = telling[0].line() if telling and telling[0].stage != "users" else ""
        if not telling or (not telling[0].stage and any(p.stage for p in busy)):
            note = ""
        event: Event = {
            "event": "views-progress",
            "done": sum(p.users_done for p in fresh.values()),
            "total": sum(p.users for p in fresh.values()),
            "note": note,
        }
        if event != self._last:
            self._last = event
            self._on_event(event)
