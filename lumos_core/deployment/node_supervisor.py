"""A supervised SuperNode: checked before it starts, started again when it ends.

Two processes: Flower's SuperNode, which talks to the server, and a SuperExec, which starts a
ClientApp process for every message. They communicate through a loopback port and share a secret, so
that no other process of this machine can take over the node's work. If one of the two ends, both
are started again; one that runs but shows no sign of life is ended.

A third one, from which ClientApps are forked, stays when the others are started again: importing
what they need takes seconds. It is started again if it has died.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.config import APPROVED_APPS
from lumos_core.deployment import checks, credentials
from lumos_core.deployment.connection_file import ENDED, STARTING, ConnectionWriter
from lumos_core.deployment.connection_log import REFUSED, ConnectionLog
from lumos_core.deployment.folders import NodeBundle
from lumos_core.deployment.hung_processes import PROGRAM_SECONDS, SignOfLife, end_hung
from lumos_core.deployment.live_certificates import Daily, authority_warnings
from lumos_core.deployment.supervision import STOP_SECONDS, Backoff, alone, say
from lumos_core.deployment.unfinished import Unfinished
from lumos_core.federation.owner_floor import Refusal
from lumos_core.flower import commands, preload, preload_server, preload_stub, sign_off
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.folder_version import open_folder
from lumos_core.views.llm.find import default_cache
from lumos_core.views.meter import ViewProgress
from lumos_core.views.titles.shipped import seed_cache

INSTALLED = "installed.zip"  # in the state folder: the app that this node runs
NOTE = "connected.json"  # in the state folder, as long as the node is connected
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # between two looks for the preloaded process
_PRELOADED = Path(preload_server.__file__).name
_NAMES = {"supernode": "SuperNode", "superexec": "SuperExec"}
_VIEWS_SECONDS = 10.0  # between two lines about views
_RUNNING = (
    "a node with this state folder runs already; end it, or choose another folder for this node "
    "with --state"
)
_UNSIGNED = "terminated gracefully"
_REASONS = {
    "not registered|Unregistered|2004": REFUSED,
    "not started: .*": "",  # the text itself
    "SSL|CERTIFICATE_VERIFY_FAILED|handshake": "the server's certificate is not from ca.crt's CA",
    # How a SuperNode ends, without a reason, when the server does not accept its signature.
    _UNSIGNED: (
        "the server refuses what this node signs: probably this machine's clock is more than 5 s "
        "ahead of the server's or 5 min behind; set the clocks (NTP)"
    ),
}
_NO_LONGER = (
    "the server refuses what this node signs, though it accepted it before: the node was removed "
    "there or has another key, or this machine's clock is more than 5 s ahead of the server's or "
    "5 min behind"
)


def check(bundle: NodeBundle) -> Iterator[str]:
    """Check everything that a node needs; yields lines to show (rich markup).

    Raises:
        ConfigError: apps cannot be checked in this version of Flower; key or certificate are
            missing, unsafe, damaged or expired; there is no such device or LLM; the server answers
            without TLS; or its certificate is not from the bundle's authority.
        DataError: the data are malformed; the error names file and line.
    """
    config = bundle.config
    chosen = chain(
        checks.flower(),
        checks.authority(bundle.ca),
        checks.node_key(bundle.key),
        checks.device(config.device),
        checks.node_llm(config.llm),
        checks.data(Path(config.data)),
        checks.state(state_folder(bundle)),
        checks.server(bundle.superlink, bundle.ca),
    )
    for finding in chosen:
        if finding.error is not None:
            raise finding.error
        if finding.check == "data":  # shown even if nothing is wrong: it says what takes part
            yield escape(f"{config.name}: {finding.found}")
        elif finding.level != "ok":
            yield f"[yellow]{escape(finding.found)}[/]"
    if Unfinished.of_node(state_folder(bundle)) is not None:
        yield (
            "[yellow]'lumos node forget' was interrupted on this node, and something of the users "
            "may be left: end the node and give the same command again[/]"
        )


def state_folder(bundle: NodeBundle) -> Path:
    """The absolute folder of the node's views, ledger and logs."""
    return bundle.config.state_folder.resolve()


def keep_running(bundle: NodeBundle, runtime_port: int, console: Console) -> None:
    """Keep the node running until a signal raises an exception.

    Args:
        bundle: a bundle that :func:`check` has accepted.
        runtime_port: loopback port for the node's own processes; 0 for any free one.
        console: where starts, ends and their reasons are shown.

    Raises:
        FederationError: another process already runs this node.
    """
    state = state_folder(bundle)
    seed_cache(default_cache())  # from here, as Flower sends nodes only the code of the apps
    with (
        alone(state, _RUNNING),
        ending_on_signals(),
        Children(state / "logs") as lasting,
    ):
        open_folder(state, "node state")
        commands.write_installed(state / INSTALLED)
        backoff, preloaded = Backoff(), _Preloaded(lasting, state / "preloaded")
        expiry = Daily(lambda: authority_warnings(bundle.ca), lambda text: say(console, text))
        while True:
            port = runtime_port or commands.free_ports(1)[0]
            connected, reason = _run_once(bundle, port, state, preloaded, expiry, console)
            if connected or reason == REFUSED:  # a refusal passes: longer pauses would only add up
                backoff.reset()
            pause = backoff.pause()
            say(console, f"[yellow]{escape(reason)}[/]; starting again in {pause:.0f} s")
            time.sleep(pause)


class _Preloaded:
    """The process from which ClientApps are forked.

    Args:
        children: it becomes one of them.
        folder: for its program and socket.
    """

    def __init__(self, children: Children, folder: Path) -> None:
        self.children, self._folder = children, folder
        self._environment: dict[str, str] = {}
        self._cwd = folder
        self._backoff = Backoff()
        self._due = 0.0

    def environment(self, environment: dict[str, str], cwd: Path) -> dict[str, str]:
        """Start it, unless it runs; returns the environment for what starts ClientApps."""
        self._environment, self._cwd = environment, cwd
        if self.children.runs(_PRELOADED):
            return {**environment, preload_stub.FOLDER: str(self._folder)}
        return preload.start(self.children, "preloaded", self._folder, environment, cwd)

    def look(self) -> None:
        """Start it again, if it has died."""
        now = time.monotonic()
        if now < self._due or not (self._folder / preload_server.SOCKET).exists():
            return
        self._due = now + _LOOK_SECONDS
        if not self.children.runs(_PRELOADED):
            self._due = now + _LOOK_SECONDS + self._backoff.pause()
            self.environment(self._environment, self._cwd)


def _run_once(
    bundle: NodeBundle,
    port: int,
    state: Path,
    preloaded: _Preloaded,
    expiry: Daily,
    console: Console,
) -> tuple[bool, str]:
    """Start both processes and wait until one has ended.

    Returns:
        Whether the node was connected, and the reason for the end, as far as it is known.
    """
    home = state / "flower"
    shutil.rmtree(home, ignore_errors=True)
    empty = home / "empty"  # processes start here, so that they import no package by accident
    empty.mkdir(parents=True)
    secret = home / "superexec.secret"
    credentials.new_secret(secret)
    flat = bundle.config.to_flat()
    approved = commands.approving(state / INSTALLED, str(flat.pop(APPROVED_APPS)))
    settings = commands.write_toml(home / "node.toml", flat)
    environment = commands.environment(
        home,
        OMP_NUM_THREADS=str(bundle.config.threads),
        **{sign_off.SWITCH: str(state / NOTE), **approved},
    )
    security = commands.NodeSecurity(bundle.ca, bundle.key, secret)
    with Children(state / "logs", grace=STOP_SECONDS) as children:
        environment = preloaded.environment(environment, empty)
        programs = {
            "supernode": commands.supernode(bundle.superlink, port, settings, security=security),
            "superexec": commands.node_superexec(port, secret),
        }
        watched = {}
        for name, command in programs.items():
            signs = SignOfLife(home / f"{name}.alive")
            own = {**environment, **signs.variables}
            watched[name] = children.start(name, command, environment=own, cwd=empty), signs
        node, _ = watched["supernode"]
        say(console, f"{bundle.config.name} started; logs in {escape(str(state / 'logs'))}")
        log = ConnectionLog(node.log, node.begin)
        connection = ConnectionWriter(state)
        hung = _wait(
            watched, log, connection, console,
            (
                preloaded.look, expiry.look,
                _ViewLog(state, console).look, _RefusalLog(state, console).look,
                lambda: children.reap(preloaded.children),  # what a SuperExec that died had started
            ),
        )  # fmt: skip
        connection.note(ENDED)
        if hung:
            return log.connected, hung
        if node.exit_code is None:
            return log.connected, "its SuperExec has ended"
        return log.connected, _reason("\n".join(log.lines), log.connected)


def _wait(
    watched: Mapping[str, tuple[Child, SignOfLife]],
    log: ConnectionLog,
    connection: ConnectionWriter,
    console: Console,
    looks: Iterable[Callable[[], None]],
) -> str:
    """Show and note what changes until one of the processes has ended; returns what was hung, if
    any."""
    while True:
        running = all(child.exit_code is None for child, _ in watched.values())
        for text in log.changes():  # once more after the end: the last lines tell the reason
            say(console, text)
        connection.note(log.state or STARTING)
        for look in looks:
            look()
        if not running:
            return ""
        for name, (child, signs) in watched.items():
            if signs.hung():
                return end_hung(child, f"its {_NAMES[name]}", PROGRAM_SECONDS)
        time.sleep(_POLL_SECONDS)


class _ViewLog:
    """Shows the progress of views: a line every few seconds while they are being written."""

    def __init__(self, state: Path, console: Console) -> None:
        self._state, self._console = state, console
        self._since, self._last_time, self._last_line = time.time(), 0.0, ""

    def look(self) -> None:
        """Read the progress; print a line if one is due."""
        found = ViewProgress.of_node(self._state)
        if found is None or found.time < self._since:
            return
        complete = found.users_done >= found.users
        line = f"all {found.users} users have views" if complete else found.line()
        due = time.time() - self._last_time >= _VIEWS_SECONDS or complete
        if line != self._last_line and due:
            self._last_line, self._last_time = line, time.time()
            say(self._console, f"views: {escape(line)}")


class _RefusalLog:
    """Shows why the node refuses a message, once for every reason."""

    def __init__(self, state: Path, console: Console) -> None:
        self._state, self._console = state, console
        self._since = time.time()
        self._shown: tuple[str, ...] = ()

    def look(self) -> None:
        """Read the last refusal; print it if it is another than before."""
        found = Refusal.of_node(self._state)
        if found is None or found.time < self._since or found.sentences == self._shown:
            return
        self._shown = found.sentences
        for sentence in found.sentences:
            say(self._console, f"[yellow]{escape(sentence)}[/]")


def _reason(output: str, connected: bool = False) -> str:
    for pattern, reason in _REASONS.items():
        if found := re.search(pattern, output):
            if connected and pattern == _UNSIGNED:
                return _NO_LONGER
            return reason or found.group()
    return "its SuperNode has ended"
