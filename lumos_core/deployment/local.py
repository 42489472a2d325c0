"""A federation on this machine: real processes over gRPC, Flower's simulation engine, or neither.

The first two run the same two apps; the third runs the same nodes and round loop in this process.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumos_core.config import SIMULATION_DATA, NodeConfig, RunConfig, Scalar
from lumos_core.data import Catalog, Sequences
from lumos_core.deployment import ray_cluster
from lumos_core.deployment.follow import Watch, ended
from lumos_core.deployment.hung_processes import LINK_SECONDS, Probe, end_hung
from lumos_core.deployment.local_supernode import RESTARTS, LocalSuperNode
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.errors import ConfigError, FederationError, require_extra
from lumos_core.flower import commands
from lumos_core.processes.children import Children, ending_on_signals
from lumos_core.runs.folder import check_same_run, read_nodes, write_config
from lumos_core.runs.history import HISTORY, Event, OnEvent
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.views.build import BuildProgress
from lumos_core.views.llm.find import default_cache
from lumos_core.views.meter import ViewProgress
from lumos_core.views.titles.resumable import WAITING
from lumos_core.views.titles.shipped import seed_cache

if TYPE_CHECKING:  # imports torch
    from lumos_core.federation.round_loop import FederationResult
    from lumos_core.federation.simulate import Clients
    from lumos_core.federation.warm_start import Start

CLIENTS = "clients"
"""Key of a run's facts about its nodes: what a client is, a node or a user."""
NODE_STATES = "nodes"
"""Folder of a run in which nodes in this process keep what they have not sent yet."""


@dataclass(frozen=True)
class LocalNode:
    """A SuperNode of this machine.

    Attributes:
        name: the name by which the server knows it.
        data: its data folder.
        settings: further keys of :class:`~lumos_core.config.NodeConfig`.
    """

    name: str
    data: Path
    settings: Mapping[str, Scalar] = field(default_factory=dict)

    def config(self) -> NodeConfig:
        """Raises ConfigError if a key is unknown or a value impossible."""
        flat = {"name": self.name, "data": str(self.data.resolve()), **self.settings}
        return NodeConfig.from_flat(flat)

    def in_run(self, config: RunConfig) -> NodeConfig:
        """Its configuration in a run of this machine. Who starts such a run owns its nodes, so the
        run's language model is also the owner's, unless ``allowed-llms`` says what is allowed.

        Raises:
            ConfigError: as :meth:`config`.
        """
        own = self.config()
        if own.llm or "allowed-llms" in self.settings:
            return own
        return own.replace(llm=config.llm)


def deploy(
    config: RunConfig,
    nodes: Sequence[LocalNode],
    run_dir: Path,
    on_event: OnEvent,
    resume: bool = False,
    restarts: int = RESTARTS,
    start: "Start | None" = None,
) -> RunSummary:
    """Run a federation of one SuperLink and one SuperNode per node; end every process.

    Args:
        config: the run; ``run-dir`` is set here.
        nodes: at least one.
        run_dir: a folder without a run in it, unless ``resume``.
        on_event: called with every event of the history, with ``{"event": "node-lost",
            "node": …, "log": …, "again_in": seconds}`` when a SuperNode dies, and with
            ``{"event": "views-progress", "done": users, "total": users, "note": …}`` while nodes
            write views.
        resume: resume the run in ``run_dir``.
        restarts: how many times in a row a SuperNode that dies is started again.
        start: the model that a new run starts from, if it is not a new one.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        FederationError: the run ended without a summary.
        ConfigError: a node's settings are wrong, or the run to resume is another one.
    """
    # before anything starts
    settings = {node.name: node.in_run(config).to_flat() for node in nodes}
    config = _prepare(config, run_dir, settings, resume, start)
    states = [node.config().state_folder for node in nodes]
    with workplace() as place, ending_on_signals(), Children(run_dir / "logs") as children:
        control, fleet_port = commands.free_ports(2)
        fleet = f"{commands.LOOPBACK}:{fleet_port}"
        link = SuperLink(children, place, config, control, fleet)
        app = commands.write_installed(place / "installed.zip")
        supernodes = [
            LocalSuperNode(children, place, link.cwd, fleet, flat, app, restarts)
            for flat in settings.values()
        ]
        link.wait_healthy()
        with link.probe() as probe:
            return link.run(run_dir, _LocalWatch(link, probe, supernodes, states, on_event))


def simulate_with_flower(
    config: RunConfig,
    data: Path,
    nodes: int,
    run_dir: Path,
    on_event: OnEvent,
    resume: bool = False,
    start: "Start | None" = None,
    cluster: str = "",
) -> RunSummary:
    """Run a federation of virtual nodes under Flower's simulation engine.

    Args:
        config: the run; ``run-dir`` is set here.
        data: folder of ``node-0`` … ``node-{nodes - 1}``.
        nodes: number of virtual nodes.
        run_dir: a folder without a run in it, unless ``resume``.
        on_event: called with every event of the history.
        resume: resume the run in ``run_dir``.
        start: see :func:`deploy`.
        cluster: ``HOST:PORT`` of a Ray cluster, see
            :func:`~lumos_core.deployment.ray_cluster.check_cluster`; empty: this machine alone.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        FederationError: the run ended without a summary.
        ConfigError: the run to resume is another one, or Ray is not installed.
    """
    require_extra("ray", "simulation", "Flower's simulation engine")
    config = _prepare(config, run_dir, {"nodes": nodes, "data": str(data)}, resume, start)
    states = [NodeConfig(data=str(data / f"node-{n}")).state_folder for n in range(nodes)]
    with workplace() as place, ending_on_signals(), Children(run_dir / "logs") as children:
        [control] = commands.free_ports(1)
        variables = ray_cluster.variables(cluster, data) if cluster else _own_ray(place, data)
        link = SuperLink(children, place, config, control, None, variables=variables)
        link.wait_healthy()
        with link.probe() as probe:
            watch = _LocalWatch(link, probe, [], states, on_event)
            return link.run(run_dir, watch, virtual_nodes=nodes)


def _own_ray(place: Path, data: Path) -> dict[str, str]:
    """The environment of a SuperLink whose simulation starts a Ray of its own."""
    ray = place / "r"  # sockets live there: the path must stay short
    ray.mkdir()
    return {
        SIMULATION_DATA: str(data.resolve()),
        "RAY_TMPDIR": str(ray),
        "OMP_NUM_THREADS": "1",
    }


def simulate_here(
    config: RunConfig,
    catalog: Catalog,
    users: Mapping[str, Sequences],
    data: Path,
    run_dir: Path,
    on_event: OnEvent,
    resume: bool = False,
    clients: "Clients" = "nodes",
    start: "Start | None" = None,
) -> RunSummary:
    """Run a federation in this process: no server, no messages, the same nodes and round loop.

    Args:
        config: the run; ``run-dir`` is set here.
        catalog, users: of the prepared folder ``data``, users by the name of their node.
        data: where nodes keep their views.
        run_dir: a folder without a run in it.
        on_event: see :func:`deploy`.
        resume: resume the run in ``run_dir``.
        clients: "users" makes a client of each user; their views are in one store.
        start: see :func:`deploy`.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        ConfigError: the run to resume is another one.
        LumosError: the run could not start.
    """
    from lumos_core.federation.error_feedback import leaves_residuals
    from lumos_core.federation.recorded import recorded  # imports torch
    from lumos_core.federation.simulate import (
        POPULATION,
        check_resumable,
        prepared_views,
        simulate,
    )
    from lumos_core.federation.warm_start import START_MODEL
    from lumos_core.flower.cryptography import FLOWER

    facts = {"nodes": len(users), "data": str(data), CLIENTS: clients}
    if resume and (before := read_nodes(run_dir).get(CLIENTS, "nodes")) != clients:
        raise ConfigError(
            f"{run_dir}: the run there has --clients {before}, found --clients {clients}; resume "
            "it as it was begun, or begin another run with --run-dir"
        )
    state = run_dir / NODE_STATES if leaves_residuals(config) else None
    if resume:
        check_resumable(config, clients, state)
    config = _prepare(config, run_dir, facts, resume, start)
    one_user = clients == "users"
    parts = {POPULATION: Sequences.concat(list(users.values()))} if one_user else users
    views_of = prepared_views(
        config, catalog, data, _ViewProgressHere(parts, on_event), shared=one_user
    )

    def federate(observe: OnEvent) -> "FederationResult":
        def both(event: Event) -> None:
            observe(event)
            on_event(event)

        return simulate(
            config, catalog, users, clients=clients, state=state, views_of=views_of,
            run_dir=run_dir, resume=resume, on_event=both,
            primitives=FLOWER if config.secure_aggregation else None,
            start=run_dir / START_MODEL if config.start_model else None,
        )  # fmt: skip

    return recorded(config, run_dir, federate)


# ---------------------------------------------------------------- start
def _prepare(
    config: RunConfig,
    run_dir: Path,
    nodes: Mapping[str, Any],
    resume: bool,
    start: "Start | None",
) -> RunConfig:
    """Prepare the run's folder; returns the final configuration.

    Raises:
        ConfigError: the run to resume is another one.
        FederationError: the folder holds a run, and ``resume`` is False.
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
        (run_dir / SUMMARY).unlink(missing_ok=True)  # of the run before it was resumed
    if start is not None:
        start.keep(run_dir)  # before the configuration, which says that it is there
    write_config(run_dir, config, nodes)
    seed_cache(default_cache())  # from here, as Flower sends nodes only the code of the apps
    return config


# ---------------------------------------------------------------- follow
class _LocalWatch(Watch):
    """Reports views and lost nodes, which it starts again; ends the run if its SuperLink has ended
    or hangs, or every node has ended and none is started again.

    Args:
        link: the SuperLink.
        probe: asks it whether it is healthy.
        supernodes: empty if nodes are virtual.
        states: the nodes' state folders.
        on_event: see :func:`deploy`.
    """

    def __init__(
        self,
        link: SuperLink,
        probe: Probe,
        supernodes: Sequence[LocalSuperNode],
        states: Sequence[Path],
        on_event: OnEvent,
    ) -> None:
        super().__init__(on_event)
        self._link, self._probe, self._supernodes = link.process, probe, supernodes
        self._views = _Views(states, on_event)

    def before(self) -> None:
        self._views.report()

    def without_summary(self) -> None:
        if self._link.exit_code is not None:
            raise ended(self._link)
        if self._probe.hung():
            raise FederationError(end_hung(self._link, "the SuperLink", LINK_SECONDS))
        for node in self._supernodes:
            node.look(self.on_event)
        if self._supernodes and all(node.lost for node in self._supernodes):
            last = self._supernodes[-1].process
            raise FederationError(
                f"every SuperNode has ended; the end of {last.log}:\n{last.last_lines()}"
            )


class _Views:
    """Reports how many views are written, as the state folders of this computer's nodes say."""

    def __init__(self, states: Sequence[Path], on_event: OnEvent) -> None:
        self._states, self._on_event = states, on_event
        self._since = time.time()
        self._last: Event = {}

    def report(self) -> None:
        """Read the state folders; send an event if something has changed."""
        found = {state: ViewProgress.of_node(state) for state in self._states}
        fresh = {s: p for s, p in found.items() if p is not None and p.time >= self._since}
        if not fresh:
            return
        busy = [p for p in fresh.values() if p.users_done < p.users]
        # the note is that of a node at work, rather than of a process that starts or waits
        candidates = sorted(busy, key=lambda p: (p.stage == "users", p.stage in ("", WAITING)))
        note = candidates[0].line() if candidates and candidates[0].stage != "users" else ""
        if not candidates or (not candidates[0].stage and any(p.stage for p in busy)):
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


class _ViewProgressHere:
    """Reports how many views are written, where this process writes them."""

    def __init__(self, users: Mapping[str, Sequences], on_event: OnEvent) -> None:
        self._total = {name: len(sequences) for name, sequences in users.items()}
        self._done = dict.fromkeys(users, 0)
        self._on_event = on_event

    def __call__(self, name: str, progress: BuildProgress) -> None:
        self._total[name], self._done[name] = progress.total, progress.total - progress.missing
        self._on_event(
            {
                "event": "views-progress",
                "done": sum(self._done.values()),
                "total": sum(self._total.values()),
                "note": name,
            }
        )
