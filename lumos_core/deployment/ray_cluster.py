"""Flower's simulation engine on the machines of a Ray cluster that is running already.

Flower's settings have no place for a cluster's address, but its engine calls ``ray.init`` without
one, and then Ray takes ``RAY_ADDRESS`` from the environment.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from lumos_core.config import SIMULATION_DATA
from lumos_core.errors import ConfigError, FederationError, reason_of
from lumos_core.flower import commands

SECONDS = 150.0
"""To join a cluster and ask its machines."""
_KNOCK_SECONDS = 10.0
# How this machine proves itself to a cluster: of all RAY_ variables only these are handed on.
_CREDENTIALS = re.compile("RAY_(AUTH_(MODE|TOKEN|TOKEN_PATH)|USE_TLS|TLS_[A-Z_]+)")
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")


class Machine(BaseModel):
    """A machine of the cluster.

    Attributes:
        address: by which the others know it.
        cpus: how many ClientApps run on it at a time.
        shared: whether it sees the data folder of this machine.
        writable: whether it may write there.
        app: digest of its installed LUMOS.
        torch: its version.
        problem: why it could not say so.
    """

    address: str
    cpus: int
    shared: bool = False
    writable: bool = False
    app: str = ""
    torch: str = ""
    problem: str = ""


def check_address(text: str) -> str:
    """Raises ConfigError if it is no ``HOST:PORT``."""
    found = _ADDRESS.fullmatch(text)
    if not found or not 0 < int(found["port"]) < 65536:
        raise ConfigError(
            f"--ray {text}: expected HOST:PORT of a cluster's head, as 'ray start --head' "
            "printed it"
        )
    return text


def variables(address: str, data: Path) -> dict[str, str]:
    """The environment with which a SuperLink's simulations run on a cluster.

    Args:
        address: ``HOST:PORT`` of its head.
        data: folder of ``node-0`` …, the same on all machines.
    """
    # Processes on other machines do not inherit from this one: Ray starts them with these.
    theirs = {SIMULATION_DATA: str(data.resolve()), "OMP_NUM_THREADS": "1"}
    return {
        **{name: value for name, value in os.environ.items() if _CREDENTIALS.fullmatch(name)},
        "RAY_ADDRESS": address,
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": theirs}}),
        "RAY_DEDUP_LOGS": "0",  # the log says of each message on which machine it was answered
    }


def check_cluster(address: str, data: Path) -> list[Machine]:
    """Join a cluster, and check that each of its machines can run this one's nodes.

    Args:
        address: ``HOST:PORT`` of its head. This machine has to be one of the cluster.
        data: folder of ``node-0`` ….

    Returns:
        The machines that run ClientApps.

    Raises:
        ConfigError: a machine lacks the data folder or this LUMOS.
        FederationError: the cluster cannot be joined.
    """
    _knock(address)
    machines = _ask(address, data.resolve())
    if wrong := _wrong(machines, data.resolve(), commands.app_digest()):
        head = f"--ray {address}: not every machine of the cluster can run these nodes:"
        raise ConfigError("\n".join([head, *wrong]))
    return sorted(machines, key=lambda machine: machine.address)


def machines_line(machines: Sequence[Machine]) -> str:
    """What a cluster offers, in a line."""
    total = sum(machine.cpus for machine in machines)
    each = ", ".join(f"{machine.address} ({machine.cpus})" for machine in machines)
    count = f"{len(machines)} machine{'s' if len(machines) > 1 else ''}"
    return f"Ray cluster of {count}, ClientApps at a time: {total} – {each}"


def _knock(address: str) -> None:
    """Raises FederationError if nobody listens there: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise FederationError(
            f"--ray {address}: nobody answers there: {reason_of(error)}; start the cluster's head "
            f"with 'ray start --head --port={port}', or correct the address"
        ) from None


def _ask(address: str, data: Path) -> list[Machine]:
    mark = data / f".lumos-ray-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="lumos-") as place:
        out = Path(place) / "machines.json"
        program = [sys.executable, "-m", "lumos_core.deployment.ray_facts"]
        environment = commands.environment(Path(place), **variables(address, data))
        try:
            mark.touch(mode=0o644)
        except OSError as error:
            raise ConfigError(
                f"{data}: cannot be written: {reason_of(error)}; nodes keep their state there"
            ) from error
        try:
            done = subprocess.run(
                [*program, str(data), mark.name, str(out)],
                env=environment, cwd=place, timeout=SECONDS,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, check=False,
            )  # fmt: skip
            return TypeAdapter(list[Machine]).validate_json(out.read_bytes())
        except subprocess.TimeoutExpired:
            reason = f"no answer within {SECONDS:g} s"
        except (OSError, ValidationError):
            reason = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        finally:
            mark.unlink(missing_ok=True)
    raise FederationError(
        f"--ray {address}: the cluster cannot be joined: {reason}\nis this machine one of the "
        f"cluster? 'ray start --address={address}' makes it one, and 'ray status' lists them.\n"
        "Does the cluster ask for a token? Then set RAY_AUTH_MODE and RAY_AUTH_TOKEN here too"
    )


def _wrong(machines: Sequence[Machine], data: Path, app: str) -> list[str]:
    """A line for each machine that cannot run nodes."""
    if not machines:
        return ["  no machine offers a CPU; start one with 'ray start --num-cpus'"]
    lines = []
    for machine in machines:
        if machine.problem:
            reason = f"LUMOS cannot be used there: {machine.problem}"
        elif not machine.shared:
            reason = f"does not see this machine's {data}; all need one shared folder at that path"
        elif not machine.writable:
            reason = f"may not write to {data}, where nodes keep their state"
        elif machine.app != app:
            reason = (
                f"another LUMOS is installed there (app {machine.app[:12]}, here {app[:12]}); "
                "install the same release on all machines"
            )
        elif machine.torch != version("torch"):
            reason = f"has torch {machine.torch}, this machine {version('torch')}"
        else:
            continue
        lines.append(f"  {machine.address}: {reason}")
    return lines
