"""ClientApps that start fast: forked from a process that has imported what they need.

Flower starts a new process for every message, and importing Flower and torch takes longer than many
rounds do. A node's SuperExec (:mod:`~lumos_core.flower.gated_superexec`) starts a small program
instead (:mod:`~lumos_core.flower.preload_stub`), if a folder for it is named in its environment. It
asks a preloaded process (:mod:`~lumos_core.flower.preload_server`) to fork, and the fork answers
the message. If that does not work, the program of the fork is started in the usual way. The
preloaded process takes about 200 MB of memory per node; ``LUMOS_PRELOAD=0`` switches it off.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.flower import app_archive, app_gate, preload_server, preload_stub
from lumos_core.processes.children import Children

log = logging.getLogger(__name__)

SWITCH = "LUMOS_PRELOAD"


def start(
    children: Children, name: str, folder: Path, environment: Mapping[str, str], cwd: Path
) -> dict[str, str]:
    """Start a preloaded process.

    Args:
        children: starts the process as one more child.
        name: name of that child, and of its log.
        folder: for the socket; only this user can open it.
        environment: environment of the node's processes; it says which apps are approved. If that
            is the installed LUMOS alone, it is imported beforehand.
        cwd: folder in which it starts.

    Returns:
        The environment for the node's SuperNode and SuperExec: it names ``folder``, or is unchanged
        if there is no preloaded process.
    """
    if environment.get(SWITCH) == "0" or not _prepare(folder):
        return dict(environment)
    command = [sys.executable, "-P", str(Path(preload_server.__file__)), str(folder)]
    try:
        command += _only_app(folder, environment)
        children.start(name, command, environment=environment, cwd=cwd)
    except (FederationError, OSError) as error:
        log.warning("no preloaded process: %s", error)
        return dict(environment)
    return {**environment, preload_stub.FOLDER: str(folder)}


def _only_app(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """The folder of the only app that can run, unpacked there; empty if there may be others."""
    path = environment.get(app_gate.APP)
    if not path or environment.get(app_gate.APPROVED):
        return []
    files = app_archive.read(Path(path).read_bytes())
    app = folder / "app" / app_archive.digest(files)
    app_gate.unpack(files, app)  # unless it is there: forks of a process that has died may use it
    for other in app.parent.iterdir():
        if other != app:
            shutil.rmtree(other, ignore_errors=True)
    return [str(app)]


def _prepare(folder: Path) -> bool:
    """Make the folder; returns whether a preloaded process can work here."""
    if not sys.platform.startswith("linux"):  # elsewhere, threads cannot be counted
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no preloaded process: %s", type(error).__name__)
        return False
    return True
