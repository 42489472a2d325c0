"""ClientApps that start fast: forked from a process that has imported what they need.

Flower starts a new process for every message, and importing Flower and torch takes longer than many
rounds do. SuperExec finds that process's program, ``flwr-clientapp``, on the PATH. This module puts
another program of the same name first on the PATH (:mod:`~lumos_core.flower.preload_stub`). It asks
a preloaded process (:mod:`~lumos_core.flower.preload_server`) to fork, and the fork runs Flower's
own program. If that does not work, Flower's own program is started in the usual way. The preloaded
process takes about 200 MB of memory per node; ``LUMOS_PRELOAD=0`` switches it off.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.flower import preload_server, preload_stub
from lumos_core.processes.children import Children

log = logging.getLogger(__name__)

SWITCH = "LUMOS_PRELOAD"
_LONGEST_PYTHON = 120  # older kernels limit the length of a program's first line
_PROBE_SECONDS = 20.0


def start(
    children: Children, name: str, folder: Path, environment: Mapping[str, str], cwd: Path
) -> dict[str, str]:
    """Start a preloaded process.

    Args:
        children: starts the process as one more child.
        name: name of that child, and of its log.
        folder: for the program and the socket; only this user can open it.
        environment: environment of the node's processes.
        cwd: folder in which it starts.

    Returns:
        The environment for the node's SuperNode and SuperExec: with ``folder`` first on the PATH,
        or unchanged if there is no preloaded process.
    """
    if environment.get(SWITCH) == "0" or not _install(folder, environment):
        return dict(environment)
    command = [sys.executable, "-P", str(Path(preload_server.__file__)), str(folder)]
    try:
        children.start(name, command, environment=environment, cwd=cwd)
    except FederationError as error:
        log.warning("no preloaded process: %s", error)
        return dict(environment)
    return {**environment, "PATH": os.pathsep.join((str(folder), environment["PATH"]))}


def _install(folder: Path, environment: Mapping[str, str]) -> bool:
    """Put the program in its folder; returns whether it can be started there."""
    if not sys.platform.startswith("linux"):  # elsewhere, threads cannot be counted
        return False
    python = sys.executable
    if len(python) > _LONGEST_PYTHON or len(python.split()) != 1 or os.pathsep in str(folder):
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = folder / preload_server.PROGRAM
        code = Path(preload_stub.__file__).read_text(encoding="utf-8")
        program.write_text(f"#!{python} -IS\n{code}", encoding="utf-8")
        program.chmod(0o700)
        probe = [str(program), "--probe"]
        done = subprocess.run(probe, env=dict(environment), timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:  # such as a folder mounted noexec
        log.warning("no preloaded process: %s", type(error).__name__)
        return False
    return done.returncode == 0
