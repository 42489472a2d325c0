"""The start of ``lumos``: quick, quiet when it is interrupted, and never at a loss for a letter."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lumos_core

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "flwr", "transformers", "ray", "polars", "scipy", "sklearn", "matplotlib")

COMMANDS = [
    "", "prepare", "run", "simulate", "train-central", "compare", "attack", "audit", "recommend",
    "serve",
    "export", "status", "config", "doctor",
    "deploy", "deploy init", "deploy add-node", "deploy remove-node", "deploy rotate-node",
    "deploy renew", "deploy server", "deploy demo",
    "node", "node init", "node start", "node check", "node app-digest", "node policy",
    "node page", "node pause", "node resume", "node forget", "node ingest", "node ledger",
    "catalog", "catalog build", "catalog extend", "catalog show",
    "llm", "llm check",
    "views", "views build", "views show", "views list", "views gc",
]  # fmt: skip
"""All that can be asked for help, as they are listed."""

EVERY_HELP = f"""
import contextlib, io, sys
import click, typer
from lumos_core.cli.app import app

def helps(command, path):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        app([*path, "--help"])
    assert "Usage" in out.getvalue(), path
    print(*path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            helps(command.resolve_command(context, [name])[1], [*path, name])

helps(typer.main.get_command(app), [])
print("heavy:", *(name for name in {HEAVY!r} if name in sys.modules))
"""

ALL_COMMANDS = """
import contextlib, sys
from lumos_core.__main__ import main

sys.argv = ["lumos", "--help"]
with contextlib.suppress(SystemExit):
    main()
print(*sorted(name for name in sys.modules if name.split(".")[0] == "lumos_core"), file=sys.stderr)
print(*(name for name in ("numpy", "pydantic") if name in sys.modules), file=sys.stderr)
"""

INTERRUPTED = """
import importlib.abc, os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests' parent ignores it
module, how, *arguments = sys.argv[1:]

class Interrupts(importlib.abc.MetaPathFinder):
    '''Ctrl-C while a module is being loaded; a library may make another error of it, or lose it.'''
    def find_spec(self, name, path=None, target=None):
        if name != module:
            return None
        if how == "lost":
            class Lost:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
            Lost()
            return None
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            if how == "turned":
                raise ImportError("initialisation failed") from None
            raise

sys.meta_path.insert(0, Interrupts())
from lumos_core.__main__ import main
sys.argv = ["lumos", *arguments]
main()
"""


def python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class TestHelp:
    def test_no_help_waits_for_a_heavy_library(self) -> None:
        found = python("-c", EVERY_HELP)
        assert found.returncode == 0, found.stderr
        *commands, heavy = found.stdout.splitlines()
        assert commands == COMMANDS
        assert heavy == "heavy:"

    def test_the_list_of_commands_waits_for_none_of_them(self) -> None:
        found = python("-c", ALL_COMMANDS)
        assert "train-central" in found.stdout
        ours, others = found.stderr.splitlines()
        assert ours.split() == [
            "lumos_core", "lumos_core.__main__", "lumos_core.cli", "lumos_core.cli.app",
            "lumos_core.cli.lazy", "lumos_core.errors",
        ]  # fmt: skip
        assert others == ""

    def test_a_run_s_status_needs_no_torch(self, tmp_path: Path) -> None:
        (tmp_path / "summary.json").write_text('{"outcome": "completed", "method": "fedavg"}')
        (tmp_path / "config.json").write_text('{"run": {"method": "fedavg", "rounds": 3}}')
        code = (
            "import sys; from lumos_core.runs.status import status_of; from pathlib import Path; "
            f"print(status_of(Path({str(tmp_path)!r})).state, 'torch' in sys.modules)"
        )
        assert python("-c", code).stdout.split() == ["completed", "False"]


class TestVersion:
    def test_versions_are_told_without_loading_what_they_are_of(self) -> None:
        found = python("-X", "importtime", "-m", "lumos_core", "--version")
        assert found.returncode == 0
        assert found.stdout.splitlines()[:2] == [
            f"lumos {lumos_core.__version__}",
            f"Python {sys.version.split()[0].rstrip('+')}",
        ]
        assert f"torch {version('torch')}" in found.stdout
        assert f"flwr {version('flwr')}" in found.stdout
        assert not re.search(r"\| +(torch|flwr|transformers)\n", found.stderr)

    def test_there_is_one_version(self) -> None:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["version"] == lumos_core.__version__


class TestInterrupts:
    @pytest.mark.parametrize("how", ["raised", "turned", "lost"])
    @pytest.mark.parametrize(
        ("module", "arguments"),
        [
            ("lumos_core.cli.app", ["--help"]),
            ("typer", ["--help"]),
            ("lumos_core.cli.run", ["run", "--help"]),
            ("pydantic", ["run", "--help"]),
            ("torch", ["train-central", "x", "--out", "y"]),
            ("numpy", ["prepare", "sample", "--out", "y"]),
        ],
    )
    def test_ctrl_c_while_loading_is_one_line(
        self, module: str, arguments: list[str], how: str
    ) -> None:
        found = python("-c", INTERRUPTED, module, how, *arguments)
        assert found.returncode == 130
        assert found.stderr == "interrupted\n"
        assert found.stdout == ""

    def test_a_command_s_own_words_are_not_added_to(self) -> None:
        code = (
            "import sys, typer; from lumos_core.cli import app\n"
            "from lumos_core.__main__ import main\n"
            "@app.app.command('own')\n"
            "def own() -> None:\n"
            "    try:\n"
            "        raise KeyboardInterrupt\n"
            "    except KeyboardInterrupt:\n"
            "        typer.echo('safe')\n"
            "        raise typer.Exit(130) from None\n"
            "sys.argv = ['lumos', 'own']; main()\n"
        )
        found = python("-c", code)
        assert (found.returncode, found.stdout, found.stderr) == (130, "safe\n", "")

    def test_where_interrupts_are_ignored_they_stay_so(self) -> None:
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "from lumos_core.__main__ import main\n"
            "sys.argv = ['lumos', '--version']\n"
            "try: main()\n"
            "finally: print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)\n"
        )
        assert python("-c", code).stdout.splitlines()[-1] == "True"

    def test_errors_stay_errors(self) -> None:
        found = python("-m", "lumos_core", "status", "/nonexistent")
        assert found.returncode == 1
        assert found.stderr.startswith("error: /nonexistent")


class TestAscii:
    @pytest.mark.parametrize(
        "environment",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        ],
    )
    def test_what_an_ascii_terminal_lacks_is_replaced(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        run = tmp_path / "läufe"
        run.mkdir()
        (run / "summary.json").write_text(
            '{"outcome": "failed", "method": "fedavg", "reason": "ε → ∞ – Ж"}', "utf-8"
        )
        found = python("-m", "lumos_core", "status", str(run), **environment)
        assert found.returncode == 1
        assert "Unicode" not in found.stderr
        assert "? ? ? ? ?" in found.stdout
        missing = python("-m", "lumos_core", "status", str(run / "ж"), **environment)
        assert (missing.returncode, missing.stderr[:7]) == (1, "error: ")
        assert python("-m", "lumos_core", "run", "--help", **environment).returncode == 0


def test_ctrl_c_in_an_exec_of_text_is_an_exit_code_too(tmp_path: Path) -> None:
    """CPython would end by the signal, without the code."""
    (tmp_path / "interrupted.py").write_text(
        "import signal, lumos_core.cli.app as app, lumos_core.__main__ as start\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "app.main = lambda: exec('signal.raise_signal(signal.SIGINT)')\n"
        "start.main()\n"
    )
    found = python("-m", "interrupted", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (found.returncode, found.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no signals")
def test_a_real_ctrl_c_in_the_first_second(tmp_path: Path) -> None:
    """Whenever it comes: one line, or the command's own end."""
    import time

    for wait in (0.3, 0.6, 1.2):
        process = subprocess.Popen(
            [sys.executable, "-m", "lumos_core", "llm", "check"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LUMOS_CACHE": str(tmp_path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert errors == "interrupted\n"  # of the command itself, there was nothing to say
