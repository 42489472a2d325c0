"""A supervised server: TLS, node keys, and a run that goes on whatever dies.

Three processes: Flower's SuperLink, a SuperExec that starts the ServerApp, and ``flwr run``, which
submits the run and carries its log. Two things can be lost:

* the ServerApp: the run is submitted again, to the same SuperLink; nodes stay connected;
* SuperLink or SuperExec: everything is ended and started again after a pause; the database on disk
  keeps the nodes' ids, and nodes come back by themselves.

Either way the new ServerApp goes on after the last finished round, because that is what it finds in
the run's folder.
"""

import json
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.config import NODE_NAMES, RunConfig
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.follow import RunLostError, Watch, ended
from lumos_core.deployment.registry import Registry
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.deployment.supervision import STOP_SECONDS, Backoff, alone, say
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.folder import check_same_run, read_summary, write_config
from lumos_core.runs.history import Event, OnEvent
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.views.llm.find import default_cache
from lumos_core.views.titles.shipped import seed_cache

_SERVER_APP = "flwr-serverapp"
_RUNNING = (
    "a server with this state folder runs already; end it, or choose another folder with --state"
)


@dataclass(frozen=True)
class ServerOptions:
    """What ``lumos deploy server`` was asked for.

    Attributes:
        kit: credentials.
        config: the run; ``run-dir`` is set here.
        run_dir: folder of checkpoint, history, summary and logs.
        state: folder of the SuperLink's database.
        bind: address of the interface that the fleet port listens on.
        control_port: on loopback; 0 for any free one.
    """

    kit: ServerKit
    config: RunConfig
    run_dir: Path
    state: Path
    bind: str
    control_port: int


def serve(options: ServerOptions, console: Console) -> RunSummary:
    """Run the federation until it has a result; what dies on the way is started again.

    A run that has completed is gone on with if more rounds are asked for than it has done.

    Returns:
        The run's summary; look at its ``outcome``.

    Raises:
        ConfigError: the run's folder holds a run with another configuration, or damaged files.
        DataError, ModelError: a file in it is damaged.
        FederationError: another server uses the same folders, or the SuperLink does not start.
    """
    config = options.config.replace(run_dir=str(options.run_dir.resolve()))
    saved = check_same_run(options.run_dir, config)
    done = read_summary(options.run_dir)
    if done is not None and (why := _nothing_to_do(options.run_dir, done, config, saved)):
        say(console, escape(why))
        return done
    with ExitStack() as stack:
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        stack.enter_context(alone(options.state, _RUNNING))
        # Not before no other server can be at work on them:
        (options.run_dir / SUMMARY).unlink(missing_ok=True)  # of the part before
        write_config(options.run_dir, config, {n: {} for n in options.kit.manifest.nodes})
        seed_cache(default_cache())  # here: Flower sends the apps' code only
        stack.enter_context(ending_on_signals())
        lines = _Once(stack.enter_context(RoundLines(console, config.rounds).live()))
        backoff, served = Backoff(), False
        while True:
            backoff.started()
            generation = _Generation(options, config, lines, console)
            try:
                return generation.run()
            except FederationError as error:
                if not (served or generation.served):
                    raise  # a port in use, a damaged certificate: not a matter of time
                served = True
                pause = backoff.pause()
                say(console, f"[yellow]{escape(str(error))}[/]")
                say(console, f"starting everything again in {pause:.0f} s")
            time.sleep(pause)


class _Generation:
    """One life of a SuperLink."""

    def __init__(
        self, options: ServerOptions, config: RunConfig, on_event: OnEvent, console: Console
    ) -> None:
        self._options, self._config = options, config
        self._on_event, self._console = on_event, console
        self._registry = Registry(options.kit, options.state.resolve())
        self.served = False

    def run(self) -> RunSummary:
        """Until the run has a result.

        Raises:
            FederationError: SuperLink or SuperExec have ended, or did not start.
        """
        run_dir = self._options.run_dir
        with workplace() as place, Children(run_dir / "logs", grace=STOP_SECONDS) as children:
            link, executor = self._start(children, place)
            backoff = Backoff()
            while True:
                backoff.started()
                watch = _ServerWatch(children, (link.process, executor), run_dir, self._on_event)
                try:
                    return link.run(run_dir, watch)
                except RunLostError:
                    pause = backoff.pause()
                    lost = "[yellow]the ServerApp ended without a result[/]"
                    say(self._console, f"{lost}; submitting it again in {pause:.0f} s")
                time.sleep(pause)

    def _start(self, children: Children, place: Path) -> tuple[SuperLink, Child]:
        options, kit = self._options, self._options.kit
        control = options.control_port or commands.free_ports(1)[0]
        fleet = f"{options.bind}:{kit.manifest.port}"
        self._registry.prepare()
        link = SuperLink(
            children,
            place,
            self._config,
            control,
            fleet,
            security=commands.LinkSecurity(kit.ca, kit.certificate, kit.key, kit.secret),
            database=self._registry.database,
            variables={NODE_NAMES: str(self._registry.path), "OMP_NUM_THREADS": "1"},
        )
        link.wait_healthy()
        try:
            self._registry.register(link.environment, link.cwd)
        except FederationError:
            children.stop()
            self._registry.drop()  # it and the database do not fit each other
            raise
        executor = link.start("superexec", commands.superexec(control, kit.secret, kit.ca))
        self.served = True
        nodes = ", ".join(kit.manifest.nodes)
        say(self._console, f"serving on {fleet}; registered nodes: {nodes}")
        return link, executor


class _ServerWatch(Watch):
    """Everything has to be started again without SuperLink or SuperExec; the run has ended with its
    ServerApp, whatever else still runs.

    Args:
        children: stopped when one of ``needed`` has ended.
        needed: SuperLink and SuperExec.
        run_dir: the run's folder.
        on_event: called with every event of the history.
    """

    def __init__(
        self, children: Children, needed: Iterable[Child], run_dir: Path, on_event: OnEvent
    ) -> None:
        super().__init__(on_event)
        self._children, self._needed, self._run_dir = children, needed, run_dir
        self._seen = False

    def before(self) -> None:
        for child in self._needed:
            if child.exit_code is not None:
                # A ServerApp that lost its SuperLink may yet write that the run has failed.
                self._children.stop()
                _drop_failure(self._run_dir)
                raise ended(child)

    def has_ended(self, run: Child) -> bool:
        running = self._children.runs(_SERVER_APP)
        self._seen = self._seen or running
        return not running and (self._seen or run.exit_code is not None)


class _Once:
    """Passes each event on once: a resumed run writes its history anew."""

    def __init__(self, callback: OnEvent) -> None:
        self._callback = callback
        self._seen: set[str] = set()

    def __call__(self, event: Event) -> None:
        text = json.dumps(event, sort_keys=True)
        if text not in self._seen:
            self._seen.add(text)
            self._callback(event)


def _nothing_to_do(
    run_dir: Path, done: RunSummary, config: RunConfig, saved: RunConfig | None
) -> str:
    """Why a run that has ended has no further round under a configuration, or nothing.

    Args:
        run_dir: the run's folder.
        done: its summary.
        config: what is asked for.
        saved: what it was last run with.

    Raises:
        ModelError: there are further rounds, but no checkpoint to go on with.
    """
    if done.outcome != "completed":
        return ""
    rounds = done.rounds
    if config.rounds <= rounds:
        return (
            f"nothing to do: {rounds} rounds are done, asked for are {config.rounds}; to go on, "
            f"give --rounds a larger number than {rounds}"
        )
    worse = load_checkpoint(run_dir / LATEST).progress.evaluations_since_best
    if 0 < config.patience <= worse:
        return (
            f"nothing to do: the run is out of patience after {rounds} rounds ({worse} evaluations "
            f"without a better NDCG@20, patience = {config.patience}); to go on, raise it with "
            "-c patience=N (0: endless)"
        )
    # A reason of a completed run is why it ended early: its privacy budget.
    if done.reason and not (saved and _allows_more(config.max_epsilon, saved.max_epsilon)):
        return (
            f"nothing to do: the run ended after {rounds} rounds ({done.reason}); to go on, "
            "raise it with -c max-epsilon=E"
        )
    return ""


def _allows_more(limit: float, before: float) -> bool:
    """Whether a privacy budget is larger than before; 0 is none at all."""
    return before > 0 and (limit == 0 or limit > before)


def _drop_failure(run_dir: Path) -> None:
    summary = read_summary(run_dir)
    if summary is not None and summary.outcome != "completed":
        (run_dir / SUMMARY).unlink()
