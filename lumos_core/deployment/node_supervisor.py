"""A supervised SuperNode: checked before it starts, started again when it ends.

Two processes: Flower's SuperNode, which talks to the server, and a SuperExec, which starts a
ClientApp process for every message. They meet on a loopback port and share a secret, so that no
other process of this machine can take over the node's work. If one ends, both are started again.
"""

import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.deployment import credentials
from lumos_core.deployment.folders import NodeBundle, split_address
from lumos_core.deployment.supervision import Backoff, alone, say
from lumos_core.errors import ConfigError, ModelError, reason_of
from lumos_core.flower import commands, preload
from lumos_core.learning.devices import check_device
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.safe_files import private_folder
from lumos_core.views.llm.find import default_cache
from lumos_core.views.meter import ViewProgress
from lumos_core.views.titles.shipped import seed_cache

CONNECT_SECONDS = 5.0
STOP_SECONDS = 15.0  # a SuperNode says good-bye to the server, else its key is refused for a minute
EXPIRES_SOON_DAYS = 30.0
_POLL_SECONDS = 0.5
_VIEWS_SECONDS = 10.0  # between two lines about views
_LINES = 400  # of the SuperNode's output to look for the reason of its end in
_CONNECTED = re.compile(r"SuperNode ID: (\d+)")
_RUNNING = (
    "a node with this state folder runs already; end that one, or give this one a folder of its "
    "own with --state"
)
_REASONS = {
    "not registered|Unregistered|2004": (
        "the server refuses this node's key: it is not registered there, or the node was "
        "connected less than a minute ago, or the key is in use elsewhere"
    ),
    "SSL|CERTIFICATE_VERIFY_FAILED|handshake": "the server's certificate is not from ca.crt's CA",
    # A SuperNode ends itself, without a word, when what it has signed is not accepted.
    "terminated gracefully": (
        "the server refuses what this node signs: probably this machine's clock is more than 5 s "
        "ahead of the server's or 5 min behind; set the clocks (NTP)"
    ),
}


def check(bundle: NodeBundle) -> Iterator[str]:
    """Check everything that a node needs; yields lines to show (rich markup).

    Raises:
        ConfigError: key or certificate are missing, unsafe, damaged or expired; there is no such
            device or LLM; or the server answers without TLS, or its certificate is not from the
            bundle's authority.
        DataError: naming file and line, the data are not as they should be.
    """
    from lumos_core.data.catalog import short_fingerprint
    from lumos_core.data.node_folder import read_node

    authority = credentials.check_certificate(bundle.ca)
    credentials.check_node_key(bundle.key)
    check_device(bundle.config.device)
    _check_llm(bundle.config.llm)
    catalog, sequences = read_node(Path(bundle.config.data))
    yield escape(
        f"{bundle.config.name}: {sequences.users_text}, {len(catalog)} items, "
        f"catalog {short_fingerprint(catalog.fingerprint)}"
    )
    _writable(state_folder(bundle))
    if (days := credentials.days_left(authority)) < EXPIRES_SOON_DAYS:
        yield f"[yellow]{escape(str(bundle.ca))} expires in {days:.0f} days[/]"
    yield from _check_server(bundle)


def state_folder(bundle: NodeBundle) -> Path:
    """Where the node keeps its views, ledger and logs."""
    return bundle.config.state_folder.resolve()


def keep_running(bundle: NodeBundle, runtime_port: int, console: Console) -> None:
    """Keep the node running until a signal ends it (as an exception).

    Args:
        bundle: a checked one.
        runtime_port: on loopback, for the node's own processes; 0 for any free one.
        console: where to say what happens.

    Raises:
        FederationError: it runs already, from another terminal.
    """
    state = state_folder(bundle)
    seed_cache(default_cache())  # here: Flower sends the apps' code only
    with alone(state, _RUNNING), ending_on_signals():
        backoff = Backoff()
        while True:
            backoff.started()
            reason = _run_once(bundle, runtime_port or commands.free_ports(1)[0], state, console)
            pause = backoff.pause()
            say(console, f"[yellow]{escape(reason)}[/]; starting again in {pause:.0f} s")
            time.sleep(pause)


def _run_once(bundle: NodeBundle, port: int, state: Path, console: Console) -> str:
    """Start both processes and wait until one has ended; returns why, as far as that is known."""
    home = state / "flower"
    shutil.rmtree(home, ignore_errors=True)
    empty = home / "empty"  # no package is picked up from where processes start
    empty.mkdir(parents=True)
    secret = home / "superexec.secret"
    credentials.new_secret(secret)
    settings = commands.write_toml(home / "node.toml", bundle.config.to_flat())
    environment = commands.environment(home, OMP_NUM_THREADS=str(bundle.config.threads))
    security = commands.NodeSecurity(bundle.ca, bundle.key, secret)
    with Children(state / "logs", grace=STOP_SECONDS) as children:
        environment = preload.start(children, "preloaded", home / "bin", environment, empty)
        node = children.start(
            "supernode",
            commands.supernode(bundle.superlink, port, settings, security=security),
            environment=environment,
            cwd=empty,
        )
        begin = node.log.stat().st_size
        executor = children.start(
            "superexec",
            commands.superexec(port, secret, None),
            environment=environment,
            cwd=empty,
        )
        say(console, f"{bundle.config.name} started; logs in {escape(str(state / 'logs'))}")
        _wait(node, executor, begin, console, _ViewsTold(state, console))
        if node.exit_code is None:
            return "its SuperExec has ended"
        return _reason(_output(node, begin))


def _wait(node: Child, executor: Child, begin: int, console: Console, views: "_ViewsTold") -> None:
    connected = False
    while node.exit_code is None and executor.exit_code is None:
        if not connected and (found := _CONNECTED.search(_output(node, begin))):
            connected = True
            say(console, f"[green]connected[/] as node {found.group(1)}")
        views.look()
        time.sleep(_POLL_SECONDS)


class _ViewsTold:
    """Says how far the views are: a line every few seconds while they are being written."""

    def __init__(self, state: Path, console: Console) -> None:
        self._state, self._console = state, console
        self._since, self._told_at, self._told = time.time(), 0.0, ""

    def look(self) -> None:
        """Look once."""
        found = ViewProgress.of_node(self._state)
        if found is None or found.time < self._since:
            return
        complete = found.users_done >= found.users
        line = f"all {found.users} users have views" if complete else found.line()
        due = time.time() - self._told_at >= _VIEWS_SECONDS or complete
        if line != self._told and due:
            self._told, self._told_at = line, time.time()
            say(self._console, f"views: {escape(line)}")


def _output(child: Child, begin: int) -> str:
    """What a child has written since ``begin``, a byte of its log, without colours."""
    with child.log.open("rb") as file:
        file.seek(begin)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LINES:])


def _reason(output: str) -> str:
    for pattern, reason in _REASONS.items():
        if re.search(pattern, output):
            return reason
    return "its SuperNode has ended"


def _check_llm(llm: str) -> None:
    """Find the node's own model, without loading it; the run's is not known here."""
    if not llm:
        return
    from lumos_core.views.llm.find import BUNDLED, find_model

    place = Path(llm).expanduser()
    if llm != BUNDLED and place.exists() and not place.is_absolute():
        raise ConfigError(
            f"key 'llm': found the relative path {llm!r}, expected an absolute one, since the "
            f"node's processes start in a folder of their own; write {str(place.resolve())!r}"
        )
    try:
        find_model(llm)
    except ModelError as error:
        raise ConfigError(f"key 'llm': {error}") from None


def _check_server(bundle: NodeBundle) -> Iterator[str]:
    """Shake hands with the server, if it is there.

    A connection that is cut or left without an answer counts as not there yet: so does whatever
    forwards a port whose server has not been started.
    """
    host, port = split_address(bundle.superlink, "node.toml")
    context = ssl.create_default_context(cafile=str(bundle.ca))
    context.set_alpn_protocols(["h2"])  # what gRPC speaks
    try:
        with (
            socket.create_connection((host, port), CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{bundle.superlink}: its certificate is refused: {error.verify_message}; expected one "
            f"that {bundle.ca} has signed, for {host}, valid now (the clock here says "
            f"{time.strftime('%Y-%m-%d %H:%M')}); take the bundle that belongs to this server"
        ) from None
    except ssl.SSLEOFError:
        yield _not_yet(bundle, "Connection closed by peer")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{bundle.superlink}: answers, but without TLS as expected of the server "
            f"({error.reason}); take the fleet port of 'lumos deploy server': correct superlink "
            "in node.toml, or --superlink"
        ) from None
    except OSError as error:
        yield _not_yet(bundle, reason_of(error))


def _not_yet(bundle: NodeBundle, reason: str) -> str:
    return f"[yellow]{escape(bundle.superlink)} cannot be reached yet ({escape(reason)})[/]"


def _writable(state: Path) -> None:
    try:
        private_folder(state)
        probe = state / ".writable"
        probe.write_bytes(b"lumos")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{state}: cannot be written: {reason_of(error)}; the node keeps its views and its "
            "ledger there; choose another folder with --state"
        ) from error
