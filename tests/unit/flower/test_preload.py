"""ClientApps forked from a preloaded process, and what happens where there is none."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lumos_core.flower import commands, gated_superexec, preload, preload_stub
from lumos_core.processes.children import Children

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

# Stands for Flower's program: says in which process it runs, and what it was given.
PROGRAM = """
import json, os, signal, sys, time
def main():
    # Flower's reports a failure then, and the SuperNode waits for the answer for ever
    signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
    word = os.environ.get("WORD")
    print(json.dumps([sys.argv, os.getcwd(), word, os.getppid()]), flush=True)
    time.sleep(60 * ("--wait" in sys.argv))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The stub beside a program that stands for the one that it becomes."""
    place = tmp_path / "programs"
    place.mkdir()
    shutil.copy(preload_stub.__file__, place)
    (place / "gated_clientapp.py").write_text("import sys; print('real', *sys.argv[1:])")
    return place


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With Flower's program on the PATH, which must never be started."""
    place = tmp_path / "flowers"
    place.mkdir()
    program = place / "flwr-clientapp"
    program.write_text("#!/bin/sh\necho Flower\n")
    program.chmod(0o755)
    own = commands.environment(tmp_path / "home")
    return {**own, "PATH": f"{place}{os.pathsep}{own['PATH']}"}


@pytest.fixture
def forking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preloaded process without Flower and torch, which take seconds to import."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "app.py").write_text(PROGRAM)
    source = Path(preload.preload_server.__file__)
    (folder / "gated_clientapp.py").write_text("def install_nothing(loaded): ...")
    for name in ("fast_polling.py", "failed_tasks.py", "whole_replies.py"):
        shutil.copy(source.with_name(name), folder)
    text = source.read_text()
    start = text.index("    (entry,) = ")
    end = text.index("    gated = runpy.run_path")
    text = text[:start] + "    from app import main as program\n" + text[end:]
    text, found = re.subn(
        r"^MODULES = \(.*?^\)", 'MODULES = ("numpy.random",)', text, flags=re.M | re.S
    )
    assert found == 1
    text = text.replace("import gc\n", f"import sys; sys.path.append({str(folder)!r})\nimport gc\n")
    server = folder / "server.py"
    server.write_text(text)
    monkeypatch.setattr(preload.preload_server, "__file__", str(server))


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path / "logs") as found:
        yield found


@pytest.fixture
def preloaded(
    tmp_path: Path, environment: dict[str, str], forking: None, children: Children
) -> dict[str, str]:
    """The environment of programs that ask the preloaded process, which is ready."""
    folder = tmp_path / "bin"
    changed = preload.start(children, "preloaded", folder, environment, tmp_path)
    wait_for_socket(folder)
    return changed


def waiting(environment: dict[str, str], cwd: Path) -> "subprocess.Popen[bytes]":
    """A program that works until it is ended."""
    command = [*gated_superexec.client_command(environment), "--wait"]
    return subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.PIPE)


def run(environment: dict[str, str], cwd: Path, *arguments: str) -> str:
    command = [*gated_superexec.client_command(environment), *arguments]
    return output(command, environment, cwd)


def output(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def wait_for_socket(folder: Path) -> None:
    until = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if (folder / "socket").exists() and not probe.connect_ex(str(folder / "socket")):
                return
        assert time.monotonic() < until
        time.sleep(0.05)


@linux_only
def test_work_is_done_in_a_fork(
    tmp_path: Path, preloaded: dict[str, str], children: Children
) -> None:
    folder = tmp_path / "bin"
    argv, cwd, word, parent = json.loads(
        run({**preloaded, "WORD": "here"}, tmp_path, "--token", "a b")
    )
    assert argv == ["flwr-clientapp", "--token", "a b"]
    assert cwd == str(tmp_path)
    assert word == "here"
    assert parent in {c.process.pid for c in children._children}
    assert folder.stat().st_mode & 0o077 == 0


@linux_only
def test_the_fork_ends_with_the_program_that_asked(
    tmp_path: Path, preloaded: dict[str, str]
) -> None:
    asked = waiting(preloaded, tmp_path)
    assert asked.stdout is not None
    asked.stdout.readline()  # the fork works
    asked.kill()
    asked.wait()
    assert asked.stdout.read() == b""  # until the fork has closed it, too; without a last word


def working_fork(asked: "subprocess.Popen[bytes]", server: int) -> psutil.Process:
    """The fork that does a stub's work, once it has begun."""
    assert asked.stdout is not None
    asked.stdout.readline()
    [fork] = psutil.Process(server).children()
    return fork


@linux_only
@pytest.mark.parametrize("stopped", [False, True])
def test_a_fork_that_dies_or_hangs_ends_its_stub_with_an_error(
    tmp_path: Path, preloaded: dict[str, str], children: Children, stopped: bool
) -> None:
    """Whoever watches the stub learns that the message will not be answered."""
    asked = waiting(preloaded, tmp_path)
    fork = working_fork(asked, children._children[0].process.pid)
    if stopped:
        fork.suspend()
        asked.terminate()
    else:
        fork.kill()
    assert asked.wait(20) == preload_stub.FAILED
    gone, _ = psutil.wait_procs([fork], 20)
    assert gone


@linux_only
def test_a_fork_that_hangs_before_it_has_agreed_is_ended(
    tmp_path: Path,
    environment: dict[str, str],
    forking: None,
    children: Children,
) -> None:
    """Its stub does the work in another way and does not know of it."""
    server = Path(preload.preload_server.__file__)
    text = server.read_text()
    for name, seconds in (("AGREE_SECONDS", 2.0), ("LOOK_SECONDS", 0.2)):
        text, found = re.subn(rf"^{name} = [\d.]+", f"{name} = {seconds}", text, flags=re.M)
        assert found == 1
    agree = "def _agree(connection: socket.socket, pipe: int) -> None:\n"
    assert agree in text
    # it hangs at the first request, and then no more
    hang = "    if not os.path.exists('hung'):\n        open('hung', 'x').close()\n"
    hang += "        time.sleep(60)\n"
    body = text.index('"""', text.index('"""', text.index(agree)) + 3) + 4
    server.write_text(text[:body] + hang + text[body:])
    folder = tmp_path / "bin"
    changed = preload.start(children, "preloaded", folder, environment, tmp_path)
    wait_for_socket(folder)
    command = [*gated_superexec.client_command(changed), "--once"]
    asked = subprocess.Popen(command, env=changed, cwd=tmp_path, stderr=subprocess.DEVNULL)
    server_process = psutil.Process(children._children[0].process.pid)
    while not (hung := server_process.children()):
        assert asked.poll() is None
        time.sleep(0.01)
    gone, _ = psutil.wait_procs(hung, 20)
    assert len(gone) == 1
    asked.wait(60)
    assert "--again" in run(changed, tmp_path, "--again")


@linux_only
def test_no_more_than_a_few_work_at_a_time(tmp_path: Path, preloaded: dict[str, str]) -> None:
    """On a starved machine, programs that are started for the same message must not pile up."""
    command = [*gated_superexec.client_command(preloaded), "--wait"]
    at_work = [waiting(preloaded, tmp_path) for _ in range(preload_stub.PLACES)]
    for asked in at_work:
        assert asked.stdout is not None
        asked.stdout.readline()  # it works
    more = subprocess.run(command, env=preloaded, cwd=tmp_path, capture_output=True, text=True)
    assert more.returncode == preload_stub.NO_PLACE
    assert "4 are at work for this node" in more.stderr
    at_work[0].kill()
    at_work[0].wait()
    assert "--again" in run(preloaded, tmp_path, "--again"), "its place is free"
    for asked in at_work[1:]:
        asked.kill()
        asked.wait()


def stub(programs: Path, *arguments: str) -> list[str]:
    """The command of the stub in another folder, as a SuperExec would start it."""
    python, flags, path, name = gated_superexec.client_command({preload_stub.FOLDER: "there"})
    return [python, flags, str(programs / Path(path).name), name, *arguments]


@linux_only
def test_places_are_kept_by_what_a_stub_becomes(
    tmp_path: Path, programs: Path, environment: dict[str, str]
) -> None:
    """Also where there is no preloaded process, a place is held as long as the work lasts."""
    (programs / "gated_clientapp.py").write_text(
        "import time; print('at work', flush=True); time.sleep(60)"
    )
    assert preload._prepare(tmp_path / "bin")
    changed = {**environment, preload_stub.FOLDER: str(tmp_path / "bin")}
    command = stub(programs)
    at_work = [
        subprocess.Popen(command, env=changed, cwd=tmp_path, stdout=subprocess.PIPE)
        for _ in range(preload_stub.PLACES)
    ]
    for asked in at_work:
        assert asked.stdout is not None
        assert asked.stdout.readline() == b"at work\n"
    more = subprocess.run(command, env=changed, cwd=tmp_path, capture_output=True)
    assert more.returncode == preload_stub.NO_PLACE
    for asked in at_work:
        asked.kill()
        asked.wait()


@linux_only
def test_without_a_preloaded_process_another_program_of_lumos_runs(
    tmp_path: Path, programs: Path, environment: dict[str, str]
) -> None:
    """Not Flower's own, which would install what it is sent."""
    folder = tmp_path / "bin"
    assert preload._prepare(folder)
    changed = {**environment, preload_stub.FOLDER: str(folder)}
    command = stub(programs, "--token", "t")
    assert output(command, changed, tmp_path) == "real flwr-clientapp --token t\n"
    with socket.socket(socket.AF_UNIX) as listener:  # somebody was there, and has died
        listener.bind(str(folder / "socket"))
    assert output(command, changed, tmp_path) == "real flwr-clientapp --token t\n"


@linux_only
def test_a_preloaded_process_that_hangs_up_is_not_waited_for(
    tmp_path: Path, programs: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "bin"
    assert preload._prepare(folder)
    changed = {**environment, preload_stub.FOLDER: str(folder)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        with subprocess.Popen(
            stub(programs, "x"), env=changed, stdout=subprocess.PIPE, text=True
        ) as asked:
            listener.accept()[0].close()
            assert asked.communicate(timeout=30)[0] == "real flwr-clientapp x\n"


def test_it_can_be_switched_off(
    tmp_path: Path, environment: dict[str, str], children: Children
) -> None:
    off = {**environment, preload.SWITCH: "0"}
    assert preload.start(children, "preloaded", tmp_path / "bin", off, tmp_path) == off
    assert not (tmp_path / "bin").exists()


def test_the_app_is_imported_beforehand_only_where_no_other_may_run(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    app = commands.write_installed(tmp_path / "installed.zip")
    (tmp_path / "app" / "of an earlier version").mkdir(parents=True)
    own = {**environment, **commands.approving(app, "")}
    [folder] = preload._only_app(tmp_path, own)
    assert folder == str(tmp_path / "app" / commands.app_digest())
    assert [str(path) for path in (tmp_path / "app").iterdir()] == [folder]
    (Path(folder) / "used").touch()
    assert preload._only_app(tmp_path, own) == [folder]
    assert (Path(folder) / "used").exists(), "forks may still import from there"
    shutil.rmtree(tmp_path / "app")
    others = commands.approving(app, "0" * 64)
    assert preload._only_app(tmp_path, {**environment, **others}) == []
    assert preload._only_app(tmp_path, environment) == []
    assert not (tmp_path / "app").exists()


@linux_only
def test_a_process_with_the_app_still_has_one_thread(tmp_path: Path) -> None:
    """Otherwise it could not fork."""
    app = commands.write_installed(tmp_path / "installed.zip")
    [folder] = preload._only_app(tmp_path, commands.approving(app, ""))
    code = (
        "import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('p', {preload.preload_server.__file__!r})\n"
        "p = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(p)\n"
        f"p.load(pathlib.Path({folder!r}))\n"
        "print(p.threads(), sys.modules['client_app.client'].__file__)\n"
        "print(sys.modules['lumos_core.federation.node'].__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"1 {folder}/client_app/client.py", f"{folder}/lumos_core/federation/node.py"
    ]  # fmt: skip


def test_both_sides_agree() -> None:
    server = preload.preload_server
    for name in ("SOCKET", "READY", "GO", "DONE", "PID_BYTES"):
        assert getattr(server, name) == getattr(preload_stub, name)
    assert gated_superexec.PRELOADED == preload_stub.FOLDER
