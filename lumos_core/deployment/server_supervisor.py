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
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.config import NODE_NAMES, RunConfig
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.follow import (
    FOLLOW_SECONDS,
    SUMMARY_SECONDS,
    Tail,
    ended,
    wait_healthy,
)
from lumos_core.deployment.registry import Registry
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.deployment.supervision import Backoff, alone, say
from lumos_core.errors import FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.folder import check_same_run, read_summary, write_config
from lumos_core.runs.history import HISTORY, Event, OnEvent
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.views.llm.find import default_cache
from lumos_core.views.titles.shipped import seed_cache

STOP_SECONDS = 8.0
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


class _RunLostError(Exception):
    """The ServerApp ended without a result."""


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
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lumos-")))
        lines = _Once(stack.enter_context(RoundLines(console, config.rounds).live()))
        backoff, served = Backoff(), False
        while True:
            backoff.started()
            generation = _Generation(options, config, place, lines, console)
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
        self,
        options: ServerOptions,
        config: RunConfig,
        place: Path,
        on_event: OnEvent,
        console: Console,
    ) -> None:
        self._options, self._on_event, self._console = options, on_event, console
        self._registry = Registry(options.kit, options.state.resolve())
        self.served = False
        shutil.rmtree(place, ignore_errors=True)
        self._home, self._empty = place / "home", place / "empty"
        self._empty.mkdir(parents=True)  # no package is picked up from where processes start
        self._app = commands.stage_app(place / "app")
        self._run_config = commands.write_toml(place / "run.toml", config.to_flat())
        extra = {
            NODE_NAMES: str(self._registry.path),
            "OMP_NUM_THREADS": "1",
            # One ServerApp is all it starts, and the SuperLink writes a line for every question.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1",
        }
        self._environment = commands.environment(self._home, **extra)

    def run(self) -> RunSummary:
        """Until the run has a result.

        Raises:
            FederationError: SuperLink or SuperExec have ended, or did not start.
        """
        with Children(self._options.run_dir / "logs", grace=STOP_SECONDS) as children:
            link, executor = self._start(children)
            backoff = Backoff()
            while True:
                backoff.started()
                run = children.start(
                    "server",
                    commands.submit(self._app, self._run_config, None),
                    environment=self._environment,
                    cwd=self._empty,
                )
                try:
                    return self._follow(children, link, executor, run)
                except _RunLostError as lost:
                    pause = backoff.pause()
                    say(self._console, f"[yellow]{lost}[/]; submitting it again in {pause:.0f} s")
                    children.stop_one(run)
                time.sleep(pause)

    def _start(self, children: Children) -> tuple[Child, Child]:
        options, kit = self._options, self._options.kit
        control = options.control_port or commands.free_ports(1)[0]
        fleet = f"{options.bind}:{kit.manifest.port}"
        self._registry.prepare()
        commands.write_connection(self._home, control, kit.ca)
        link = children.start(
            "superlink",
            commands.superlink(
                control,
                fleet,
                "--database",
                str(self._registry.database),
                security=commands.LinkSecurity(kit.ca, kit.certificate, kit.key, kit.secret),
            ),
            environment=self._environment,
            cwd=self._empty,
        )
        wait_healthy(link, control, kit.ca)
        try:
            self._registry.register(self._environment, self._empty)
        except FederationError:
            children.stop()
            self._registry.drop()  # it and the database do not fit each other
            raise
        executor = children.start(
            "superexec",
            commands.superexec(control, kit.secret, kit.ca),
            environment=self._environment,
            cwd=self._empty,
        )
        self.served = True
        nodes = ", ".join(kit.manifest.nodes)
        say(self._console, f"serving on {fleet}; registered nodes: {nodes}")
        return link, executor

    def _follow(self, children: Children, link: Child, executor: Child, run: Child) -> RunSummary:
        run_dir = self._options.run_dir
        events = Tail(run_dir / HISTORY, self._on_event)
        seen, since = False, 0.0
        while True:
            for child in (link, executor):
                if child.exit_code is not None:
                    # A ServerApp that lost its SuperLink may yet write that the run has failed.
                    children.stop()
                    _drop_failure(run_dir)
                    raise ended(child)
            summary = read_summary(run_dir)
            events.report()
            if summary is not None:
                return summary
            running = children.runs(_SERVER_APP)
            if running or not (seen or run.exit_code is not None):
                since = 0.0
            elif not since:
                since = time.monotonic()
            elif time.monotonic() - since > SUMMARY_SECONDS:
                raise _RunLostError("the ServerApp ended without a result")
            seen = seen or running
            time.sleep(FOLLOW_SECONDS)


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
