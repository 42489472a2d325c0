"""ClientApps that start fast: forked from a process that has imported what they need.

Flower starts a fresh process for every message, and importing Flower and torch takes longer than
many a round. SuperExec starts that process by its name, ``flwr-clientapp``, from the PATH. Here
another program of that name comes first on the PATH (:mod:`~lumos_core.flower.preload_stub`),
which has a preloaded process fork (:mod:`~lumos_core.flower.preload_server`) and run Flower's
own program in the fork. Whenever that does not work, Flower's own program is started as ever.
``LUMOS_PRELOAD=0`` switches it off; it takes about 200 MB of memory per node.
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
_LONGEST_PYTHON = 120  # of the first line of a program, in older kernels
_PROBE_SECONDS = 20.0


def start(
    children: Children, name: str, folder: Path, environment: Mapping[str, str], cwd: Path
) -> dict[str, str]:
    """Start a preloaded process.

    Args:
        children: gets it as one more child.
        name: of that child, and of its log.
        folder: a new one, for the program and the socket; only this user can look inside.
        environment: of the node's processes.
        cwd: where it starts.

    Returns:
        The environment for the node's SuperNode and SuperExec: with ``folder`` first on the PATH,
        or as it was if there is no preloaded process.
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
        folder.mkdir(mode=0o700, parents=True)
        program = folder / preload_server.PROGRAM
        code = Path(preload_stub.__file__).read_text(encoding="utf-8")
        program.write_text(f"#!{python} -IS\n{code}", encoding="utf-8")
        program.chmod(0o700)
        probe = [str(program), "--probe"]
        done = subprocess.run(probe, env=dict(environment), timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:  # such as a folder without programs
        log.warning("no preloaded process: %s", type(error).__name__)
        return False
    return done.returncode == 0
