"""``lumos node``: a node of a federation across machines."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lumos_core.cli.options import assignments, with_options
from lumos_core.deployment.folders import NodeBundle
from lumos_core.deployment.node_supervisor import check, keep_running
from lumos_core.views.llm.find import BUNDLED

node_app = typer.Typer(name="node", help="A node on this machine.", no_args_is_help=True)

Bundle = Annotated[Path, typer.Argument(help="This node's folder from 'lumos deploy init'.")]
Data = Annotated[Path | None, typer.Option(help="Folder with catalog.tsv and interactions.tsv.")]
State = Annotated[
    Path | None, typer.Option(help="Folder for views, ledger and logs (default: DATA/state).")
]
SuperLink = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The server, if not the one in node.toml.")
]
Llm = Annotated[str | None, typer.Option(help="Local LLM, if not the one of the run.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help="Any key of node.toml; repeatable."),
]


@node_app.command("start")
def start_command(
    bundle: Bundle,
    data: Data = None,
    state: State = None,
    superlink: SuperLink = None,
    llm: Llm = None,
    settings: Settings = None,
    runtime_port: Annotated[
        int, typer.Option(min=0, help="Loopback port for this node's processes; 0: any free one.")
    ] = 0,
) -> None:
    """Take part until interrupted; a process that dies is started again.

    Data, key and certificate are checked before anything starts. While the server cannot be
    reached, the node waits for it. It runs the LUMOS that is installed here, and no other app that
    the server sends, unless approved-apps in node.toml has the app's digest.
    """
    console = Console(soft_wrap=True)
    ready = _checked(bundle, data, state, superlink, llm, settings, console)
    try:
        keep_running(ready, runtime_port, console)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; every process was ended[/]")
        raise typer.Exit(130) from None


@node_app.command("check")
def check_command(
    bundle: Bundle,
    data: Data = None,
    state: State = None,
    superlink: SuperLink = None,
    llm: Llm = None,
    settings: Settings = None,
) -> None:
    """Check what 'lumos node start' would check, and start nothing."""
    console = Console(soft_wrap=True)
    _checked(bundle, data, state, superlink, llm, settings, console)
    console.print("[green]ready[/]")


@node_app.command("app-digest")
def app_digest_command(
    fab: Annotated[
        Path | None,
        typer.Argument(help="An app as 'flwr build' writes it (default: the installed LUMOS)."),
    ] = None,
) -> None:
    """Print the digest of an app, for approved-apps in node.toml.

    Server and node have the same LUMOS if the digests are equal. A node that refuses another app
    prints that one's digest.
    """
    from lumos_core.flower import commands

    typer.echo(commands.app_digest(fab))


def _absolute(llm: str) -> str:
    """The absolute path of a model that is a file or folder, as the node's processes run in another
    folder; the name of any other model is unchanged."""
    path = Path(llm).expanduser()
    return str(path.resolve()) if llm != BUNDLED and path.exists() else llm


def _checked(
    bundle: Path,
    data: Path | None,
    state: Path | None,
    superlink: str | None,
    llm: str | None,
    settings: list[str] | None,
    console: Console,
) -> NodeBundle:
    options = {
        "data": str(data.resolve()) if data else None,
        "state": str(state.resolve()) if state else None,
        "superlink": superlink,
        "llm": _absolute(llm) if llm else None,
    }
    changes = with_options(assignments(settings or []), options)
    ready = NodeBundle.read(bundle, changes)
    for line in check(ready):
        console.print(line)
    return ready
