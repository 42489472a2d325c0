"""A ClientApp's process installs nothing of what comes with a message."""

import importlib
import subprocess
import sys
import zipfile

import pytest

from lumos_core.flower import app_archive, app_gate, gated_clientapp, preload_server

run = importlib.import_module(gated_clientapp._RUN)


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gated_clientapp._INSTALLS:
        monkeypatch.setattr(run, name, getattr(run, name))


def test_nothing_is_installed() -> None:
    gated_clientapp.install_nothing()
    assert run.install_from_fab(b"no archive at all", skip_prompt=True) is None
    with pytest.raises(PermissionError):
        run.install_app_dependencies("anywhere", launch_id="t")


def test_a_process_that_has_loaded_an_app_serves_no_other() -> None:
    gated_clientapp.install_nothing("0" * 64)
    handed_on = {
        digest: app_archive.write({"digest": digest.encode()}) for digest in ("0" * 64, "1")
    }
    assert run.install_from_fab(handed_on["0" * 64], skip_prompt=True) is None
    for content in (handed_on["1"], app_archive.write({}), b"no archive"):
        with pytest.raises((PermissionError, KeyError, zipfile.BadZipFile)):
            run.install_from_fab(content, skip_prompt=True)
    assert gated_clientapp.DIGEST == app_gate.DIGEST == "digest"


@pytest.mark.parametrize("other", ["1.39.1", "1.40.0"])
def test_in_another_flower_it_ends(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.install_from_fab
    monkeypatch.setattr(gated_clientapp, "version", lambda name: other)
    with pytest.raises(SystemExit, match=f"found {other}"):
        gated_clientapp.install_nothing()
    assert run.install_from_fab is before


def test_where_flower_installs_differently_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(run, "install_from_fab")
    with pytest.raises(SystemExit):
        gated_clientapp.install_nothing()


@pytest.mark.parametrize("program", [gated_clientapp, preload_server])
def test_both_programs_leave_installing_out(program: object) -> None:
    """The one that a fork runs, and the one that takes its place."""
    path = program.__file__  # type: ignore[attr-defined]
    call = "main" if program is gated_clientapp else "load"
    code = (
        "import sys, importlib, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('program', {path!r})\n"
        "program = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(program)\n"
        "sys.argv = ['program', 'flwr-clientapp', '--help']\n"
        "program.MODULES = ()\n"
        f"try: program.{call}()\n"
        "except SystemExit: pass\n"
        f"run = importlib.import_module({gated_clientapp._RUN!r})\n"
        "print(run.install_from_fab(b'', skip_prompt=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1] == "None", done.stderr
