"""Assembles the ``lumos`` command; every sub-command lives in a module of its own.

All of them are imported before a command line is read. So none imports torch, flwr or transformers
outside its function: ``lumos --help`` must not wait for them.
"""

import io
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from lumos_core.cli.attack import attack_command
from lumos_core.cli.audit import audit_command
from lumos_core.cli.compare import compare_command
from lumos_core.cli.deploy import deploy_app
from lumos_core.cli.doctor import doctor_command
from lumos_core.cli.node import node_app
from lumos_core.cli.prepare import prepare_command
from lumos_core.cli.recommend import export_command, recommend_command
from lumos_core.cli.run import run_command, simulate_command
from lumos_core.cli.status import status_command
from lumos_core.cli.train_central import train_central_command
from lumos_core.cli.views import llm_app, views_app
from lumos_core.errors import LumosError, reason_of

app = typer.Typer(
    name="lumos",
    help="Federated sequential recommendation with local LLM views.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("prepare")(prepare_command)
app.command("run")(run_command)
app.command("simulate")(simulate_command)
app.command("train-central")(train_central_command)
app.command("compare")(compare_command)
app.command("attack")(attack_command)
app.command("audit")(audit_command)
app.command("recommend")(recommend_command)
app.command("export")(export_command)
app.command("status")(status_command)
app.command("doctor")(doctor_command)
app.add_typer(deploy_app, name="deploy")
app.add_typer(node_app, name="node")
app.add_typer(llm_app, name="llm")
app.add_typer(views_app, name="views")


_VERSIONS = ("torch", "flwr", "transformers")
"""Packages on which results and the protocol depend."""


def _show_version(wanted: bool) -> None:
    """Print versions, by the packages' metadata alone, and end."""
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from lumos_core import __version__

    typer.echo(f"lumos {__version__}")
    typer.echo(f"Python {python_version()}")
    for package in _VERSIONS:
        try:
            typer.echo(f"{package} {version(package)}")
        except PackageNotFoundError:
            typer.echo(f"{package} not installed")
    raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show versions and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Federated sequential recommendation with local LLM views."""


def main() -> None:
    """Entry point: errors a user can act on are printed without a traceback, exit code 1.

    :func:`lumos_core.__main__.main` calls it, and answers for Ctrl-C while this module is loading.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # titles, dashes and bars on an ASCII terminal
    try:
        app()
    except LumosError as error:
        _fail(str(error))
    except OSError as error:  # a path below a file, a folder of somebody else, a full disk; but
        # not a pipe whose reader has gone: typer ends quietly by itself then
        _fail(_told(error))


def _fail(text: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(text)}")
    sys.exit(1)


def _told(error: OSError) -> str:
    """What the system refused, and for which file."""
    reason = reason_of(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"
