"""A supervised server: TLS, node keys, and a run that survives the death of its processes.

Three processes: Flower's SuperLink, a SuperExec that starts the ServerApp, and ``flwr run``, which
submits the run and shows its log. If one dies:

* the ServerApp: the run is submitted again, to the same SuperLink; nodes stay connected;
* the SuperExec: it is started again, and the run is submitted again, as the ServerApp ends with it;
* one that runs but does not answer (:mod:`lumos_core.deployment.hung_processes`) is ended, and
  counts as dead; the SuperExec ends a ServerApp that hangs;
* the SuperLink, or the SuperExec again and again: everything is ended and started again after a
  pause; the database on disk keeps the nodes' ids, and nodes come back by themselves.

In all cases the new ServerApp resumes after the last finished round, because it finds that round's
state in the run's folder.

While the server runs, its folder is looked at: nodes are added and removed
(:mod:`lumos_core.deployment.live_admission`), and after a new certificate everything is started
again (:mod:`lumos_core.deployment.live_certificates`).
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from lumos_core.config import NODE_NAMES, RunConfig
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.follow import RunLostError, Watch, ended
from lumos_core.deployment.hung_processes import (
    LINK_SECONDS,
    PROGRAM_SECONDS,
    Probe,
    SignOfLife,
    end_hung,
)
from lumos_core.deployment.live_admission import LiveAdmission
from lumos_core.deployment.live_certificates import LiveCertificates, RenewedError
from lumos_core.deployment.registry import Registry
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.deployment.superlink import SuperLink, workplace
from lumos_core.deployment.supervision import STOP_SECONDS, Backoff, alone, say
from lumos_core.errors import FederationError, LumosError
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.folder import check_same_run, read_summary, write_config
from lumos_core.runs.folder_version import open_folder
from lumos_core.runs.history import Event, OnEvent
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.views.llm.find import default_cache
from lumos_core.views.titles.shipped import seed_cache

if TYPE_CHECKING:  # imports torch
    from lumos_core.federation.warm_start import Start

_SERVER_APP = "flwr-serverapp"
_ORPHAN_SECONDS = 0.5  # for what cannot reach its SuperLink any more to end by itself
_EXECUTOR_STARTS = 3  # of a SuperExec without progress of the run; then the SuperLink as well
_SUMMARY_SECONDS = 0.5  # a ServerApp that was seen writes its summary before it ends
_RUNNING = (
    "a server with this state folder runs already; end it, or choose another folder with --state"
)


@dataclass(frozen=True)
class ServerOptions:
    """The options of ``lumos deploy server``.

    Attributes:
        kit: the server's credentials.
        config: the run; ``run-dir`` is set here.
        run_dir: folder of checkpoint, history, summary and logs.
        state: folder of the SuperLink's database.
        bind: address of the interface that the fleet port listens on.
        control_port: loopback port; 0 for any free one.
        start: the model that a new run starts from, if it is not a new one.
    """

    kit: ServerKit
    config: RunConfig
    run_dir: Path
    state: Path
    bind: str
    control_port: int
    start: "Start | None" = None


def serve(options: ServerOptions, console: Console) -> RunSummary:
    """Run the federation until it has a result; a process that dies is started again.

    A completed run continues if the configuration allows more rounds than it has done.

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
        open_folder(options.state, "server state")
        # From here on no other server uses these folders, so files may be changed.
        (options.run_dir / SUMMARY).unlink(missing_ok=True)  # of the run before it was resumed
        if options.start is not None:
            options.start.keep(options.run_dir)  # before the configuration, which says it is there
        write_config(options.run_dir, config, {n: {} for n in options.kit.manifest.nodes})
        seed_cache(default_cache())  # from here, as Flower sends only the code of the apps
        stack.enter_context(ending_on_signals())
        lines = _Once(stack.enter_context(RoundLines(console, config.rounds).live()))
        backoff, served = Backoff(), False
        while True:
            before = lines.news
            options = replace(options, kit=_present(options.kit, console))
            generation = _Generation(options, config, lines, console)
            try:
                return generation.run()
            except RenewedError as error:
                served = True
                say(console, escape(str(error)))
                continue
            except FederationError as error:
                served = served or generation.served
                if not (served or generation.unfit):
                    raise  # such as a port in use or a damaged certificate: waiting does not help
                if lines.news > before:
                    backoff.reset()
                pause = backoff.pause()
                say(console, f"[yellow]{escape(str(error))}[/]")
                say(console, f"starting everything again in {pause:.0f} s")
            time.sleep(pause)


class _Generation:
    """One SuperLink, from its start to its end, and the runs that are submitted to it."""

    def __init__(
        self, options: ServerOptions, config: RunConfig, on_event: "_Once", console: Console
    ) -> None:
        self._options, self._kit, self._config = options, options.kit, config
        self._on_event, self._console = on_event, console
        self._registry = Registry(options.kit, options.state.resolve())
        self.served = False
        self.unfit = False  # the database of an earlier start did not take the nodes' keys

    def run(self) -> RunSummary:
        """Start everything and follow the run until it has a result.

        Raises:
            FederationError: SuperLink or SuperExec have ended, or did not start.
        """
        run_dir = self._options.run_dir
        with workplace() as place, Children(run_dir / "logs", grace=STOP_SECONDS) as children:
            link, executor = self._start(children, place)
            looks = self._looks(children, link)
            backoff = Backoff()
            with link.probe() as probe:
                while True:
                    before = self._on_event.news
                    watch = _ServerWatch(
                        children, link.process, probe, executor, run_dir, looks, self._on_event
                    )
                    try:
                        return link.run(run_dir, watch)
                    except RunLostError:
                        if self._on_event.news > before:
                            backoff.reset()
                            executor.succeeded()
                        pause = backoff.pause()
                        lost = "[yellow]the ServerApp ended without a result[/]"
                        say(self._console, f"{lost}; submitting it again in {pause:.0f} s")
                    time.sleep(pause)

    def _start(self, children: Children, place: Path) -> tuple[SuperLink, "_Executor"]:
        options, kit = self._options, self._kit
        control = options.control_port or commands.free_ports(1)[0]
        fleet = f"{options.bind}:{kit.manifest.port}"
        reused = self._registry.prepare()
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
            self._registry.drop()  # registry and database do not fit each other
            self.unfit = reused
            raise
        command = commands.superexec(control, kit.secret, kit.ca)
        life = place / "superexec.alive"
        executor = _Executor(
            lambda signs: link.start("superexec", command, signs.variables), life, self._console
        )
        self.served = True
        nodes = ", ".join(kit.manifest.nodes)
        say(self._console, f"serving on {fleet}; registered nodes: {nodes}")
        return link, executor

    def _looks(self, children: Children, link: SuperLink) -> list[Callable[[], None]]:
        """What is looked at while the run goes on."""

        def tell(text: str) -> None:
            say(self._console, text)

        admission = LiveAdmission(
            self._kit.folder,
            self._registry,
            lambda command: link.start("admission", command),
            children.stop_one,
            tell,
            self._nodes_changed,
        )
        certificates = LiveCertificates(self._kit, self._options.run_dir, tell)
        return [admission.look, certificates.look]

    def _nodes_changed(self, names: Sequence[str]) -> None:
        config = self._config
        write_config(self._options.run_dir, config, {name: {} for name in names})
        if len(names) < config.min_replies:
            few = (
                f"{len(names)} nodes are registered, but the run needs min-replies = "
                f"{config.min_replies}: rounds fail until one is added; or end the server and "
                "start it again, which takes the smaller number if the run's privacy allows it"
            )
            say(self._console, f"[yellow]{few}[/]")


class _Executor:
    """A SuperExec. If it ends, it is started again while the SuperLink and the nodes go on.

    Args:
        start: starts the process, which shows signs of life.
        life: the file of these.
        console: says what is done.
    """

    def __init__(self, start: Callable[[SignOfLife], Child], life: Path, console: Console) -> None:
        self._start, self._life, self._console = start, life, console
        self._backoff = Backoff()
        self._starts = 0
        self._again: float | None = None  # time.monotonic() of the next start
        self._begin()

    def _begin(self) -> None:
        self._signs = SignOfLife(self._life)
        self.process = self._start(self._signs)

    def lost(self) -> bool:
        """Whether it has ended just now, or hung; it is going to be started again."""
        if self.process.exit_code is None and self._signs.hung():
            text = end_hung(self.process, "the SuperExec", PROGRAM_SECONDS)
            say(self._console, f"[yellow]{text}[/]")
        if self.process.exit_code is None or self._again is not None:
            return False
        pause = self._backoff.pause()
        self._again = time.monotonic() + pause
        say(self._console, f"[yellow]{escape(str(ended(self.process)))}[/]")
        say(self._console, f"starting the SuperExec again in {pause:.0f} s")
        return True

    def succeeded(self) -> None:
        """The run has made progress."""
        self._backoff.reset()
        self._starts = 0

    @property
    def hopeless(self) -> bool:
        """Whether it has ended as often as it may without a success."""
        return self.process.exit_code is not None and self._starts >= _EXECUTOR_STARTS

    def keep(self) -> None:
        """Start it again, if it has ended and the pause is over."""
        if self._again is not None and time.monotonic() >= self._again:
            self._again, self._starts = None, self._starts + 1
            self._begin()


class _ServerWatch(Watch):
    """Keeps the SuperExec running. Raises if the SuperLink has ended: then everything has to be
    started again. A run ends with its ServerApp, even if ``flwr run`` still runs.

    Args:
        children: stopped when the SuperLink has ended, or the SuperExec too often.
        link: the SuperLink.
        probe: asks it whether it is healthy.
        executor: the SuperExec.
        run_dir: the run's folder.
        looks: what else is looked at; raises if everything has to be started again.
        on_event: called with every event of the history.
    """

    def __init__(
        self,
        children: Children,
        link: Child,
        probe: Probe,
        executor: _Executor,
        run_dir: Path,
        looks: Sequence[Callable[[], None]],
        on_event: OnEvent,
    ) -> None:
        super().__init__(on_event)
        self._children, self._run_dir, self._looks = children, run_dir, looks
        self._link, self._probe, self._executor = link, probe, executor
        self._seen = False

    def before(self) -> None:
        hung = ""
        if self._link.exit_code is None and self._probe.hung():
            hung = end_hung(self._link, "the SuperLink", LINK_SECONDS)
        if self._link.exit_code is not None or self._executor.hopeless:
            lost = self._link if self._link.exit_code is not None else self._executor.process
            self._stop_all()
            raise FederationError(hung) if hung else ended(lost)
        if self._executor.lost():
            _drop_failure(self._run_dir)  # of the ServerApp that has ended with it
        self._executor.keep()
        self._children.reap()  # a ServerApp whose SuperExec has died
        for look in self._looks:
            try:
                look()
            except FederationError:
                self._stop_all()
                raise

    def _stop_all(self) -> None:
        """A ServerApp that loses its SuperLink may still write that the run has failed. It has
        nothing to sign off from: what is finished is in the run's folder."""
        self._children.stop(_ORPHAN_SECONDS)
        _drop_failure(self._run_dir)

    def summary_seconds(self) -> float:
        return _SUMMARY_SECONDS if self._seen else super().summary_seconds()

    def has_ended(self, run: Child) -> bool:
        running = self._children.runs(_SERVER_APP)
        self._seen = self._seen or running
        return not running and (self._seen or run.exit_code is not None)


class _Once:
    """Passes each event on only once, although a resumed run writes its history again."""

    def __init__(self, callback: OnEvent) -> None:
        self._callback = callback
        self._seen: set[str] = set()

    @property
    def news(self) -> int:
        """Number of events that were passed on: if it grows, the run makes progress."""
        return len(self._seen)

    def __call__(self, event: Event) -> None:
        text = json.dumps(event, sort_keys=True)
        if text not in self._seen:
            self._seen.add(text)
            self._callback(event)


def _present(kit: ServerKit, console: Console) -> ServerKit:
    """The server's folder as it is now; as it was, if it cannot be read."""
    try:
        return ServerKit.read(kit.folder)
    except LumosError as error:
        say(console, f"[yellow]{escape(str(error))}; nodes and port stay as they were[/]")
        return kit


def _nothing_to_do(
    run_dir: Path, done: RunSummary, config: RunConfig, saved: RunConfig | None
) -> str:
    """Why a run that has ended has no further round under a configuration; empty if it has one.

    Args:
        run_dir: the run's folder.
        done: its summary.
        config: the requested configuration.
        saved: the configuration of its last start.

    Raises:
        ModelError: there are further rounds, but no checkpoint to resume from.
    """
    if done.outcome != "completed":
        return ""
    rounds = done.rounds
    if config.rounds <= rounds:
        return (
            f"nothing to do: {rounds} rounds are done, requested are {config.rounds}; to continue, "
            f"give --rounds a larger number than {rounds}"
        )
    worse = load_checkpoint(run_dir / LATEST).progress.evaluations_since_best
    if 0 < config.patience <= worse:
        return (
            f"nothing to do: the run is out of patience after {rounds} rounds ({worse} evaluations "
            f"without a better NDCG@20, patience = {config.patience}); to continue, raise patience "
            "with -c patience=N (0: endless)"
        )
    # A completed run has a reason only if it ended early: here, by its privacy budget.
    if done.reason and not (saved and _allows_more(config.max_epsilon, saved.max_epsilon)):
        return (
            f"nothing to do: the run ended after {rounds} rounds ({done.reason}); to continue, "
            "raise the privacy budget with -c max-epsilon=E"
        )
    return ""


def _allows_more(limit: float, before: float) -> bool:
    """Whether a privacy budget is larger than before; 0 means no limit."""
    return before > 0 and (limit == 0 or limit > before)


def _drop_failure(run_dir: Path) -> None:
    summary = read_summary(run_dir)
    if summary is not None and summary.outcome != "completed":
        (run_dir / SUMMARY).unlink()
