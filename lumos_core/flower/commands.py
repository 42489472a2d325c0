"""Flower's command line: environment, commands, connection and app folder.

Flower 1.39: SuperNodes use gRPC to reach the SuperLink's *fleet* address, the only one that other
machines need. The *control* port (submitting runs) and each SuperNode's *runtime* port (its
ClientApp processes) are plain HTTP and stay on the loopback interface.
"""

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from lumos_core import __version__
from lumos_core.config import RunConfig, Scalar
from lumos_core.config.older_runs import ADDED_LATER
from lumos_core.errors import ConfigError, FederationError, reason_of
from lumos_core.flower import (
    app_archive,
    app_gate,
    bounded_link,
    fast_polling,
    gated_superexec,
    live_superexec,
    live_supernode,
    steady_connection,
)
from lumos_core.flower.other_release import AS_BEFORE
from lumos_core.wire.versions import PROTOCOL

LOOPBACK = "127.0.0.1"
CONNECTION = "lumos"  # name of the SuperLink connection in Flower's own configuration
APP_PACKAGES = ("lumos_core", "client_app", "server_app")
# Left out of the app: no ServerApp or ClientApp needs it.
_NOT_SENT = {"cli", "deployment", "experiments", "serving", "__pycache__"}

_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # otherwise a SuperLink installs packages for every run
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Seconds between two requests for work; Flower's default is 1. Each request takes processor
    # time from what trains on the same machine.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
}


# ---------------------------------------------------------------- environment
def environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a Flower process: isolated from other Flower processes, without telemetry.

    Args:
        home: its ``FLWR_HOME``. Two SuperNodes must not share one: they would unpack the app into
            the same folder at the same time.
        extra: further variables.
    """
    foreign = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    own = {k: v for k, v in foreign.items() if not _is_unusable_proxy(k, v)}
    here = str(Path(sys.executable).parent)  # Flower starts its other programs by name
    local = ",".join(
        filter(None, (own.get("NO_PROXY"), own.get("no_proxy"), LOOPBACK, "localhost"))
    )
    return {
        **own,
        **_SWITCHES,
        "FLWR_HOME": str(home),
        "PATH": os.pathsep.join(filter(None, (here, own.get("PATH", "")))),
        "NO_PROXY": local,
        "no_proxy": local,
        **extra,
    }


def _is_unusable_proxy(name: str, value: str) -> bool:
    """Whether a variable names a kind of proxy that Flower's HTTP client (httpx) does not support.

    With such a variable the client refuses to start, even if it only has to reach this machine.
    """
    if not name.lower().endswith("_proxy") or name.lower() == "no_proxy":
        return False
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    if scheme in ("socks5", "socks5h"):
        return importlib.util.find_spec("socksio") is None
    return scheme not in ("http", "https")


def executable(name: str) -> str:
    """Path of one of Flower's programs; the one beside this Python comes first.

    Raises:
        FederationError: it is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FederationError(
            f"'{name}' is neither beside {sys.executable} nor on the PATH; "
            "install the dependencies (make setup)"
        )
    return found


def free_ports(count: int) -> list[int]:
    """Different TCP ports on the loopback interface that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind((LOOPBACK, 0))
        return [item.getsockname()[1] for item in sockets]


# ---------------------------------------------------------------- commands
@dataclass(frozen=True)
class LinkSecurity:
    """Files with which a SuperLink uses TLS, requires node keys, and gives work only to processes
    that know the secret."""

    ca: Path
    certificate: Path
    key: Path
    secret: Path

    def options(self) -> list[str]:
        return [
            "--ssl-ca-certfile", str(self.ca), "--ssl-certfile", str(self.certificate),
            "--ssl-keyfile", str(self.key), "--enable-supernode-auth",
            "--isolation", "process", "--superexec-auth-secret-file", str(self.secret),
        ]  # fmt: skip


@dataclass(frozen=True)
class NodeSecurity:
    """Files with which a SuperNode checks the server, proves its identity, and gives work only to
    processes that know the secret."""

    ca: Path
    key: Path
    secret: Path

    def options(self) -> list[str]:
        return [
            "--root-certificates", str(self.ca), "--auth-supernode-private-key", str(self.key),
            "--isolation", "process", "--superexec-auth-secret-file", str(self.secret),
        ]  # fmt: skip


def superlink(
    control_port: int, fleet: str | None, *options: str, security: LinkSecurity | None = None
) -> list[str]:
    """The command that starts a SuperLink.

    Args:
        control_port: HTTP (with ``security``, HTTPS) on loopback.
        fleet: ``host:port`` for gRPC; None starts the simulation runtime instead.
        options: further options, such as ``--database FILE``.
        security: None for a SuperLink without TLS, for this machine alone.
    """
    mode = ["--simulation"] if fleet is None else ["--fleet-api-address", fleet]
    address = ["--host", LOOPBACK, "--port", str(control_port)]
    safe = ["--insecure"] if security is None else security.options()
    program = bounded_link.program(executable("flower-superlink"))
    return [*program, *safe, *address, *mode, *options]


def supernode(
    fleet: str, runtime_port: int, config: Path, *options: str, security: NodeSecurity | None = None
) -> list[str]:
    """The command that starts a SuperNode.

    Args:
        fleet: the SuperLink's ``host:port``.
        runtime_port: HTTP on loopback for its ClientApp processes.
        config: TOML file of its node configuration.
        options: further options.
        security: None for a SuperNode without TLS, for this machine alone.

    Its environment has to say which apps are approved: see :func:`approving`.

    Raises:
        FederationError: Flower is not installed, or is one in which apps cannot be checked.
        SystemExit: a variable of the environment has an impossible value.
    """
    if reason := app_gate.wrong_flower():
        raise FederationError(reason)
    fast_polling.poll_seconds()
    steady_connection.heartbeat_seconds()
    safe = ["--insecure"] if security is None else security.options()
    return [
        *live_supernode.command(executable("flower-supernode")), *safe, "--superlink", fleet,
        "--host", LOOPBACK, "--port", str(runtime_port),
        "--node-config", str(config), *options,
    ]  # fmt: skip


def superexec(port: int, secret: Path, ca: Path) -> list[str]:
    """The command of a SuperExec, which starts the apps' processes for a SuperLink.

    Args:
        port: loopback port of the SuperLink.
        secret: file of the secret that both share.
        ca: authority of the SuperLink's certificate.
    """
    program = live_superexec.program(executable("flower-superexec"))
    return [*program, "--root-certificates", str(ca), *_runtime(port, secret)]


def node_superexec(port: int, secret: Path) -> list[str]:
    """The command of a SuperExec that starts nothing but ClientApps, for a SuperNode.

    Args:
        port: loopback port of the SuperNode.
        secret: file of the secret that both share.
    """
    return [*gated_superexec.command(), "--insecure", *_runtime(port, secret)]


def _runtime(port: int, secret: Path) -> list[str]:
    return [
        "--runtime-api-address", f"{LOOPBACK}:{port}",
        "--superexec-auth-secret-file", str(secret),
    ]  # fmt: skip


def approving(app: Path, digests: str) -> dict[str, str]:
    """Variables of a SuperNode's environment that say which apps it may run.

    Args:
        app: the installed LUMOS, from :func:`write_installed`.
        digests: of other apps that the node's owner approved, with commas between them.
    """
    return {app_gate.APP: str(app), app_gate.APPROVED: digests}


def with_superexec(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a SuperLink that starts its SuperExec itself.

    Args:
        folder: for the program that it finds.
        environment: its environment.
    """
    live_superexec.install_in(folder)
    return {**environment, "PATH": os.pathsep.join((str(folder), environment["PATH"]))}


def register(public_key: Path, name: str) -> list[str]:
    """The command that registers a node's key, over the connection of :func:`write_connection`."""
    return [
        executable("flwr"), "supernode", "register", str(public_key), CONNECTION,
        "--name", name, "--format", "json",
    ]  # fmt: skip


def unregister(node_id: str) -> list[str]:
    """The command that makes the SuperLink forget a node and refuse its key.

    Args:
        node_id: as :func:`register` has printed it.
    """
    return [
        executable("flwr"), "supernode", "unregister", node_id, CONNECTION, "--format", "json",
    ]  # fmt: skip


def submit(app: Path, run_config: Path, virtual_nodes: int | None) -> list[str]:
    """The command that submits a run over the connection of :func:`write_connection` and prints its
    log until it ends. The exit code does not tell whether the run succeeded; ``summary.json`` does.

    Args:
        app: the app folder.
        run_config: TOML file that overrides the app's configuration.
        virtual_nodes: number of nodes to simulate; None for real SuperNodes.
    """
    command = [executable("flwr"), "run", str(app), CONNECTION, "--stream", "-c", str(run_config)]
    if virtual_nodes is not None:
        settings = f"num-supernodes={virtual_nodes} client-resources-num-cpus=1"
        command += ["--federation-config", settings]
    return command


# ---------------------------------------------------------------- files
def write_toml(path: Path, values: Mapping[str, object]) -> Path:
    """Write a TOML file, and its folder if it is missing; returns the file's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path


def write_connection(home: Path, control_port: int, ca: Path | None = None) -> None:
    """Tell the ``flwr`` command that uses this home where the SuperLink is.

    Args:
        home: its ``FLWR_HOME``.
        control_port: the SuperLink's loopback port.
        ca: authority of the SuperLink's certificate; None for plain HTTP.
    """
    safe = {"insecure": True} if ca is None else {"root-certificates": str(ca)}
    address = f"{LOOPBACK}:{control_port}"
    write_toml(home / "config.toml", {"superlink": {CONNECTION: {"address": address, **safe}}})


def app_files() -> dict[str, bytes]:
    """The files of the installed LUMOS that are its app, by their paths in the app.

    The packages are read from where they were imported, a source checkout or an installed wheel.
    Neither can be given to Flower as it is: a checkout's folder may have a name that Flower
    refuses, and a wheel has no ``pyproject.toml``.

    Raises:
        FederationError: a package of the app cannot be found.
    """
    project = tomli_w.dumps(app_metadata(RunConfig().to_flat()))
    files = {app_archive.PROJECT: project.encode()}
    for package in APP_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FederationError(f"package '{package}' is not installed; run make setup")
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in _python_files(root):
            files[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return files


def stage_app(folder: Path) -> Path:
    """Write the app to ``folder``, from which it can be submitted; returns the folder.

    Raises:
        FederationError: see :func:`app_files`.
    """
    app_archive.write_files(app_files(), folder)
    return folder


def write_installed(path: Path) -> Path:
    """Write the app to one file, which a node compares with what its server sends; returns it.

    Raises:
        FederationError: see :func:`app_files`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(app_archive.write(app_files()))
    return path


def app_digest(fab: Path | None = None) -> str:
    """The digest of an app, as it is written in ``approved-apps``.

    Args:
        fab: an app in the form in which Flower sends it; None for the installed LUMOS.

    Raises:
        ConfigError: the file is not an app.
        FederationError: see :func:`app_files`.
    """
    if fab is None:
        return app_archive.digest(app_files())
    try:
        return app_archive.digest(app_archive.read(fab.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{fab}: cannot be read: {reason_of(error)}") from error
    except app_archive.BadArchiveError as error:
        raise ConfigError(f"{fab}: is not an app as 'flwr build' makes it: {error}") from None


def app_metadata(config: Mapping[str, Scalar]) -> dict[str, object]:
    """The part of ``pyproject.toml`` that Flower reads."""
    app = {
        "publisher": "lumos",
        "components": {"serverapp": "server_app.server:app", "clientapp": "client_app.client:app"},
        "config": dict(config),
    }
    project = {"name": "lumos", "version": __version__, "description": "", "license": "Apache-2.0"}
    own = {"protocol": PROTOCOL, AS_BEFORE: dict(ADDED_LATER)}  # for nodes of another release
    return {"project": project, "tool": {"flwr": {"app": app}, "lumos": own}}


def _python_files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(set(names) - _NOT_SENT)
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".py"))
