"""A supervised SuperNode: checked before it starts, started again when it ends.

Two processes: Flower's SuperNode, which talks to the server, and a SuperExec, which starts a
ClientApp process for every message. They communicate through a loopback port and share a secret, so
that no other process of this machine can take over the node's work. If one of the two ends, both
are started again.
"""

import re
import shutil
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.deployment import checks, credentials
from lumos_core.deployment.connection_log import REFUSED, ConnectionLog
from lumos_core.deployment.folders import NodeBundle
from lumos_core.deployment.supervision import STOP_SECONDS, Backoff, alone, say
from lumos_core.flower import commands, preload, sign_off
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.views.llm.find import default_cache
from lumos_core.views.meter import ViewProgress
from lumos_core.views.titles.shipped import seed_cache

NOTE = "connected.json"  # in the state folder, as long as the node is connected
_POLL_SECONDS = 0.5
_VIEWS_SECONDS = 10.0  # between two lines about views
_RUNNING = (
    "a node with this state folder runs already; end it, or choose another folder for this node "
    "with --state"
)
_REASONS = {
    "not registered|Unregistered|2004": REFUSED,
    "SSL|CERTIFICATE_VERIFY_FAILED|handshake": "the server's certificate is not from ca.crt's CA",
    # A SuperNode exits without a reason when the server does not accept its signature.
    "terminated gracefully": (
        "the server refuses what this node signs: probably this machine's clock is more than 5 s "
        "ahead of the server's or 5 min behind; set the clocks (NTP)"
    ),
}


def check(bundle: NodeBundle) -> Iterator[str]:
    """Check everything that a node needs; yields lines to show (rich markup).

    Raises:
        ConfigError: key or certificate are missing, unsafe, damaged or expired; there is no such
            device or LLM; the server answers without TLS; or its certificate is not from the
            bundle's authority.
        DataError: the data are malformed; the error names file and line.
    """
    config = bundle.config
    chosen = chain(
        checks.certificate(bundle.ca),
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
    with alone(state, _RUNNING), ending_on_signals():
        backoff = Backoff()
        while True:
            port = runtime_port or commands.free_ports(1)[0]
            connected, reason = _run_once(bundle, port, state, console)
            if connected or reason == REFUSED:  # a refusal passes: longer pauses would only add up
                backoff.reset()
            pause = backoff.pause()
            say(console, f"[yellow]{escape(reason)}[/]; starting again in {pause:.0f} s")
            time.sleep(pause)


def _run_once(bundle: NodeBundle, port: int, state: Path, console: Console) -> tuple[bool, str]:
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
    settings = commands.write_toml(home / "node.toml", bundle.config.to_flat())
    environment = commands.environment(
        home,
        OMP_NUM_THREADS=str(bundle.config.threads),
        **{sign_off.SWITCH: str(state / NOTE)},
    )
    security = commands.NodeSecurity(bundle.ca, bundle.key, secret)
    with Children(state / "logs", grace=STOP_SECONDS) as children:
        environment = preload.start(children, "preloaded", home / "bin", environment, empty)
        node = children.start(
            "supernode",
            commands.supernode(bundle.superlink, port, settings, security=security),
            environment=environment,
            cwd=empty,
        )
        executor = children.start(
            "superexec",
            commands.superexec(port, secret, None),
            environment=environment,
            cwd=empty,
        )
        say(console, f"{bundle.config.name} started; logs in {escape(str(state / 'logs'))}")
        log = ConnectionLog(node.log, node.begin)
        _wait(node, executor, log, console, _ViewLog(state, console))
        if node.exit_code is None:
            return log.connected, "its SuperExec has ended"
        return log.connected, _reason("\n".join(log.lines))


def _wait(
    node: Child, executor: Child, log: ConnectionLog, console: Console, views: "_ViewLog"
) -> None:
    """Show what changes until one of the two processes has ended."""
    running = True
    while running:
        running = node.exit_code is None and executor.exit_code is None
        for text in log.changes():  # once more after the end: the last lines tell the reason
            say(console, text)
        views.look()
        if running:
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


def _reason(output: str) -> str:
    for pattern, reason in _REASONS.items():
        if re.search(pattern, output):
            return reason
    return "its SuperNode has ended"
