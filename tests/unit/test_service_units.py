"""The systemd units of ``deploy/``: their commands, how they stop, and what systemd says of them
where it is installed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from lumos_commands import options_of

from lumos_core.cli.options import assignments
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.deployment.supervision import STOP_SECONDS

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NODE = "north"
SERVER, NODES = "lumos-server.service", "lumos-node@.service"
EACH = pytest.mark.parametrize("name", [SERVER, NODES])
PROGRAM = "/opt/lumos/.venv/bin/lumos"
OPTIONS = "$LUMOS_OPTIONS"
PROTECTION = {
    "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "",
    "RestrictNamespaces": "yes", "RestrictSUIDSGID": "yes", "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes", "ProtectControlGroups": "yes",
    "SystemCallFilter": "@system-service", "UMask": "0077",
}  # fmt: skip
"""What both units have to say; the rest is a matter of their score."""
MOST_EXPOSED = 20
"""In tenths, of 100: at most 2.0, which systemd calls OK."""


def unit(name: str, instance: str = NODE) -> dict[str, str]:
    """A unit's settings by their key; no key may be there twice."""
    text = (UNITS / name).read_text(encoding="utf-8").replace("%i", instance)
    pairs = re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def command(name: str) -> list[str]:
    """The words after the program's name, without the operator's own options."""
    program, *words = shlex.split(unit(name)["ExecStart"])
    assert (program, words.pop()) == (PROGRAM, OPTIONS)
    return words


def below(path: str, folders: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders.split())


# ---------------------------------------------------------------- commands
@EACH
def test_the_program_understands_the_command(name: str) -> None:
    assert options_of(command(name))
    with pytest.raises(click.ClickException):
        options_of([*command(name), "--no-such-option"])


@EACH
def test_the_example_of_options_is_understood(name: str) -> None:
    [example] = re.findall(r"^# .*LUMOS_OPTIONS=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
    chosen = options_of([*command(name), *shlex.split(example)])
    settings = assignments(chosen["settings"])
    if name == SERVER:
        assert RunConfig.from_flat({**settings, "rounds": chosen["rounds"]})
    else:
        assert NodeConfig.from_flat({**settings, "data": "data"})


@EACH
def test_what_is_written_may_be_written_and_nothing_else(name: str) -> None:
    found = unit(name)
    chosen = options_of(command(name))
    cache = dict(word.split("=") for word in found["Environment"].split())["LUMOS_CACHE"]
    written = [str(chosen["state"]), cache]
    read = [found["ExecStart"].split()[0]]
    if name == SERVER:
        written.append(str(chosen["run_dir"]))
        read += [str(chosen["folder"]), str(chosen["catalog"])]
    else:
        read += [str(chosen["bundle"]), str(chosen["data"])]
    assert all(below(path, found["ReadWritePaths"]) for path in written)
    assert not any(below(path, found["ReadWritePaths"]) for path in read)
    made = {f"/var/lib/{found['StateDirectory']}", f"/var/cache/{found['CacheDirectory']}"}
    assert made == set(found["ReadWritePaths"].split())


def test_a_node_sees_nothing_of_other_nodes() -> None:
    found = unit(NODES)
    chosen = options_of(command(NODES))
    assert {str(chosen["bundle"]), str(chosen["data"])} == set(found["BindReadOnlyPaths"].split())
    assert found["BindPaths"] == found["ReadWritePaths"]
    shown = f"{found['BindReadOnlyPaths']} {found['BindPaths']}".split()
    hidden = found["TemporaryFileSystem"].replace(":ro", "")
    assert all(below(path, hidden) and Path(path).name == NODE for path in shown)
    other = unit(NODES, "south")
    assert not set(shown) & set(f"{other['BindReadOnlyPaths']} {other['BindPaths']}".split())


# ---------------------------------------------------------------- start and stop
@EACH
def test_only_a_failure_starts_it_again(name: str) -> None:
    assert unit(name)["Restart"] == "on-failure"


@EACH
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_stop_is_no_failure(name: str, number: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from lumos_core.processes.children import ending_on_signals\n"
        "try:\n"
        "    with ending_on_signals():\n"
        f"        os.kill(os.getpid(), signal.{number})\n"
        "        signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)  # as lumos deploy server and lumos node start do"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert str(done.returncode) in unit(name)["SuccessExitStatus"].split()


@EACH
def test_there_is_time_for_an_orderly_end(name: str) -> None:
    found = unit(name)
    assert (found["KillMode"], found["KillSignal"]) == ("mixed", "SIGTERM")
    seconds = int(found["TimeoutStopSec"].removesuffix("s"))
    assert seconds > 2 * STOP_SECONDS  # once after SIGTERM and once after SIGKILL


@EACH
def test_it_is_bounded_and_confined(name: str) -> None:
    found = unit(name)
    assert found["MemoryMax"].removesuffix("G").isdecimal()
    assert found["TasksMax"].isdecimal()
    assert {key: found.get(key) for key in PROTECTION} == PROTECTION


def test_server_and_nodes_have_users_of_their_own() -> None:
    users = {unit(name)["User"] for name in (SERVER, NODES)}
    assert len(users) == 2
    assert "root" not in users


# ---------------------------------------------------------------- systemd
def installed(folder: Path, name: str, change: tuple[str, str] = ("", "")) -> Path:
    """A copy of a unit in which the program exists, with the instance in its name."""
    text = (UNITS / name).read_text().replace(PROGRAM, sys.executable).replace(*change)
    path = folder / name.replace("@", f"@{NODE}")
    path.write_text(text)
    (folder / name).write_text(text)
    return path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: systemd has not looked at the units")
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False
    )


@EACH
def test_systemd_accepts_the_unit(name: str, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(installed(tmp_path, name)))
    assert (done.returncode, done.stderr) == (0, "")
    wrong = installed(tmp_path, name, ("MemoryMax=", "MemoryMost="))
    assert "MemoryMost" in analyze("verify", "--man=no", str(wrong)).stderr


@EACH
def test_systemd_finds_the_unit_well_confined(name: str, tmp_path: Path) -> None:
    if "--offline" not in analyze("--help").stdout:
        pytest.skip("this systemd-analyze cannot judge a unit that is not installed")
    options = ("security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    done = analyze(*options, str(installed(tmp_path, name)))
    assert done.returncode == 0, done.stdout
    open_ = installed(tmp_path, name, ("ProtectSystem=strict", "ProtectSystem=no"))
    open_.write_text(open_.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze(*options, str(open_)).returncode != 0
