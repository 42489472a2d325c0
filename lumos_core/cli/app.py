"""The ``lumos`` command, assembled from the modules of its sub-commands.

A module is imported when its command is called, so ``lumos --help`` waits for none of them.
``lumos COMMAND --help`` waits for what that module imports at its top. This includes none of torch,
polars, flwr and transformers: they are imported inside the functions that need them.
"""

import io
import sys
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from lumos_core import __version__
from lumos_core.cli.lazy import LazyCommand, LazyGroup
from lumos_core.errors import LumosError, reason_of


class LumosGroup(LazyGroup):
    """The commands of ``lumos``, as ``lumos --help`` lists them."""

    lazy = (
        LazyCommand(
            "prepare",
            "lumos_core.cli.prepare:prepare_command",
            "Turn a data set into a catalog and one data folder per node.",
        ),
        LazyCommand(
            "run",
            "lumos_core.cli.run:run_command",
            "Run a federation of real processes over gRPC on this computer.",
        ),
        LazyCommand(
            "simulate",
            "lumos_core.cli.run:simulate_command",
            "Run the same federation without a network: virtual nodes of Flower, or one process.",
        ),
        LazyCommand(
            "train-central",
            "lumos_core.cli.train_central:train_central_command",
            "Train SASRec on all nodes' data in one place, and measure the popularity baseline.",
        ),
        LazyCommand(
            "compare",
            "lumos_core.cli.compare:compare_command",
            "Run methods, ablations and controls under equal conditions; write results, table, "
            "picture.",
        ),
        LazyCommand(
            "attack",
            "lumos_core.cli.attack:attack_command",
            "Run suites of attacks on federations; write results, a table and a heat map.",
        ),
        LazyCommand(
            "audit",
            "lumos_core.cli.audit:audit_command",
            "Guess the items of a node's users from its delta, with and without defences.",
        ),
        LazyCommand(
            "recommend",
            "lumos_core.cli.recommend:recommend_command",
            "Recommend items to users of this node, from their local histories. Nothing is sent.",
        ),
        LazyCommand(
            "serve",
            "lumos_core.cli.serve:serve_command",
            "Answer requests for recommendations from local histories. Nothing is sent elsewhere.",
        ),
        LazyCommand(
            "export",
            "lumos_core.cli.recommend:export_command",
            "Write a run's best model as safetensors with its sizes, metrics and catalog "
            "fingerprint.",
        ),
        LazyCommand(
            "status",
            "lumos_core.cli.status:status_command",
            "Show a run: alive or not, rounds, metrics, nodes and what failed.",
        ),
        LazyCommand(
            "config",
            "lumos_core.cli.config:config_command",
            "Show the keys of a run and of a node: default, allowed values, meaning.",
        ),
        LazyCommand(
            "doctor",
            "lumos_core.cli.doctor:doctor_command",
            "Check this machine and print what is wrong. Exits 1 if anything fails.",
        ),
        LazyCommand(
            "deploy",
            "lumos_core.cli.deploy:deploy_app",
            "A federation across machines: credentials, nodes, server.",
        ),
        LazyCommand("node", "lumos_core.cli.node:node_app", "A node on this machine."),
        LazyCommand("llm", "lumos_core.cli.views:llm_app", "The local language model."),
        LazyCommand(
            "views",
            "lumos_core.cli.views:views_app",
            "The views that the language model writes of users' histories.",
        ),
    )


app = typer.Typer(
    name="lumos",
    help="Federated sequential recommendation with local LLM views.",
    cls=LumosGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


_VERSIONS = ("torch", "flwr", "transformers")
"""Packages on which results and the protocol depend."""


def _show_version(wanted: bool) -> None:
    """Print versions and exit. They come from the packages' metadata: nothing is imported."""
    if not wanted:
        return
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

    :func:`lumos_core.__main__.main` calls it; it handles Ctrl-C while this module is imported.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # titles, dashes and bars on an ASCII terminal
    try:
        app()
    except LumosError as error:
        _fail(str(error))
    except OSError as error:  # a path below a file, a folder of somebody else, a full disk. A pipe
        # without a reader does not get here: typer exits quietly by itself
        _fail(_describe(error))


def _fail(text: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(text)}")
    sys.exit(1)


def _describe(error: OSError) -> str:
    """The file, and the system's reason for refusing it."""
    reason = reason_of(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"
